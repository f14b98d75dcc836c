"""``OPTIONS["pool"]``: psycopg_pool's pool with a peek in place of its check, and no sleeping.

psycopg_pool sleeps 0, 1, 2, 4 ... seconds after each dead connection it meets, so eight killed
sessions are a PoolTimeout although the database is back. Here every dead connection is put away the
moment it is met, without a round trip, and what keeps new ones from coming is told at once.

Imported when the first pool is made. Only the public API of psycopg_pool is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import ImproperlyConfigured

try:
    from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
except ImportError as error:  # as Django has it
    raise ImproperlyConfigured(
        "Error loading psycopg_pool module.\nDid you install psycopg[pool]?"
    ) from error

from .. import deadlines
from ..conf.wanted import Wanted
from ..connecting.budgets import deadline
from ..driver.choose import link_to
from ..driver.link import FRESH, IDLE, UNKNOWN, Link
from ..policy.limits import Limits
from ..policy.rules import backoff
from ..state.collecting import begin
from ..state.logins import own
from ..state.shared import Terms
from ..state.wrapper import Wrapper
from .exhausted import EnoughAreWaiting, Pool, WaitedLongEnough, why
from .fitness import Fitness
from .inherited import Inheritable
from .pool_connection import ConnectionMaker

if TYPE_CHECKING:
    from .loans import Hold, Loans

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


class ResilientPool(Inheritable):
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
        self._fitness = Fitness(db.alias, options.pop("check", None))
        self._terms: Terms | None = None
        # One for each connection that is in use; to add one and to take one out is atomic.
        self._loans: set[object] = set()
        self._loan: Callable[[], object] = object
        self._watch: Loans | None = None
        if (after := resilience.options.pool_leak_after) is not None:
            from . import loans

            self._watch = loans.Loans(db.alias, after, self._loans)
            self._loan, self._maker.made = loans.Loan, loans.watch
        base = options.pop("connection_class", db.Database.Connection)
        options.setdefault("reconnect_timeout", _RECONNECT_TIMEOUT)
        super().__init__(
            db._connection_pools,
            db.alias,
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
        if timeout is None:
            budget = db._connector.budget
            timeout = self._bounded(deadline(db) if budget is None else budget.remaining())
        return self._lend(db, timeout, None)

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
            begin(db)
            resilience.terms = None
            resilience.shared_now()
            return borrow(db, self.getconn)
        return self._lend(db, self._bounded(terms.options.retry_deadline), terms)

    def _lend(self, db: Wrapper, allowed: float, terms: Terms | None) -> Any:
        began = monotonic()
        ends = began + allowed
        quiet, refused = False, 0
        if self._watch is not None:
            self._watch.tell_news(db)
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
                    and terms is self._terms  # as long as nobody distrusts what was made before
                    and not db._session.continues
                )
                if not fit:
                    if terms is not None:
                        begin(db)  # of events, of which there were none
                    fit = self._fitness.allows(db, connection, self._lifetime, quiet=quiet)
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
            raise self._given_up(allowed, ends) from None
        sleep(min(backoff(refused, base=options.backoff, most=options.max_backoff), left))

    def putconn(self, conn: Any) -> None:
        """Give a connection back."""
        if self.inherited:
            return
        if conn.pgconn.transaction_status == UNKNOWN:  # it is closed
            conn.put_away = True  # why, was said where it was found
        loan = getattr(conn, "loan", None)  # now: another thread may be given it at once
        if self._watch is not None:
            self._watch.tell_last(self._db, loan)
        super().putconn(conn)
        self._loans.discard(loan)

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
                    self._watch.tell_news(db)
                failure = self._maker.failure
                if failure is not None and failure.at >= began and not self._loans:
                    raise own(failure.error) from None
                if left <= wait:
                    raise self._given_up(allowed, ends) from None
            except TooManyRequests as error:
                raise EnoughAreWaiting(self._with_holders(str(error))) from None
            wait, left = min(2 * wait, _LONGEST_WAIT), ends - monotonic()

    def _given_up(self, allowed: float, ends: float) -> WaitedLongEnough:
        refusal = self._fitness.refusal
        pool = Pool(self._db, self._maker.failure, len(self._loans), self.max_size)
        refused = "" if refusal is None or refusal.at < ends - allowed else refusal.name
        return WaitedLongEnough(self._with_holders(why(pool, allowed, refused)))

    def holds(self) -> Sequence[Hold]:
        """Who holds connections for longer than ``pool_leak_after``, the longest first."""
        return () if self._watch is None else self._watch.holds()

    def _with_holders(self, text: str) -> str:
        """What is said of an exhausted pool, with who holds its connections for too long."""
        note = "" if self._watch is None else self._watch.note()
        return f"{text}\n{note}" if note else text

    def distrust(self) -> None:
        """What was made up to now leads to a server that is not wanted: none of it is used."""
        self._terms = None
        self._fitness.distrust()

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
        link.connection.ends_at = self._fitness.holds_until(
            link.connection, self._lifetime, options.age_jitter
        )

    @property
    def _lifetime(self) -> float:
        """Seconds that a connection may live, before jitter; the user's own is psycopg_pool's."""
        return self.max_lifetime if self._own_lifetime else math.inf

    def _put_away(self, connection: Any) -> None:
        """Close it; the pool makes another one in the background."""
        connection.put_away = True
        link_to(connection).close()
        super().putconn(connection)


def make(db: Wrapper, parameters: Mapping[str, Any]) -> ResilientPool:
    """A pool for the alias of ``db``, not yet open.

    Raises:
        ImproperlyConfigured: as Django's own.
    """
    if db.settings_dict.get("CONN_MAX_AGE", 0) != 0:
        raise ImproperlyConfigured("Pooling doesn't support persistent connections.")
    given = db.settings_dict["OPTIONS"]["pool"]
    return ResilientPool(db, parameters, given if isinstance(given, Mapping) else {})
