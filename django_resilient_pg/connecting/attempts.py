"""What follows a failed attempt: others until the deadline, one thread of the process at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep

from django.db.utils import Error

from .. import signals
from ..driver.exceptions import first_line
from ..errors import CredentialsUnavailable, ServerDown, SessionLost
from ..policy import messages
from ..policy.circuit_breaker import Permit
from ..policy.rules import Budget, backoff, pace
from ..policy.token_bucket import BUCKET
from ..state import announce
from ..state.logins import ROTATES
from ..state.wrapper import Wrapper
from .background import left
from .budgets import deadline, spending
from .failed import explain, is_down, is_worth_waiting, may_rotate, was_cut_short
from .offline import in_offline_command
from .settle import mark_unheard


def connect(db: Wrapper, attempt: Callable[[], None]) -> None:
    """Connect in turn with other threads, or within a budget; see :func:`.connect.connect`."""
    budget = db._connector.budget
    one = _Attempt(db, attempt)
    if budget is not None and budget.strict and not budget.remaining():
        raise one.refusal(waits=False)
    try:
        one()
    except Error as error:
        _after(db, one, error)


def after(db: Wrapper, attempt: Callable[[], None], began: float, error: Error) -> None:
    """An attempt has failed that was made while the server was not known to be down."""
    one = _Attempt(db, attempt)
    one.began = one._tried_at = began
    one.conclude(Permit.FREE, error)
    _after(db, one, error)


def answered(db: Wrapper, attempt: Callable[[], None]) -> None:
    """Such an attempt has succeeded, and the server is known to be down by now."""
    _Attempt(db, attempt).answered(Permit.FREE)


def _after(db: Wrapper, one: _Attempt, error: Error) -> None:
    """An attempt has failed: raise its error, or make others until the budget is spent."""
    if not one.passing(error):
        explain(db, error)
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
        BUCKET.refund(BUCKET.COST)


def ended_unheard(db: Wrapper, error: Error) -> None:
    """A session ended at its first statement: the server lets clients log in, and no more.

    From now on one thread at a time logs in, and an answer ends that, not a login.
    """
    mark_unheard(error)
    one = _Attempt(db, _nothing)
    one.breaker.mute = True
    one.conclude(Permit.FREE, error)


def _nothing() -> None:
    pass


class _Attempt:
    """One attempt to connect at a time, if this thread has a permit."""

    def __init__(self, db: Wrapper, attempt: Callable[[], None]) -> None:
        self._db, self._attempt = db, attempt
        self.breaker = db.resilience.shared_now().breaker
        self.began = self._tried_at = monotonic()
        self._refused_at: float | None = None
        self._said: Error | None = None
        #: Whether the last failure was of reaching the server, not of what it was told.
        self.unreachable = False

    def __call__(self) -> None:
        permit = self.breaker.begin()
        if permit is Permit.WAIT:
            raise self.refusal(waits=True)
        self._tried_at = monotonic()
        db = self._db
        if not db._pooled:  # a pool counts its own
            db.resilience.shared.count("attempt")
        try:
            if self.breaker.mute:
                # A pool's connection is judged anew, and so asked.
                self._db.resilience.terms = None
            self._attempt()
        except Error as error:
            self.conclude(permit, error)
            raise
        except BaseException:
            self.breaker.interrupted(permit)
            raise
        self.answered(permit)

    def conclude(self, permit: Permit, error: Error) -> None:
        """A failed attempt is a verdict on the server, unless the server said no by itself.

        One that a deadline has left is a verdict when it has ended.
        """
        if (attempt := left(error.__cause__)) is not None:
            attempt.then(partial(self._conclude_left, permit))
        elif is_down(self._db, error):
            self._failed(permit, error)
        else:
            self.answered(permit)

    def _conclude_left(self, permit: Permit, error: BaseException | None) -> None:
        """As :meth:`conclude`, by the driver's own error; ``None``: it has connected."""
        if error is not None and is_worth_waiting(self._db, error):
            self._failed(permit, error)
        else:
            self.answered(permit)

    def _failed(self, permit: Permit, error: BaseException) -> None:
        line = first_line(error, self._db.settings_dict)
        if self.breaker.down and was_cut_short(error):
            line = self.breaker.said
        if self.breaker.failed(permit, line, self._pause):
            text = 'Server of "%s" is not accepting connections: %s'
            announce.log(self._db, logging.INFO, text, self._db.alias, line, at_once=True)

    def answered(self, permit: Permit) -> None:
        """The server has answered, if only to refuse."""
        seconds = self.breaker.answered(permit)
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
        lasted = self.breaker.down_for()
        return pace(failures, lasted, base=options.backoff, most=options.max_backoff)

    def _wait(self, attempt: int) -> float:
        """Seconds until this thread tries again."""
        if self.unreachable:
            return self.breaker.due_in()
        # It is the credentials that are waited for.
        options = self._db.resilience.options
        return backoff(attempt, base=options.backoff, most=options.max_backoff)

    def _sleep(self, seconds: float) -> None:
        if self.unreachable:
            self.breaker.wait(seconds)
        else:
            sleep(seconds)

    def passing(self, failed: BaseException) -> bool:
        """Whether a failure is worth another attempt."""
        self.unreachable = isinstance(failed, ServerDown) or is_down(self._db, failed)
        if isinstance(failed, CredentialsUnavailable):
            return failed.passing
        if isinstance(failed, SessionLost):
            return False
        if may_rotate(self._db, failed):
            return self._is_rotating()
        return self.unreachable

    def _is_rotating(self) -> bool:
        """Whether the refused credentials were asked for when they may just have been changed.

        That is for a while from the first refusal on, and anew once others have been accepted: a
        login may itself take longer than that, and they may be changed again meanwhile.
        """
        if self._refused_at is None:
            self._refused_at = monotonic()
        accepted_at = self._db.resilience.shared.logins.accepted_at
        return self._tried_at - max(self._refused_at, accepted_at) < ROTATES

    def refusal(self, *, waits: bool) -> ServerDown:
        """What this thread raises, or waits with, instead of asking."""
        breaker = self.breaker
        due = None if breaker.asking else breaker.due_in()
        alias = self._db.alias
        error = ServerDown(messages.down(alias, breaker.said, due, waits=waits), due=due or 0.0)
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
                if not self.breaker.surfaced and left(last.__cause__) is None:
                    self.breaker.surfaced = True
                    announce.outage(self._db, note)
            else:
                explain(self._db, last)
            raise last
        finally:
            self._said = None  # its traceback leads here

    def _telling(self, last: Error) -> Error:
        """Of an attempt that was cut short the error says nothing: the one before it does."""
        return (self._said or last) if was_cut_short(last) else last

    def remaining(self, budget: Budget) -> float:
        """Seconds to wait for the server: the deadline counts from the start of the outage."""
        return max(0.0, min(budget.remaining(), self._patience(budget) - self.breaker.down_for()))

    def _patience(self, budget: Budget) -> float:
        """Seconds that an outage is waited out: more where somebody has asked for that."""
        return max(deadline(self._db), budget.seconds)

    def _why_over(self, budget: Budget) -> str:
        db, down_for, waited = self._db, self.breaker.down_for(), monotonic() - self.began
        patience = self._patience(budget)
        # An outage that this thread has seen begin is bounded by its own wait, whatever the clock
        # says of two ends that are a moment apart.
        if down_for > waited and max(0.0, patience - down_for) < budget.remaining():
            return messages.long_down(db.alias, down_for, patience, time.time() - down_for)
        return messages.unreachable(db.alias, waited, budget.bound)

    def _announce(self, _: int, wait: float, failed: BaseException) -> None:
        if isinstance(failed, ServerDown):
            return  # announced by the thread that asked
        if isinstance(failed, Error) and not was_cut_short(failed):
            self._said = failed
        db = self._db
        line = first_line(failed, db.settings_dict)
        db.resilience.shared.count("connect")
        record = signals.ConnectRetried(db.alias, self.breaker.failures, wait, line)
        announce.send(db, signals.connect_retried, record)
