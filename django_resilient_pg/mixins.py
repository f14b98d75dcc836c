"""ResilientDatabaseMixin: wires the parts into a Django PostgreSQL engine; decides little itself.

Compose it with any engine built on Django's::

    class DatabaseWrapper(ResilientDatabaseMixin, SomeEngine.DatabaseWrapper):
        pass
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from functools import cached_property, partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from django.db.backends.base.base import NO_DB_ALIAS
from django.db.utils import Error

from .cursors import (
    FRESH,
    ResilientCursor,
    ResilientDebugCursor,
    ResilientServerCursor,
    ResilientServerDebugCursor,
)
from .drivers import ACTIVE, IDLE, IN_TRANSACTION, UNKNOWN, Link, link_to
from .session import Session, Where
from .units import MOST_TEXTS, NO_TEXT, UNDER_WAY, UNIT

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

    from .outcome import Mark
    from .replacing import Lost
    from .resilience import Resilience
    from .retry import Budget
    from .roles import Wanted
    from .units import Unit

    class Base(DatabaseWrapper):
        """Django's wrapper with what its type stubs leave out (Django 5.2 to 6.1)."""

        health_check_enabled: bool
        health_check_done: bool
        _thread_sharing_count: int

        _connection_pools: dict[str, Any]

        def _cursor(self, name: str | None = None) -> Any: ...
        def _configure_connection(self, connection: Any) -> Any: ...
        def _configure_role(self, connection: Any) -> bool: ...
        def _close(self) -> None: ...
        def _commit(self) -> None: ...
        def _rollback(self) -> None: ...
        def _savepoint(self, sid: str) -> None: ...
        def _savepoint_rollback(self, sid: str) -> None: ...
        def _savepoint_commit(self, sid: str) -> None: ...
        def _set_autocommit(self, autocommit: bool) -> None: ...

else:
    Base = object


def _last(savepoints: list[str], sid: str) -> int:
    """Where a savepoint is; clean_savepoints() has Django use names again."""
    return len(savepoints) - 1 - savepoints[::-1].index(sid)


def _unbound() -> int:
    return UNKNOWN


def _silent(timeout: int) -> object:
    return ()


class ResilientDatabaseMixin(Base):
    """Keeps an application working when its connections die (design section 1).

    This module, ``cursors``, ``drivers`` and ``session`` are the healthy path. Everything else is
    imported at the first connection or the first failure, so that importing the engine costs
    little more than importing Django's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Nothing is parsed and nothing connects here: psqlextra makes an instance at import.
        self._link: Link | None = None
        self._bound_to: Any = None
        self._status: Callable[[], int] = _unbound
        self._poll: Callable[[int], object] = _silent
        self._session = Session()
        # Whether the next session stands in for a lost one, below the same unit of work.
        self._goes_on = False
        self._open_cursors: weakref.WeakSet[Any] = weakref.WeakSet()  # the server-side ones
        self._heard_at = self._seen_at = monotonic()
        self._quiet = 0.0
        self._untouched = True
        self._opened = False  # by a savepoint, and untouched so far
        self._split = False  # a text has ended the transaction inside its block
        self._savepoints: list[str] = []
        self._by_hand = False  # in autocommit, a transaction was seen that a text had begun
        self._hooks_due = 0  # of run_on_commit: those of transactions that were committed
        self._saving = False
        self._rolled_back = ""  # the savepoint of a lost transaction that Django is done with
        # The texts a transaction has run, so that one that only read is known as such.
        self._ran: set[object] = set()
        self._ask_outcome = False
        self._connecting = False
        self._reaching = False
        self._in_unit = self._in_commit = False
        self._committed = False  # since a retry_atomic has begun, or may have
        self._lost: Lost | None = None
        self._budget: Budget | None = None
        self._wake = 0.0
        self._passing = False  # its thread ends with the request
        self._wanted: Wanted | None = None
        self._seeks_primary = False

    @cached_property
    def resilience(self) -> Resilience:
        """What the engine knows: options, facts, limits and stats; read-only."""
        from .resilience import Resilience

        return Resilience(self)

    # -- connecting -------------------------------------------------------------------------

    def get_connection_params(self) -> dict[str, Any]:
        """Django's parameters with the libpq ones the user did not set."""
        from .connecting import complete

        return complete(self, super().get_connection_params())

    @property
    def _pooled(self) -> bool:
        return bool(self.settings_dict["OPTIONS"].get("pool")) and self.alias != NO_DB_ALIAS

    @property
    def pool(self) -> Any:
        """The pool of this alias (psycopg 3), made at its first use; ``None`` without one."""
        if not self._pooled:
            return None
        pools = self._connection_pools
        pool = pools.get(self.alias)
        if pool is None:
            parameters = self.get_connection_params()  # says what is wrong with the options
            from .pooling import make

            # Not open yet: of two that two threads make at once the second is not used.
            pool = pools.setdefault(self.alias, make(self, parameters))
        return pool

    def close_pool(self) -> None:
        """As Django's, which would first make the pool that it closes."""
        pool = self._connection_pools.pop(self.alias, None)
        if pool is not None:
            pool.close()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """As Django's, with fresh credentials; the budget bounds the wait for a pooled one."""
        if not self._pooled:
            if path := self.resilience.options.credentials:
                connect = super().get_new_connection
                return self.resilience.shared.logins.connect(
                    self.alias, path, lambda login: connect({**conn_params, **login})
                )
            return super().get_new_connection(conn_params)
        self.pool  # noqa: B018  imported now
        from .pooling import borrow

        return borrow(self, partial(super().get_new_connection, conn_params))

    def connect(self) -> None:
        """Connect once. A connection that could not be set up fully is given up."""
        if self._session.due:
            from .restoring import refuse_if_pinned

            refuse_if_pinned(self)
        try:
            self._connect_as_django()
            self._make_ready()
        except BaseException:
            # A signal handler's as well: nobody may use it before it is all that it is to be. The
            # session stays due, so that the next connection gets what this one has not got.
            if self.connection is not None:
                from .replacing import drop_unfinished

                drop_unfinished(self)
            raise
        self._goes_on = False

    def _connect_as_django(self) -> None:
        """What comes of Django, of other engines and of ``connection_created`` receivers."""
        self._connecting = True
        try:
            super().connect()
        except BaseException as error:
            # Told from an error of the same words that came out of a statement.
            error.not_connected = True  # type: ignore[attr-defined]
            # The outermost way: a pooled connection goes back to its pool.
            with contextlib.suppress(Error):
                self._close()
            self.connection = self._link = self._bound_to = None
            raise
        finally:
            self._connecting = False

    def _make_ready(self) -> None:
        """What the engine adds to a new connection before anything is run on it."""
        self._bind()
        if not self._goes_on:
            self._split = False
        from .connecting import settle

        settle(self)
        if self._session.due:
            from .restoring import restore

            restore(self)

    def ensure_connection(self) -> None:
        """Connect if need be; a passing failure is tried again until ``retry_deadline``."""
        if self.connection is not None:
            return
        if self._reaching:
            # What stands in for Django's own method has called this one (a test's mock).
            with self.wrap_database_errors:
                self.connect()
            return
        from .connecting import connect

        self._reaching = True
        try:
            connect(self, super().ensure_connection)
        finally:
            self._reaching = False

    def close(self) -> None:
        """Django's boundary: what comes after starts clean."""
        if self._link is not None:
            self._link.heard_at = self._heard_at  # for whom the pool gives it to
        super().close()
        if self.connection is None:
            self._link = self._bound_to = self._lost = None
            self._session = self._session_after_close()
            self._goes_on = False

    def _configure_role(self, connection: Any) -> bool:
        """As Django's, which asks this wrapper's connection how to quote the role.

        There is none while a pool makes one: that would ask the pool for it, and wait for ever.
        """
        role = self.settings_dict["OPTIONS"].get("assume_role")
        if not role:
            return False
        from django.db.backends.postgresql.psycopg_any import mogrify

        with connection.cursor() as cursor:
            cursor.execute(mogrify("SET ROLE %s", [role], connection))
        return True

    def _session_after_close(self) -> Session:
        """A clean one, which knows what was held when the units of work under way began."""
        unit = UNIT.get() if UNDER_WAY else None
        if unit is None:
            return Session()
        return self._session.closed(tuple(one.budget for one in unit.line()))

    def close_if_unusable_or_obsolete(self) -> None:
        """As Django's; a session that held something and is gone ends here, not in an error."""
        super().close_if_unusable_or_obsolete()
        if self.in_atomic_block:
            return
        holds = self._session.holds
        if self.connection is None:
            self._goes_on = False
            if holds:
                self._session = self._session_after_close()
        elif holds and self.autocommit and not self.is_usable():
            self.close()

    def _bind(self) -> None:
        """Attach to the driver connection that is now in place."""
        self._link = link = link_to(self.connection)
        link.dropped = False
        self._bound_to = self.connection
        self._status = link.status
        options = self.resilience.options
        self._poll = link.poll if options.peek else _silent
        if not self._session.due:
            self._session = self._session_after_close()
        self._lost = None
        self._untouched = True
        self._opened = self._by_hand = False
        self._savepoints = []
        self._ran = set()
        self._ask_outcome = options.commit_outcome or self._in_unit
        self._quiet = min(self.resilience.limits.idle.seconds, options.ping_after)
        self._heard_at, self._seen_at = link.heard_at, monotonic()

    # -- looking before a unit of work ------------------------------------------------------

    def _look(self) -> None:
        """The healthy path: one poll, two comparisons. Replaces a connection found dead.

        Raises:
            Error: the connection is lost and may not be replaced, or could not be.
        """
        if self.connection is not self._bound_to:
            self._bind()
        status = self._status()
        # Another thread may be waiting for its answer on a shared connection: reading that away
        # would leave it waiting for ever, and a poll object takes one thread at a time.
        if status == IN_TRANSACTION or (status == IDLE and self._thread_sharing_count):
            return
        now = monotonic()
        if status == IDLE and not self._poll(0) and now - self._heard_at <= self._quiet:
            self._seen_at = now
            return
        from .watching import look_closer

        look_closer(self, status, now)

    def _cursor(self, name: str | None = None) -> Any:
        if self.connection is None:
            self.ensure_connection()
        elif monotonic() - self._seen_at > FRESH or self.connection is not self._bound_to:
            self._look()
        try:
            wrapper = super()._cursor(name)
        except Error:
            # Found dead after the last look, by an end that went wrong: nothing has been sent.
            if self._link is None or not self._link.lost():
                raise
            self._look()
            wrapper = super()._cursor(name)
        if name is None:
            return wrapper
        debug = isinstance(wrapper, ResilientDebugCursor)
        server_side = ResilientServerDebugCursor if debug else ResilientServerCursor
        cursor = server_side(wrapper.cursor, self)
        cursor.name = name
        return cursor

    def close_if_health_check_failed(self) -> None:
        """As Django's, without asking for the pool each time."""
        if self.health_check_enabled and not self.health_check_done:
            super().close_if_health_check_failed()

    def make_cursor(self, cursor: Any) -> ResilientCursor:
        """Django's hook: a cursor without debug log."""
        return ResilientCursor(cursor, self)

    def make_debug_cursor(self, cursor: Any) -> ResilientDebugCursor:
        """Django's hook: a cursor with debug log."""
        return ResilientDebugCursor(cursor, self)

    def is_usable(self) -> bool:
        """Django's health check without its round trip: a look, and a bounded ping after long."""
        if self.connection is None or self._lost is not None:
            return False
        if self.connection is not self._bound_to:
            self._bind()
        assert self._link is not None
        status = self._status()
        self._note_by_hand(status)
        self._note_if_ended(status)
        if status == IN_TRANSACTION:
            if self._untouched and not self._opened:
                self._note_raw()
            return self._link.ping(self.resilience.options.ping_timeout)
        if status not in {IDLE, UNKNOWN}:
            # A failed transaction answers nothing but ROLLBACK; TestCase counts on this.
            return False
        if self._thread_sharing_count:
            return not self._link.lost()
        from .liveness import Vital
        from .watching import inspect_connection

        return inspect_connection(self, monotonic()) is Vital.ALIVE

    def _note_effect(self, sql: object) -> None:
        """Remember what a transaction ran, and what took effect in a unit of work."""
        if not self.autocommit:
            if len(self._ran) < MOST_TEXTS:
                self._ran.add(sql if isinstance(sql, str) else id(sql))
        elif not self._connecting and (unit := UNIT.get()) is not None:
            # What runs while connecting runs again by itself.
            unit.took_effect(self.alias, sql)

    def _note_failed(self, sql: object, *, many: bool) -> None:
        """Remember what may have committed before it failed: CALL, several statements, rows."""
        if many:
            self._note_effect(sql)
            return
        from .session import text_of
        from .statements import Kind, analyse

        link = self._link
        standard = link is None or link.parameter("standard_conforming_strings") == "on"
        if analyse(text_of(sql), standard_strings=standard).kind is Kind.UNREPEATABLE:
            self._note_effect(sql)

    def _note_left(self, sql: object, *, many: bool) -> None:
        """Pin a living session in which a statement that failed may have left something.

        Locks it took before; what the first of several statements, or of many rows, has set.
        """
        if self._connecting or self._link is None or self._link.lost():
            return
        from .session import text_of
        from .statements import left_by_failure

        if words := left_by_failure(text_of(sql), many=many):
            self._session.pin(words)

    def _note_end(self, sql: object, status: int) -> None:
        """Remember that a text has ended the transaction inside its block, or may have: COMMIT.

        psycopg2 takes no notice of it, so that what follows takes effect at once.
        """
        from .session import text_of
        from .statements import ends_transaction

        if status == IDLE or ends_transaction(text_of(sql)):
            self._split = True
            self._note_lasting()

    def _note_ended(self) -> None:
        """Remember that the driver itself has ended the transaction: ``connection.commit()``."""
        if not self._split:
            self._split = True
            self._note_lasting()
            self._session.controlled()

    def _note_by_hand(self, status: int) -> None:
        """Remember a transaction that BEGIN as text has opened: of a dead connection none shows."""
        if status != UNKNOWN:
            self._by_hand = self.autocommit and status != IDLE

    def _note_if_ended(self, status: int) -> None:
        """Notice that the driver has ended the transaction and no statement came after it."""
        if status == IDLE and not (self._untouched or self.autocommit):
            self._note_ended()

    def _note_raw(self) -> None:
        """Remember that the open transaction was begun past Django's cursors."""
        if not self.autocommit:
            self._untouched = False
            self._ran.add(NO_TEXT)

    def _note_committed(self) -> None:
        """What the transaction ran has taken effect, or may have; its hooks are about to run."""
        self._note_lasting()
        if (unit := UNIT.get()) is not None:
            unit.ran_hooks(len(self.run_on_commit))

    def _note_lasting(self) -> None:
        if self._connecting:
            return  # what connection_created receivers commit is done again by each connection
        self._committed = True
        if (unit := UNIT.get()) is not None:
            for text in self._ran:
                unit.took_effect(self.alias, text)
            if len(self._ran) >= MOST_TEXTS:
                unit.cannot_tell(self.alias)

    def _note_session(self, sql: object, params: Any, *, many: bool = False) -> None:
        # What runs while connecting (connection_created receivers) runs again by itself.
        if self._connecting:
            return
        if not (self.autocommit or self._saving):
            self._note_end(sql, self._status())
        # Within transaction() of psycopg 3 its end is the driver's, and not known here.
        nested = getattr(self.connection, "_num_transactions", 0)
        status = self._status()  # ACTIVE: in a pipeline, whose results are still to come
        if many or nested or status == ACTIVE or (self.autocommit and status != IDLE):
            where = Where.UNCLEAR
        else:
            where = Where.AUTOCOMMIT if self.autocommit else Where.TRANSACTION
        replays = self.resilience.options.replay_session
        unit = UNIT.get()
        self._session.note(
            sql,
            params,
            where,
            driver=self.connection,
            replays=replays,
            saving=self._saving,
            # Their budgets stand for them: no text is kept alive.
            units=() if unit is None else tuple(one.budget for one in unit.line()),
        )

    # -- transactions -----------------------------------------------------------------------

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        """Entering a transaction looks first; leaving one needs nothing of a dead connection."""
        if self.connection is not None and not self._connecting:
            if not autocommit:
                if monotonic() - self._seen_at > FRESH:
                    self._look()
                self._untouched = True
                self._opened = self._split = False
            elif self._link is not None and self._link.lost():
                from .replacing import leave_lost_transaction

                leave_lost_transaction(self)
                return
        super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)

    # Branches are cheaper than calls here too.
    def _commit(self) -> None:  # noqa: C901
        if UNDER_WAY and not self._in_commit and (unit := UNIT.get()) is not None:
            self._commit_of(unit)
            return
        link = self._link
        if link is None or self.connection is not self._bound_to:
            super()._commit()
            self._note_committed()
            return
        status = self._status()
        if status != IN_TRANSACTION:
            self._note_if_ended(status)
        elif self.autocommit:
            self._ran.add(NO_TEXT)  # begun past set_autocommit(): what it ran was not kept
        elif self._untouched and not self._opened:
            self._note_raw()
        # A loss seen before COMMIT is sent is certain, not "outcome unknown".
        if (
            self._lost is not None
            or link.lost()
            or (
                monotonic() - self._seen_at > FRESH
                and not self._thread_sharing_count
                and self._poll(0)
            )
        ):
            from .committing import gone_before_commit

            if gone_before_commit(self, link):
                self._hooks_due = len(self.run_on_commit)
                self._note_committed()
                return
        if self._session.pending and status != IN_TRANSACTION:
            self._session.rolled_back()  # the server answers the COMMIT of a failed transaction so
        marked = None
        if self._ask_outcome and status == IN_TRANSACTION and not self._untouched:
            marked = self._mark(link)  # None: it has only read
        try:
            super()._commit()
        except Error as error:
            from .committing import has_committed

            if not has_committed(self, link, error, marked):
                raise
        except BaseException:
            self._note_committed()  # it may have
            self._interrupted()
            raise
        # Else the driver had nothing to send.
        if not self.autocommit and (self._opened or not self._untouched):
            self._heard_at = self._seen_at = monotonic()
        self._hooks_due = len(self.run_on_commit)
        if UNDER_WAY:
            self._note_committed()
        if self._session.pending:
            self._session.committed()
        self._untouched = True
        self._opened = self._split = False
        if self._savepoints:
            self._savepoints = []
        self._ran.clear()

    def _mark(self, link: Link) -> Mark | None:
        from .committing import mark_transaction

        try:
            return mark_transaction(self, link)
        except Error:
            raise
        except BaseException:
            # Not the database's: Django does not roll back then. COMMIT has not been sent.
            from .replacing import abandon_interrupted

            abandon_interrupted(self)
            raise

    def _commit_of(self, unit: Unit) -> None:
        """Raises if the request is run again without what has come here."""
        unit.begin(self)
        self._in_commit = True
        try:
            self._commit()
        finally:
            self._in_commit = False
            unit.end(self)

    def on_commit(self, func: Callable[[], object], robust: bool = False) -> None:
        """As Django's; outside of a transaction the hook runs at once."""
        if (unit := UNIT.get()) is not None:
            if not self.in_atomic_block:
                unit.ran_hooks(1)
            unit.check(self.alias)
        super().on_commit(func, robust)

    def _rollback(self) -> None:
        """A lost connection was rolled back by the server: nothing is left to do."""
        link = self._link
        if link is None or self.connection is not self._bound_to:
            super()._rollback()
            return
        try:
            if not link.lost():
                status = self._status()
                self._note_if_ended(status)
                super()._rollback()
                if status != IDLE:
                    self._heard_at = monotonic()
        except Error as error:
            if not link.lost():
                raise
            from .committing import lost_in_rollback

            lost_in_rollback(self, link, error)
        except BaseException:
            self._interrupted()
            raise
        self._lost = None
        self._hooks_due = 0  # Django forgets them all
        self._transaction_over()

    def _transaction_over(self) -> None:
        self._session.rolled_back()
        self._untouched = True
        self._opened = self._split = False
        self._savepoints = []
        self._ran.clear()

    def _savepoint(self, sid: str) -> None:
        self._as_savepoint(super()._savepoint, sid)
        self._savepoints.append(sid)
        if self._session.pending:
            self._session.savepoint(sid)

    def _savepoint_rollback(self, sid: str) -> None:
        try:
            self._as_savepoint(super()._savepoint_rollback, sid)
        except Error:
            # Else Django would mark the outer blocks for a rollback, which ends them silently. So
            # whatever comes next raises TransactionLost, be it COMMIT.
            if self._lost is None or self._lost.pinned_by or self._in_testcase:
                raise
            self._rolled_back = sid
            return
        self._session.rolled_back_to(sid)
        if sid in self._savepoints:
            del self._savepoints[_last(self._savepoints, sid) + 1 :]

    @property
    def _in_testcase(self) -> bool:
        """Whether the outermost block is of Django's TestCase, which rolls it back anyway."""
        return any(getattr(block, "_from_testcase", False) for block in self.atomic_blocks)

    def _savepoint_commit(self, sid: str) -> None:
        if self._lost is not None and self._rolled_back == sid:
            return
        self._as_savepoint(super()._savepoint_commit, sid)
        if sid in self._savepoints:
            del self._savepoints[_last(self._savepoints, sid) :]

    def _as_savepoint(self, run: Callable[[str], None], sid: str) -> None:
        """Run a savepoint statement: by itself it leaves a transaction untouched."""
        status = self._status()
        if status == IN_TRANSACTION and self._untouched and not self._opened:
            self._note_raw()
        elif status == IDLE and not (self._untouched or self.autocommit):
            self._note_ended()
        untouched = status == IDLE or (status == IN_TRANSACTION and self._untouched)
        self._saving = True
        # A savepoint has no effect of its own: a transaction that else only read, only read.
        ran, self._ran = self._ran, set()
        try:
            run(sid)
        finally:
            self._saving = False
            self._ran = ran
        self._untouched = self._opened = untouched

    def _interrupted(self) -> None:
        """An exception that is not the database's came out of a statement under way.

        A signal handler's (Celery's soft time limit) leaves psycopg 3 in the middle of a query,
        unusable and not closed (measured).
        """
        link = self._link
        if link is not None and self._status() == ACTIVE and not link.busy():
            from .replacing import abandon_interrupted

            abandon_interrupted(self)
