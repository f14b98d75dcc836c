"""Connecting within a budget, and what follows a new connection."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import monotonic, sleep
from typing import Any, Final

from django.db.utils import Error, OperationalError, ProgrammingError

from .. import deadlines, facts, signals
from ..conf.options import is_own
from ..conf.wanted import Wanted, wanted
from ..driver.choose import libpq_version
from ..driver.exceptions import failure, first_line, judge_error
from ..driver.link import Link
from ..errors import CredentialsUnavailable, ServerDown, SessionLost
from ..policy import circuit_breaker, messages, parameters, places
from ..policy.circuit_breaker import Turn
from ..policy.limits import jittered
from ..policy.rules import Budget, backoff
from ..policy.token_bucket import BUCKET
from ..policy.verdicts import Phase, Reason, Verdict
from ..providers import CONNECT_TIMEOUT
from ..state import announce
from ..state.logins import ROTATES, was_refused
from ..state.unit_of_work import UNIT
from ..state.wrapper import Wrapper
from . import (
    asgi,
    fork,  # noqa: F401  registers itself
    physical_attempt,
)
from .offline import in_offline_command

# Seconds after which host names are resolved anew.
_RESOLVED: Final = 60.0
# Rules of ``error_table.TABLE`` for an attempt that ended without a word.
_CUT: Final = frozenset({"cut", "closed by the server", "broken stream"})
# Not about the server. Django raises ProgrammingError for a closed connection in an atomic block.
_OWN: Final = (CredentialsUnavailable, ProgrammingError, SessionLost)
# For how many seconds the server has been up: since its start, or since its last recovery from a
# crash, at which it resets these statistics (see ``outcome``).
_UP: Final = (
    "SELECT EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)"
    " GREATEST(pg_catalog.pg_postmaster_start_time(),"
    " pg_catalog.pg_stat_get_bgwriter_stat_reset_time()))::pg_catalog.float8"
)


@contextlib.contextmanager
def spending(
    db: Wrapper, already: float = 0.0, seconds: float | None = None, words: str = ""
) -> Iterator[Budget]:
    """One budget for all that is waited for until the outermost user is done.

    Args:
        db: the wrapper.
        already: seconds that were spent before; a budget under way has counted them itself.
        seconds: of a new budget, in place of ``retry_deadline``.
        words: for people: what has set these.
    """
    if db._connector.budget is not None:
        yield db._connector.budget
        return
    if seconds is None:
        seconds = deadline(db)
        words = messages.bound("retry_deadline", seconds)
    with db._connector.spends(Budget(seconds - already, words=words)) as budget:
        yield budget


def deadline(db: Wrapper) -> float:
    """Seconds for reconnecting: no less than a sleeping server needs to wake."""
    seconds = db.resilience.options.retry_deadline
    wake = db._connector.wake
    return max(seconds, wake + CONNECT_TIMEOUT) if wake else seconds


def complete(db: Wrapper, params: dict[str, Any]) -> dict[str, Any]:
    """Add the libpq parameters the user did not set; keep each attempt within the budget.

    Raises:
        ImproperlyConfigured: an option is wrong; said before anything is sent.
    """
    for key in list(filter(is_own, params)):
        del params[key]
    connector = db._connector
    unused = connector.connecting and db._pooled and db.alias in db._connection_pools
    if unused and connector.wanted is not None:
        # Asked for every request: the pool has them. Who else asks (the diagnosis) gets them all.
        return params
    db.resilience.options  # noqa: B018  parsed, and so checked
    added = parameters.additions(params, os.environ)
    if connector.connecting or db._pooled:  # else it is asked what the user has set
        added |= parameters.default_root(params, os.environ, libpq_version(db.Database))
    primary = db.resilience.options.primary
    attributes = parameters.session_attributes(params, os.environ)
    reach = wanted(db.alias, primary, attributes)
    if primary and not attributes:
        added["target_session_attrs"] = "primary"  # so that libpq goes through all hosts
    # Where a sleeping server must wake first, connecting may take longer than a statement.
    wake = max(0.0, float(str(added.get("connect_timeout", 0))) - CONNECT_TIMEOUT)
    settings = hash(repr(sorted((params | added).items())))
    connector.planned(reach, wake, settings, direct=parameters.direct_tls(params, os.environ))
    return _bounded(db, params | added)


def _bounded(db: Wrapper, params: dict[str, Any]) -> dict[str, Any]:
    """No attempt may outlast the budget: libpq takes whole seconds, for each address."""
    connector = db._connector
    asked = not connector.connecting and connector.budget is None  # nobody connects now
    # A pool's connections outlive the budget of whoever needs the pool first.
    if db._pooled or asked or "connect_timeout" not in params:
        return params
    # What is no number stays: the driver says so itself.
    with contextlib.suppress(TypeError, ValueError):
        configured = float(params["connect_timeout"])
        every = _places(db, params)
        if len(every) == 1:
            left = _seconds_for_one(connector.budget)
        else:
            left = _seconds_for_each(db, every, params)
        # psycopg cuts a fraction off, and takes less than 1 for no limit.
        if configured > left or configured < 1:
            params["connect_timeout"] = int(min(left, max(configured, 1)))
    return params


def _seconds_for_one(budget: Budget | None) -> float:
    """For an only address. The first attempt has no budget: it has what is configured."""
    seconds = deadlines.left(hard=True) if budget is None else budget.remaining()
    return max(1, math.ceil(seconds)) if math.isfinite(seconds) else math.inf


def _seconds_for_each(db: Wrapper, every: Sequence[places.Place], params: dict[str, Any]) -> float:
    """For each of several addresses: all of them together end in time.

    Where there is too little time for all of them a retry is made on some, the next one on others.
    The first attempt tries them all: it may be the only one.
    """
    budget = db._connector.budget
    if budget is None:
        seconds = min(deadline(db), deadlines.left(hard=True))
        return max(places.LEAST, seconds // len(every)) if seconds else math.inf
    seconds = budget.remaining()
    number = max(1, min(len(every), int(seconds / places.LEAST)))
    if number < len(every):
        first = db.resilience.shared.probe.failures * number % len(every)
        params.update(places.only([*every[first:], *every[:first]][:number]))
    return max(places.LEAST, seconds // number)


def _places(db: Wrapper, params: dict[str, Any]) -> Sequence[places.Place]:
    """The addresses of an alias; names are resolved once a minute."""
    shared, now = db.resilience.shared_now(), monotonic()
    until, found = shared.places
    if now > until and math.isfinite(deadlines.left(hard=True)):
        # No deadline ends the resolution of a name here; it ends the attempt, in its own thread.
        return found or places.places(params, os.environ, resolve=lambda _: ())
    if now > until:
        found = places.places(params, os.environ)
        shared.places = now + _RESOLVED, found
    return found


def pause(db: Wrapper, failed: int, budget: Budget) -> None:
    """Wait before another round on a server that was there ``failed`` times, and gone again."""
    options = db.resilience.options
    wait = backoff(failed, base=options.backoff, most=options.max_backoff, random=random.random)
    sleep(min(wait, budget.remaining()))


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
    _mark_unheard(error)
    one = _Attempt(db, _nothing)
    one.probe.mute = True
    one.conclude(Turn.FREE, error)


def _nothing() -> None:
    pass


def _mark_unheard(error: Error) -> None:
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


class _Attempt:
    """One attempt to connect at a time, if it is this thread's turn."""

    def __init__(self, db: Wrapper, attempt: Callable[[], None]) -> None:
        self._db, self._attempt = db, attempt
        self.probe = db.resilience.shared_now().probe
        self.began = monotonic()
        self._refused_at: float | None = None
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
        if (attempt := physical_attempt.left(error.__cause__)) is not None:
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
        if self.probe.failed(turn, line := first_line(error, self._db.settings_dict), self._pause):
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
            if self.passing(last):
                last.transient = True  # type: ignore[attr-defined]
                note = self._why_over(budget)
                last.add_note(note)
                # Once for each outage. An attempt that a deadline has left is no outage yet.
                if not self.probe.surfaced and physical_attempt.left(last.__cause__) is None:
                    self.probe.surfaced = True
                    announce.outage(self._db, note)
            else:
                self.explain(last)
            raise

    def remaining(self, budget: Budget) -> float:
        """Seconds to wait for the server: the deadline counts from the start of the outage."""
        return max(0.0, min(budget.remaining(), self._patience(budget) - self.probe.down_for()))

    def _patience(self, budget: Budget) -> float:
        """Seconds that an outage is waited out: more where somebody has asked for that."""
        return max(deadline(self._db), budget.seconds)

    def _why_over(self, budget: Budget) -> str:
        db, down_for = self._db, self.probe.down_for()
        patience = self._patience(budget)
        if patience - down_for < budget.remaining():
            return messages.long_down(db.alias, down_for, patience, time.time() - down_for)
        waited = monotonic() - self.began
        return messages.unreachable(db.alias, waited, budget.bound)

    def _announce(self, _: int, wait: float, failed: BaseException) -> None:
        if isinstance(failed, ServerDown):
            return  # announced by the thread that asked
        db = self._db
        line = first_line(failed, db.settings_dict)
        db.resilience.shared.count("connect")
        record = signals.ConnectRetried(db.alias, self.probe.failures, wait, line)
        announce.send(db, signals.connect_retried, record)


def _gather_facts(db: Wrapper) -> None:
    """Ask server and socket once per process and alias; a refusal is remembered as such."""
    shared, link = db.resilience.shared, db._link
    if shared.facts is not None or link is None:
        return
    found = facts.first_answer(link, db.settings_dict)
    if found.refusal and link.lost():
        raise db.Database.OperationalError(found.refusal)
    shared.facts = found
    _end_question(db, link)


def _end_question(db: Wrapper, link: Link) -> None:
    """With AUTOCOMMIT=False a question begins a transaction."""
    if not db.autocommit and not link.lost():
        link.connection.rollback()


def _learn(db: Wrapper) -> None:
    """Learn from a connection that ended without a word, unless the server ended as well."""
    learned, link = db.resilience.shared.learned, db._link
    found = learned.suspected()
    if found is None or link is None:
        return
    try:
        [(up,)] = link.ask(_UP)
    except link.connection.Error:
        pass  # not known, so nothing is learned
    else:
        if float(up) > monotonic() - found.heard_at:
            learned.note(found.idle)
    _end_question(db, link)


def _ask_after_lost(db: Wrapper) -> None:
    """Find out what became of the sessions that were lost without a word, before anything runs.

    Raises:
        Error: the new connection is lost in turn; the next one asks again.
    """
    link, connector = db._link, db._connector
    assert link is not None
    kept = [one for one in connector.lost if not one.forgotten(monotonic())]
    try:
        with spending(db) as budget, db.wrap_database_errors:
            for one in kept:
                one.settle(link, budget.remaining())
                _end_question(db, link)
    finally:
        connector.settled([one for one in kept if one.why or not one.asked])
    for one in kept:
        if one.crashed:
            if one.incident is not None and not one.incident.crashed():
                text = 'Server of "%s" has crashed since its last answer.'
                announce.log(db, logging.INFO, text, db.alias, reason=Reason.CRASH.value)
            if (unit := UNIT.get()) is not None:
                unit.met_crash(one.text)
        if one.why:
            text = "Statements that may wait for locks are not retried: %s."
            announce.log(db, logging.INFO, text, messages.not_ended(db.alias, one.why))


def note_thread(db: Wrapper) -> None:
    """Note whether this thread ends with its request."""
    ends = asgi.watch(db)
    if ends is not db._connector.thread_ends:
        db._connector.in_thread(ends=ends)


def settle(db: Wrapper) -> None:
    """After connecting: learn the facts once, then set how long this connection may live.

    Raises:
        Error: the session ended at one of these questions: worth another attempt, unless the
            words are final.
    """
    try:
        _settle(db)
    except (Error, db.Database.Error) as error:
        if db._link is None or db._link.lost():
            _mark_unheard(error)
            db.resilience.shared.probe.mute = True
        raise
    db.resilience.shared.connected = db._connector.settings


def _hear(db: Wrapper) -> None:
    """Have a server say something that has ended sessions at their first statement.

    By a ping: with psycopg2 nothing else shows what the server says instead.

    Raises:
        OperationalError: it has ended this one as well.
    """
    link = db._link
    if link is None or link.ping(deadline(db)):
        return
    word = link.last_word
    link.close()
    raise OperationalError(
        "the server ended the session at its first statement" if word is None else word.text
    )


def _settle(db: Wrapper) -> None:
    note_thread(db)
    if db.resilience.shared.probe.mute:
        _hear(db)
    if db._connector.lost:
        _ask_after_lost(db)
    _gather_facts(db)
    _learn(db)
    if db._connector.seeks_primary or db._connector.wanted is Wanted.PRIMARY:
        from .primary import require

        require(db)
    resilience, link = db.resilience, db._link
    limits, options = resilience.limits, resilience.options
    if link is not None:
        link.quiet = min(limits.idle.seconds, options.ping_after)
    if db._pooled:
        pool = db.pool
        ours = link is not None and getattr(link.connection, "_pool", None) is pool
        if link is not None and ours:
            pool.agree(db, link, limits)
        else:
            pool.follow(limits)
        return
    if limits.age is None or (db.close_at is None and math.isinf(limits.age)):
        return
    age = jittered(limits.age, options.age_jitter, random.random)
    db.close_at = monotonic() + age
    configured = db.settings_dict["CONN_MAX_AGE"]
    shared = resilience.shared
    if not shared.age_logged and (configured is None or configured > limits.age):
        shared.age_logged = True
        announce.log(
            db,
            logging.INFO,
            'CONN_MAX_AGE of "%s" is %s; connections are kept for at most %s: %s.',
            db.alias,
            "unlimited" if configured is None else messages.seconds(configured),
            messages.seconds(limits.age),
            limits.age_source,
        )
