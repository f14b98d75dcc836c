"""Connecting until the deadline, one thread of the process at a time."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from django.db.utils import Error, OperationalError, ProgrammingError

from .. import signals
from ..driver.exceptions import failure, first_line, judge_error
from ..errors import CredentialsUnavailable, ServerDown, SessionLost
from ..policy import circuit_breaker, messages
from ..policy.circuit_breaker import Turn
from ..policy.rules import Budget, backoff
from ..policy.token_bucket import BUCKET
from ..policy.verdicts import Phase, Verdict
from ..state import announce
from ..state.logins import ROTATES, was_refused
from ..state.wrapper import Wrapper
from . import fork  # noqa: F401  registers itself
from .budgets import deadline, spending
from .offline import in_offline_command

if TYPE_CHECKING:
    from .background import Attempt

# Rules of ``error_table.TABLE`` for an attempt that ended without a word.
_CUT: Final = frozenset({"cut", "closed by the server", "broken stream"})
# Not about the server. Django raises ProgrammingError for a closed connection in an atomic block.
_OWN: Final = (CredentialsUnavailable, ProgrammingError, SessionLost)


def connect(db: Wrapper, attempt: Callable[[], None]) -> None:
    """Connect; after a transient failure, again until the budget is spent.

    ``attempt`` makes one attempt. While the server is down one thread of the process at a time
    makes them; the others wait here for its verdict. Waiting costs tokens: when the bucket is
    empty nothing waits.

    Raises:
        ServerDown: this thread has not asked, because another one does or has just done so.
        Error: the last attempt's own error.
    """
    if db._transaction.announcements:
        announce.tell_kept(db)  # of a transaction in which the connection was closed
    terms, budget = db.resilience.terms, db._connector.budget
    if terms is None or budget is not None or terms.shared.probe.down:
        _connect(db, attempt)
        return
    # A pool has lent before, and its server is not known to be down.
    probe, began = terms.shared.probe, monotonic()
    try:
        attempt()
    except Error as error:
        one = _Attempt(db, attempt)
        one.began = began
        one.conclude(Turn.FREE, error)
        _after(db, one, error)
    else:
        if probe.down:  # by now
            _Attempt(db, attempt).answered(Turn.FREE)


def _connect(db: Wrapper, attempt: Callable[[], None]) -> None:
    budget = db._connector.budget
    one = _Attempt(db, attempt)
    if budget is not None and budget.strict and not budget.remaining():
        raise one.refusal(waits=False)
    try:
        one()
    except Error as error:
        _after(db, one, error)


def _after(db: Wrapper, one: _Attempt, error: Error) -> None:
    """An attempt has failed: raise its error, or make others until the budget is spent."""
    if not one.passing(error):
        one.explain(error)
        raise error
    if in_offline_command():
        raise error
    with spending(db, monotonic() - one.began) as budget:
        if one.remaining(budget) and not BUCKET.take():
            if not one.unreachable:
                raise error
            asked = None if isinstance(error, ServerDown) else error
            raise one.refusal(waits=False) from asked
        one.go_on(error, budget)


def ended_unheard(db: Wrapper, error: Error) -> None:
    """A session ended at its first statement: the server lets clients log in, and no more.

    From now on one thread at a time logs in, and an answer ends that, not a login.
    """
    mark_unheard(error)
    one = _Attempt(db, _nothing)
    one.probe.mute = True
    one.conclude(Turn.FREE, error)


def _nothing() -> None:
    pass


def mark_unheard(error: Error) -> None:
    """An error of a session that was ended before the server said anything on it."""
    error.unheard = True  # type: ignore[attr-defined]


def _marked(error: BaseException, mark: str) -> bool:
    """Whether an error is marked so, or the driver's error that it is a translation of."""
    return any(getattr(one, mark, False) for one in (error, error.__cause__))


def _is_refusal(error: BaseException) -> bool:
    """Whether a server, or what stands for it, has refused a connection.

    Not what a ``connection_created`` receiver has run on it, which has failed with an SQLSTATE, and
    nothing that Django says by itself.
    """
    if not (isinstance(error, OperationalError) and _marked(error, "not_connected")):
        return False
    found = failure(error, Phase.CONNECT, connection_lost=None)
    return found.sqlstate is None or found.severity in {"FATAL", "PANIC"}


def _left(error: BaseException | None) -> Attempt | None:
    """The attempt that a deadline has left with this error of the driver's, if any."""
    if getattr(error, "left", None) is None:
        return None
    from .background import left

    return left(error)


class _Attempt:
    """One attempt to connect at a time, if it is this thread's turn."""

    def __init__(self, db: Wrapper, attempt: Callable[[], None]) -> None:
        self._db, self._attempt = db, attempt
        self.probe = db.resilience.shared_now().probe
        self.began = monotonic()
        self._refused_at: float | None = None
        self._said: Error | None = None
        #: Whether the last failure was of reaching the server, not of what it was told.
        self.unreachable = False

    def __call__(self) -> None:
        turn = self.probe.begin()
        if turn is Turn.WAIT:
            raise self.refusal(waits=True)
        db = self._db
        if not db._pooled:  # a pool counts its own
            db.resilience.shared.count("attempt")
        try:
            if self.probe.mute:
                # A pool's connection is judged anew, and so asked.
                self._db.resilience.terms = None
            self._attempt()
        except Error as error:
            self.conclude(turn, error)
            raise
        except BaseException:
            self.probe.interrupted(turn)
            raise
        self.answered(turn)

    def conclude(self, turn: Turn, error: Error) -> None:
        """A failed attempt is a verdict on the server, unless the server said no by itself.

        One that a deadline has left is a verdict when it has ended.
        """
        if (attempt := _left(error.__cause__)) is not None:
            attempt.then(partial(self._conclude_left, turn))
        elif self._is_down(error):
            self._failed(turn, error)
        else:
            self.answered(turn)

    def _conclude_left(self, turn: Turn, error: BaseException | None) -> None:
        """As :meth:`conclude`, by the driver's own error; ``None``: it has connected."""
        if error is not None and self._is_worth_waiting(judge_error(None, error, Phase.CONNECT)):
            self._failed(turn, error)
        else:
            self.answered(turn)

    def _failed(self, turn: Turn, error: BaseException) -> None:
        line = first_line(error, self._db.settings_dict)
        if self.probe.down and _marked(error, "cut_short"):
            line = self.probe.said
        if self.probe.failed(turn, line, self._pause):
            text = 'Server of "%s" is not accepting connections: %s'
            announce.log(self._db, logging.INFO, text, self._db.alias, line, at_once=True)

    def answered(self, turn: Turn) -> None:
        """The server has answered, if only to refuse."""
        seconds = self.probe.answered(turn)
        if seconds is not None:
            announce.log(
                self._db,
                logging.INFO,
                'Server of "%s" is accepting connections again after %s.',
                self._db.alias,
                messages.seconds(seconds),
                took=seconds,
            )

    def _pause(self, failures: int) -> float:
        """Seconds to the next attempt of all threads."""
        options = self._db.resilience.options
        return circuit_breaker.pause(
            failures, base=options.backoff, most=options.max_backoff, random=random.random
        )

    def _wait(self, attempt: int) -> float:
        """Seconds until this thread tries again."""
        if self.unreachable:
            return self.probe.due_in()
        # It is the credentials that are waited for.
        options = self._db.resilience.options
        return backoff(
            attempt, base=options.backoff, most=options.max_backoff, random=random.random
        )

    def _sleep(self, seconds: float) -> None:
        if self.unreachable:
            self.probe.wait(seconds)
        else:
            sleep(seconds)

    def passing(self, failed: BaseException) -> bool:
        """Whether a failure is worth another attempt."""
        self.unreachable = isinstance(failed, ServerDown) or self._is_down(failed)
        if isinstance(failed, CredentialsUnavailable):
            return failed.passing
        if isinstance(failed, SessionLost):
            return False
        if self._refused(failed):
            # From the first refusal on: a login may itself take longer than that.
            if self._refused_at is None:
                self._refused_at = monotonic()
            return monotonic() - self._refused_at < ROTATES
        return self.unreachable

    def _refused(self, failed: BaseException) -> bool:
        """Whether the server refused credentials that may have been changed just now."""
        if not self._db.resilience.options.credentials or not isinstance(failed, Error):
            return False
        return was_refused(failed)

    def _is_down(self, failed: BaseException) -> bool:
        """Whether the server could not be reached, for now."""
        if not isinstance(failed, Error) or isinstance(failed, _OWN):
            return False
        if getattr(failed.__cause__, "final", False):
            return False
        verdict = judge_error(None, failed, Phase.CONNECT)
        if _marked(failed, "unheard"):
            return not verdict.final
        refused = _is_refusal(failed)
        worth = self._is_worth_waiting(verdict) if refused else verdict.transient
        return worth and not verdict.final

    def _is_worth_waiting(self, verdict: Verdict) -> bool:
        if verdict.final or self._has_connected():
            return not verdict.final
        direct = self._db._connector.direct and verdict.rule in _CUT
        return verdict.transient and not direct

    def _has_connected(self) -> bool:
        """Whether the alias has connected before, with the settings that it has now."""
        db = self._db
        return db.resilience.shared.connected == db._connector.settings

    def explain(self, error: Error) -> None:
        """Say why a refusal that nobody knows is not waited for."""
        db = self._db
        if isinstance(error, (ServerDown, *_OWN)) or _marked(error, "final"):
            return
        verdict = judge_error(None, error, Phase.CONNECT)
        if not verdict.final and _is_refusal(error):
            direct = db._connector.direct and verdict.rule in _CUT
            error.add_note(
                messages.direct_tls(db.alias) if direct else messages.never_connected(db.alias)
            )

    def refusal(self, *, waits: bool) -> ServerDown:
        """What this thread raises, or waits with, instead of asking."""
        probe = self.probe
        due = None if probe.asking else probe.due_in()
        alias = self._db.alias
        error = ServerDown(messages.down(alias, probe.said, due, waits=waits), due=due or 0.0)
        error.database_alias = alias  # type: ignore[attr-defined]
        return error

    def go_on(self, error: Error, budget: Budget) -> None:
        """Wait and try, in turn with the other threads, until the budget is spent."""
        self._said = error
        try:
            from .backoff import connect_again  # with tenacity

            connect_again(
                self,
                error,
                passing=self.passing,
                wait=self._wait,
                remaining=partial(self.remaining, budget),
                announce=self._announce,
                sleep=self._sleep,
            )
        except Error as last:
            last = self._telling(last)
            if self.passing(last):
                last.transient = True  # type: ignore[attr-defined]
                note = self._why_over(budget)
                last.add_note(note)
                # Once for each outage. An attempt that a deadline has left is no outage yet.
                if not self.probe.surfaced and _left(last.__cause__) is None:
                    self.probe.surfaced = True
                    announce.outage(self._db, note)
            else:
                self.explain(last)
            raise last
        finally:
            self._said = None  # its traceback leads here

    def _telling(self, last: Error) -> Error:
        """Of an attempt that was cut short the error says nothing: the one before it does."""
        return (self._said or last) if _marked(last, "cut_short") else last

    def remaining(self, budget: Budget) -> float:
        """Seconds to wait for the server: the deadline counts from the start of the outage."""
        return max(0.0, min(budget.remaining(), self._patience(budget) - self.probe.down_for()))

    def _patience(self, budget: Budget) -> float:
        """Seconds that an outage is waited out: more where somebody has asked for that."""
        return max(deadline(self._db), budget.seconds)

    def _why_over(self, budget: Budget) -> str:
        db, down_for = self._db, self.probe.down_for()
        patience = self._patience(budget)
        # Both are used up where the last attempt took longer than was left: then it was the wait.
        if max(0.0, patience - down_for) < budget.remaining():
            return messages.long_down(db.alias, down_for, patience, time.time() - down_for)
        waited = monotonic() - self.began
        return messages.unreachable(db.alias, waited, budget.bound)

    def _announce(self, _: int, wait: float, failed: BaseException) -> None:
        if isinstance(failed, ServerDown):
            return  # announced by the thread that asked
        if isinstance(failed, Error) and not _marked(failed, "cut_short"):
            self._said = failed
        db = self._db
        line = first_line(failed, db.settings_dict)
        db.resilience.shared.count("connect")
        record = signals.ConnectRetried(db.alias, self.probe.failures, wait, line)
        announce.send(db, signals.connect_retried, record)
