"""``OPTIONS["pool"]``: psycopg_pool's pool with a peek in place of its check, and no sleeping.

psycopg_pool sleeps 0, 1, 2, 4 ... seconds after each dead connection it meets, so eight killed
sessions are a PoolTimeout although the database is back. Here every dead connection is put away the
moment it is met, without a round trip, and what keeps new ones from coming is told at once.

Imported when the first pool is made. Only the public API of psycopg_pool is used.
"""

from __future__ import annotations

import logging
import math
import random
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from django.core.exceptions import ImproperlyConfigured

try:
    from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
except ImportError as error:  # as Django has it
    raise ImproperlyConfigured(
        "Error loading psycopg_pool module.\nDid you install psycopg[pool]?"
    ) from error

from .. import deadlines
from ..conf.wanted import Wanted
from ..connecting.budgets import deadline
from ..driver.choose import link_to
from ..driver.exceptions import first_line
from ..driver.link import FRESH, IDLE, UNKNOWN, Link
from ..driver.liveness import Vital, inspect
from ..driver.process import in_child
from ..driver.psycopg3 import Psycopg3Link
from ..facts import Path
from ..policy.limits import Limits, jittered
from ..policy.rules import backoff
from ..recovery.announce_loss import announce_idle_loss
from ..state import announce
from ..state.logins import own
from ..state.shared import Terms
from ..state.wrapper import Wrapper
from .pool_connection import ConnectionMaker

if TYPE_CHECKING:
    from .loans import Hold, Loans

Error = TypeVar("Error", bound=Exception)

# psycopg_pool's own defaults, seconds; the shorter of them and of the engine's limit holds.
_MAX_LIFETIME: Final = 3600.0
_MAX_IDLE: Final = 600.0
# Seconds until the pool makes its second and last attempt by itself. After that it is up to those
# who wait, within their budgets: nobody knocks at a server that nobody asks for.
_RECONNECT_TIMEOUT: Final = 0.1
# Seconds a thread waits before it looks why nothing came, doubling up to the second number. Each
# look gives up its place in the pool's queue.
_FIRST_WAIT: Final = 0.1
_BRIEF_WAIT: Final = 0.02
# Seconds that a connection may take to be made in a request whose deadline is used up.
_MAKING: Final = 1.0
_LONGEST_WAIT: Final = 1.0

#: The wrapper that a connection is being taken for, in this thread.
_borrower: ContextVar[Wrapper | None] = ContextVar("django_resilient_pg_borrower", default=None)


def borrow(db: Wrapper, take: Callable[[], Any]) -> Any:
    """Call ``take``, which asks the pool, on behalf of ``db``: its budget bounds the wait."""
    token = _borrower.set(db)
    try:
        return take()
    finally:
        _borrower.reset(token)


class _Refusal(NamedTuple):
    """The last time that the user's own check refused a connection."""

    at: float
    name: str  # of the class of its error


class _WaitedLongEnough(PoolTimeout):
    """The time that there was has passed."""

    final = True  # see connecting.connect_again


class _EnoughAreWaiting(TooManyRequests):
    """``max_waiting`` sheds load: trying again would be waiting all the same."""

    final = True


_MADE: weakref.WeakSet[ResilientPool] = weakref.WeakSet()


class ResilientPool(ConnectionPool[Any]):
    """The pool of one alias.

    Args:
        db: the wrapper that needs it first.
        parameters: what libpq gets.
        given: ``OPTIONS["pool"]``; what is set there holds.
    """

    def __init__(
        self, db: Wrapper, parameters: Mapping[str, Any], given: Mapping[str, Any]
    ) -> None:
        options = dict(given)
        self._db = db
        resilience = db.resilience
        shared = resilience.shared_now()
        self._maker = ConnectionMaker(
            db.alias,
            resilience.options.credentials,
            shared.logins,
            partial(shared.count, "attempt"),
        )
        # Whether the server is known to be down: then one thread at a time asks for it here.
        self._breaker = shared.breaker
        self._own_lifetime = "max_lifetime" not in options
        self._own_idle = "max_idle" not in options
        self._own_timeout = "timeout" not in options
        self._user_check = options.pop("check", None)
        self._refusal: _Refusal | None = None
        self._terms: Terms | None = None
        # One for each connection that is in use; to add one and to take one out is atomic.
        self._loans: set[object] = set()
        self._silent_at = self._not_before = -math.inf
        self._loan: Callable[[], object] = object
        self._watch: Loans | None = None
        if (after := resilience.options.pool_leak_after) is not None:
            from . import loans

            self._watch = loans.Loans(db.alias, after, self._loans)
            self._loan, self._maker.made = loans.Loan, loans.watch
        base = options.pop("connection_class", db.Database.Connection)
        options.setdefault("reconnect_timeout", _RECONNECT_TIMEOUT)
        #: Whether this is the parent's, in a forked child: its locks may be held by threads that
        #: are not here, and its workers are not here either.
        self.inherited = False
        self._pools = db._connection_pools
        _MADE.add(self)
        super().__init__(
            kwargs={**parameters, "autocommit": True},  # Django sets it later on
            open=False,
            configure=self._maker.noting(db._configure_connection),
            connection_class=self._maker.class_over(base),
            **options,
        )
        self.follow(resilience.limits)

    def follow(self, limits: Limits) -> None:
        """Keep to the engine's limits, where the user has set none."""
        if self._own_lifetime:
            age = math.inf if limits.age is None else limits.age
            self.max_lifetime = min(_MAX_LIFETIME, age)
        if self._own_idle:
            self.max_idle = min(_MAX_IDLE, limits.idle.seconds)

    # -- taking -----------------------------------------------------------------------------

    def getconn(self, timeout: float | None = None) -> Any:
        """Take a connection that is alive as far as a liveness check can tell.

        Raises:
            PoolTimeout: none came within ``timeout`` seconds; by default the pool's own or what
                is left of the budget, whichever is shorter.
            Error: why no connection could be made, when none can come back from another thread.
        """
        if self.inherited:
            raise PoolClosed(f'the pool of "{self._db.alias}" was made before a fork')
        db = _borrower.get() or self._db
        allowed = self._allowed(db) if timeout is None else timeout
        return self._lend(db, allowed, None)

    def take(self, db: Wrapper) -> Any:
        """What Django does to take a connection, on behalf of ``db``.

        What was judged by terms that hold is not judged anew.
        """
        if self.closed:
            self.open()
        resilience, connector = db.resilience, db._connector
        terms = resilience.terms
        if (
            terms is None
            or terms is not self._terms
            or terms.shared.facts is not terms.facts
            or terms.shared.learned.shortest is not None
            or connector.budget is not None
            or connector.wake
            or self.inherited
        ):
            resilience.terms = None
            resilience.shared_now()
            return borrow(db, self.getconn)
        return self._lend(db, self._bounded(terms.options.retry_deadline), terms)

    def _lend(self, db: Wrapper, allowed: float, terms: Terms | None) -> Any:
        began = monotonic()
        ends = began + allowed
        quiet, refused = False, 0
        if self._watch is not None:
            self._tell_held(db, self._watch.news())
        while True:
            connection = self._wait(db, began, ends, allowed)
            link = connection._django_resilient_pg_link
            try:
                # It was lent on these terms before, and a peek finds it as it was then.
                fit = (
                    terms is not None
                    and link.terms is terms
                    and link.status() == IDLE
                    and (now := monotonic()) - link.heard_at <= terms.quiet
                    # As between two statements: what was seen just now is not looked at again.
                    and ((fresh := now - link.seen_at <= FRESH) or not link.peek(0))
                    and now <= connection.ends_at
                    and connection.made_at > self._not_before
                    and self._user_check is None
                    and not db._session.continues
                )
                if not fit:
                    fit = self._fit(db, connection, quiet)
                elif not fresh:
                    link.seen_at = now
            except BaseException:
                # It may have been interrupted half-way through being cleaned, or in a ping.
                self._put_away(connection)
                raise
            if fit:
                connection.lent = True
                connection.loan = loan = self._loan()
                self._loans.add(loan)
                return connection
            quiet = True  # they were lost for one reason: one line is enough
            self._put_away(connection)
            if connection.refused and not connection.lent:
                # A new one would be refused as well, and the one after it: not one after the other.
                refused += 1
                self._pause(db, refused, ends, allowed)
            began = monotonic()

    def _pause(self, db: Wrapper, refused: int, ends: float, allowed: float) -> None:
        """Wait after so many new connections were refused by the check."""
        options, left = db.resilience.options, ends - monotonic()
        if left <= 0:
            raise _WaitedLongEnough(self._why(allowed, ends)) from None
        wait = backoff(
            refused, base=options.backoff, most=options.max_backoff, random=random.random
        )
        sleep(min(wait, left))

    def putconn(self, conn: Any) -> None:
        """Give a connection back."""
        if self.inherited:
            return
        if conn.pgconn.transaction_status == UNKNOWN:  # it is closed
            conn.put_away = True  # why, was said where it was found
        loan = getattr(conn, "loan", None)  # now: another thread may be given it at once
        if self._watch is not None:
            self._tell_held(self._db, self._watch.last_news(loan))
        super().putconn(conn)
        self._loans.discard(loan)

    def _allowed(self, db: Wrapper) -> float:
        """Seconds that ``db`` may wait."""
        budget = db._connector.budget
        return self._bounded(deadline(db) if budget is None else budget.remaining())

    def _bounded(self, seconds: float) -> float:
        """As much of these seconds as the pool's timeout and the deadlines around leave."""
        if not self._own_timeout:
            seconds = min(seconds, self.timeout)
        if not deadlines.bounded():
            return seconds
        # As much as without a pool where one may be on its way: see :func:`.connecting._bounded`.
        making = len(self._loans) < self.max_size
        soft, hard = (_MAKING, deadlines.LEAST) if making else (0.0, 0.0)
        left = deadlines.left(hard=True)
        return min(seconds, max(soft, deadlines.left()), max(hard, left))

    def _wait(self, db: Wrapper, began: float, ends: float, allowed: float) -> Any:
        """The next connection, whatever its state."""
        # What gives up its place in the queue still counts as waiting.
        first = _BRIEF_WAIT if self._breaker.down else _FIRST_WAIT
        wait, left = math.inf if self.max_waiting else first, ends - began
        while True:
            try:
                # With nothing left the pool would not even hand out one that is ready.
                return super().getconn(wait if wait < left else max(0.001, left))
            except PoolTimeout:
                if self._watch is not None:
                    self._tell_held(db, self._watch.news())
                failure = self._maker.failure
                if failure is not None and failure.at >= began and not self._loans:
                    raise own(failure.error) from None
                if left <= wait:
                    raise self._noted(_WaitedLongEnough(self._why(allowed, ends))) from None
            except TooManyRequests as error:
                raise self._noted(_EnoughAreWaiting(*error.args)) from None
            wait, left = min(2 * wait, _LONGEST_WAIT), ends - monotonic()

    def _why(self, allowed: float, ends: float) -> str:
        """What a PoolTimeout says."""
        text = f"couldn't get a connection after {allowed:.2f} sec"
        failure, refusal, alias = self._maker.failure, self._refusal, self._db.alias
        if failure is not None:
            line = first_line(failure.error, self._db.settings_dict)
            return f"{text}: no new one could be made ({line})"
        if refusal is not None and refusal.at >= ends - allowed:
            return (
                f"{text}: the pool's check refused the last one by {refusal.name}; look into"
                f' OPTIONS["pool"]["check"] of "{alias}"'
            )
        text = f"{text}: {len(self._loans)} of at most {self.max_size} are in use"
        if len(self._loans) < self.max_size:
            return (
                f"{text}, the others still being made; find out why connecting takes so long"
                f' (manage.py checkdbconn), or allow "{alias}" a longer retry_deadline'
            )
        return f'{text}; raise OPTIONS["pool"]["max_size"] of "{alias}" or hold them for less time'

    def holds(self) -> Sequence[Hold]:
        """Who holds connections for longer than ``pool_leak_after``, the longest first."""
        return () if self._watch is None else self._watch.holds()

    def _tell_held(self, db: Wrapper, held: Sequence[Hold]) -> None:
        for one in held:
            announce.log(
                db,
                logging.WARNING,
                'Pooled connection "%s" held for %s.',
                one.alias,
                one,
                at_once=True,
                took=one.seconds,
            )

    def _noted(self, error: Error) -> Error:
        """An error of an exhausted pool, with who holds its connections for too long."""
        if self._watch is not None and (note := self._watch.note()):
            error.add_note(note)
        return error

    def distrust(self) -> None:
        """What was made up to now leads to a server that is not wanted: none of it is used."""
        self._not_before = monotonic()

    # -- the end of it -----------------------------------------------------------------------

    def leave(self) -> None:
        """In the child: a new pool is made when it is needed. ``fork`` lets the sockets go."""
        self.inherited = True
        self._withdraw()

    def close(self, timeout: float = 5.0) -> None:
        """As psycopg_pool's, but not of a parent's pool. Who needs another one makes it."""
        if not self.inherited:
            self._withdraw()  # first: it cannot be opened again
            super().close(timeout)

    def _withdraw(self) -> None:
        if self._pools.get(self._db.alias) is self:
            del self._pools[self._db.alias]

    def __del__(self) -> None:
        if not self.inherited:
            super().__del__()

    # -- looking ----------------------------------------------------------------------------

    def agree(self, db: Wrapper, link: Link, limits: Limits) -> None:
        """Keep with a connection that was just judged, and is in use, what it may be lent on."""
        self.follow(limits)
        resilience = db.resilience
        shared, facts, options = resilience.shared, resilience.facts, resilience.options
        # What was learned is forgotten in time; and a primary is asked each time whether it is.
        learned = shared.learned.shortest is not None
        if facts is None or learned or db._connector.wanted is Wanted.PRIMARY:
            return
        terms = Terms(shared, facts, options, link.quiet)
        if terms != self._terms:
            self._terms = terms
        # One object for all threads, each of which reads its options by itself.
        resilience.terms = link.terms = self._terms
        connection = link.connection
        connection.ends_at = math.inf
        if self._own_lifetime:
            connection.ends_at = connection.made_at + self._lifetime(connection, options.age_jitter)

    def _lifetime(self, connection: Any, jitter: float) -> float:
        return jittered(self.max_lifetime, jitter, lambda: float(connection.luck))

    def _fit(self, db: Wrapper, connection: Any, quiet: bool) -> bool:
        """Whether to hand this connection out. No round trip, unless it was idle for long."""
        link, now = link_to(connection), monotonic()
        options, idle = db.resilience.options, now - link.heard_at
        if self._expired(connection, now, options.age_jitter):
            return False
        looked = options.peek or idle > options.ping_after
        if looked and self._inspected(db, link, idle, quiet) is not Vital.ALIVE:
            return False
        if connection.lent and db._session.continues and not self._cleaned(db, link):
            return False
        return self._user_check is None or self._passes(db, connection)

    def _cleaned(self, db: Wrapper, link: Link) -> bool:
        """Make a used session like a new one, before it takes the place of a lost one.

        What others left on it would else turn up in the middle of a request, without any error.
        """
        connection = link.connection
        try:
            connection.autocommit = True  # in a transaction it is refused; Django sets it again
            connection.isolation_level = connection.read_only = connection.deferrable = None
            if cast(Psycopg3Link, link).keeps_prepared():
                self._tell_uncleaned(db, "its driver would not forget prepared statements")
                return False
            link.ask("DISCARD ALL")
            db._configure_connection(connection)
        except connection.Error as error:
            self._tell_uncleaned(db, type(error).__name__)
            return False
        return True

    def _tell_uncleaned(self, db: Wrapper, why: str) -> None:
        announce.log(
            db,
            logging.DEBUG,
            'Closed a pooled connection of "%s" that could not be cleaned: %s.',
            self._db.alias,
            why,
        )

    def _inspected(self, db: Wrapper, link: Link, idle: float, quiet: bool) -> Vital:
        resilience = db.resilience
        options, facts = resilience.options, resilience.facts
        # Where one of them has just not answered, those idle for as long are not waited for.
        suspect = link.heard_at < self._silent_at
        vital = inspect(
            link,
            idle=idle,
            idle_limit=resilience.limits.idle.seconds,
            ping_after=options.ping_after,
            ping_timeout=0.0 if suspect else deadlines.allowed(options.ping_timeout),
            path=Path.UNKNOWN if facts is None else facts.path,
            took=partial(resilience.shared.took, "liveness"),
        )
        if vital is Vital.LOST:
            if link.last_word is None and idle > options.ping_after:
                self._silent_at = monotonic()
            announce_idle_loss(db, link, idle, quiet=quiet)
        elif vital is Vital.ALIVE and idle > options.ping_after:
            link.heard_at = monotonic()
        return vital

    def _expired(self, connection: Any, now: float, jitter: float) -> bool:
        """Also those that were made before the limits were known."""
        if connection.made_at <= self._not_before:
            return True
        if not self._own_lifetime:
            return False
        return bool(now - connection.made_at > self._lifetime(connection, jitter))

    def _passes(self, db: Wrapper, connection: Any) -> bool:
        """The user's own check; no error of it is raised, as in psycopg_pool."""
        try:
            self._user_check(connection)
        except Exception as error:
            connection.refused, self._refusal = True, _Refusal(monotonic(), type(error).__name__)
            announce.log(
                db,
                logging.INFO,
                'Closed a pooled connection of "%s" that failed its check: %s.',
                self._db.alias,
                type(error).__name__,
            )
            return False
        return True

    def _put_away(self, connection: Any) -> None:
        """Close it; the pool makes another one in the background."""
        connection.put_away = True
        link_to(connection).close()
        super().putconn(connection)


class _SaidAlready(logging.Filter):
    """psycopg_pool warns of every closed connection; of ours we have said more already."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        given = record.args if isinstance(record.args, tuple) else ()
        return not any(getattr(value, "put_away", False) for value in given)


logging.getLogger("psycopg.pool").addFilter(_SaidAlready())


@in_child
def _leave_all() -> None:
    for pool in list(_MADE):
        pool.leave()


def make(db: Wrapper, parameters: Mapping[str, Any]) -> ResilientPool:
    """A pool for the alias of ``db``, not yet open.

    Raises:
        ImproperlyConfigured: as Django's own.
    """
    if db.settings_dict.get("CONN_MAX_AGE", 0) != 0:
        raise ImproperlyConfigured("Pooling doesn't support persistent connections.")
    given = db.settings_dict["OPTIONS"]["pool"]
    return ResilientPool(db, parameters, given if isinstance(given, Mapping) else {})
