"""ResilientDatabaseMixin: wires the parts into a Django PostgreSQL engine; decides little itself.

Compose it with any engine built on Django's::

    class DatabaseWrapper(ResilientDatabaseMixin, SomeEngine.DatabaseWrapper):
        pass
"""

from __future__ import annotations

import contextlib
from asyncio import _get_running_loop
from collections.abc import Callable
from functools import cache, partial
from operator import attrgetter
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from django.db.backends import utils
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.db.backends.utils import CursorWrapper
from django.db.utils import Error

from .cursors import ResilientCursor
from .driver.link import ACTIVE, FAILED, FRESH, IDLE, IN_TRANSACTION, UNKNOWN, Link
from .driver.process import SAME, notice_fork
from .state.collecting import collected
from .state.originals import (
    CHECK_HEALTH,
    CHECK_TRANSACTION,
    CLOSE,
    CLOSE_ASKED,
    CONNECT,
    CONNECT_ASKED,
    CURSOR_INIT,
    ENSURE_CONNECTION,
    MAKE_CURSOR,
    original,
)
from .state.transaction import DIRTY, MANUAL, OPENED
from .state.unit_of_work import NO_TEXT, UNDER_WAY, UNIT
from .state.wrapper import Wrapper

if TYPE_CHECKING:
    from .recovery.outcome import TransactionId


_IS_USABLE: Final = original(DatabaseWrapper, "is_usable")
# What a pooled connection comes through in Django. All are compared at once: a check of each where
# it is stood in for would cost a pooled request more than what Django does there.
_BORROWING: Final = (
    "get_connection_params",
    "get_new_connection",
    "set_autocommit",
    "_set_autocommit",
)
_LENDING: Final = attrgetter(*_BORROWING)
_DJANGOS: Final = tuple(original(DatabaseWrapper, name) for name in _BORROWING)
_CHECK_HEALTH: Final = original(DatabaseWrapper, "close_if_health_check_failed")


@cache
def _adopt() -> Any:
    from .cursor_classes import adopt

    return adopt


@cache
def _connecting() -> Any:
    """What connects, imported with the first connection: an ``import`` costs each time."""
    from .connecting import connect, plan, settle

    return SimpleNamespace(
        complete=plan.complete,
        connect=partial(collected, connect.connect),
        note_thread=settle.note_thread,
        settle=settle.settle,
    )


def _attempt(db: Wrapper, attempt: Callable[[], None]) -> None:
    """Connect once, whatever comes of it."""
    attempt()


class ResilientDatabaseMixin(Wrapper):
    """Keeps an application working when its connections die (design section 1).

    This module, ``cursors``, ``link``, ``session`` and ``state`` are the healthy path.
    Everything else is imported at the first connection or the first failure, so that importing the
    engine costs little more than importing Django's.
    """

    # -- connecting -------------------------------------------------------------------------

    def get_connection_params(self) -> dict[str, Any]:
        """Django's parameters with the libpq ones the user did not set."""
        if self._connector.lender is not None:
            return {}  # which Django does not look at: it is the pool that connects
        completed: dict[str, Any] = _connecting().complete(self, super().get_connection_params())
        return completed

    @property
    def pool(self) -> Any:
        """The pool of this alias (psycopg 3), made at its first use; ``None`` without one."""
        if not SAME[0]:
            notice_fork()
        pools = self._connection_pools
        pool = pools.get(self.alias)
        # Django asks for it seven times in a request: written out, as ``_pooled`` has it.
        if not self.settings_dict["OPTIONS"].get("pool"):
            return None
        if pool is None:
            if self.alias == NO_DB_ALIAS:
                return None
            parameters = self.get_connection_params()  # says what is wrong with the options
            from .pool.pool import make

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
        lender = self._connector.lender
        if lender is not None and "isolation_level" not in self.settings_dict["OPTIONS"]:
            self.isolation_level = IsolationLevel.READ_COMMITTED
            return lender.take(self)
        pool = self.pool
        if pool is None:
            from . import deadlines

            bounded = self._connector.round is not None or deadlines.bounded()
            if not self.resilience.options.credentials and not bounded:
                return super().get_new_connection(conn_params)
            from .connecting import physical_attempt

            return physical_attempt.make(self, super().get_new_connection, conn_params)
        from .pool.pool import borrow

        return borrow(self, partial(super().get_new_connection, conn_params))

    def connect(self) -> None:
        """Connect once. A connection that could not be set up fully is discarded."""
        if not SAME[0]:
            notice_fork()
        session = self._session
        if session.continues and session.due:
            from .connecting.setup import refuse_if_pinned

            refuse_if_pinned(self)
        try:
            # What comes of Django, of other engines and of connection_created receivers.
            asked = self._below.connect is CONNECT and _get_running_loop() is None
            connect = partial(CONNECT_ASKED, self) if asked else super().connect
            self._connector.connect(connect, self._not_connected, self._lender())
            self._make_ready()
        except BaseException:
            # A signal handler's as well: nobody may use it before it is all that it is to be. The
            # session stays due, so that the next connection gets what this one has not got.
            if self.connection is not None:
                self._discard_unfinished()
            raise

    def _lender(self) -> Any:
        """The pool that is there for the next connection, if Django's methods are all in place.

        What they do about a pooled connection is then written out, by each in its turn.
        """
        if self._connector.wanted is None or _LENDING(self._below) != _DJANGOS:
            return None
        pool = self._connection_pools.get(self.alias)
        return pool if self.settings_dict["OPTIONS"].get("pool") else None

    def _not_connected(self, error: BaseException) -> None:
        # Told from an error of the same words that came out of a statement.
        error.not_connected = True  # type: ignore[attr-defined]
        error.database_alias = self.alias  # type: ignore[attr-defined]
        # The outermost way: a pooled connection goes back to its pool.
        with contextlib.suppress(Error):
            self._close()
        self.connection = self._link = None

    def _make_ready(self) -> None:
        """What the engine adds to a new connection before anything is run on it."""
        if self._rebind():
            _connecting().note_thread(self)
            return
        link = self._bind()
        if self._session.registered is not None:
            link.register(self._session.registered)
        _connecting().settle(self)
        if self._session.due:
            from .connecting.setup import restore

            restore(self)
        self._session.arrived()

    def ensure_connection(self) -> None:
        """Connect if need be; a transient failure is retried until ``retry_deadline``."""
        if self.connection is not None:
            guarded = self._below.ensure_connection is not ENSURE_CONNECTION
            if (guarded or _get_running_loop() is not None) and not self._connector.retrying:
                # Which may refuse the use of the database, or call this one.
                self._connector.retry(_attempt, self, super().ensure_connection)
            return
        if self._connector.retrying:
            # What stands in for Django's own method has called this one (a test's mock).
            with self.wrap_database_errors:
                self.connect()
            return
        if not SAME[0]:
            notice_fork()
        attempt: Callable[[], None] = self._connect_translated  # what Django's comes to mostly
        if (
            self._below.ensure_connection is not ENSURE_CONNECTION
            or self.in_atomic_block
            or _get_running_loop() is not None
        ):
            attempt = super().ensure_connection
        self._connector.retry(_connecting().connect, self, attempt)

    def _connect_translated(self) -> None:
        with self.wrap_database_errors:
            self.connect()

    def close(self) -> None:
        """Django's boundary: what comes after starts a new session."""
        if not SAME[0]:
            notice_fork()
        if UNDER_WAY:
            self._note_unseen()
        if self._below.close is CLOSE and _get_running_loop() is None:
            CLOSE_ASKED(self)
        else:
            super().close()
        if self.connection is None:
            self._release(self._session_after_close())
            if self._transaction.announcements:
                self._tell_kept()

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

    def close_if_unusable_or_obsolete(self) -> None:
        """As Django's; a session that held something and is gone ends here, not in an error."""
        was = self.connection
        super().close_if_unusable_or_obsolete()
        if self.in_atomic_block:
            return
        session = self._session
        if self.connection is None:
            # What was closed just now has started clean.
            if session.continues or (was is None and session.holds):
                self._session = self._session_after_close()
        elif (
            (session.holds or self._transaction.phase is MANUAL)
            and self.autocommit
            and not self.is_usable()
        ):
            self.close()

    # -- looking before a unit of work ------------------------------------------------------

    def _look(self, asking: Any = None) -> None:
        """Replace a connection found dead.

        Args:
            asking: the cursor wrapper that is about to send a statement, if any.

        Raises:
            Error: the connection is lost and may not be replaced, or could not be.
        """
        link = self._link
        if link is None or link.connection is not self.connection:
            link = self._bind()
        if not self._glance(link, link.status()):
            try:
                from .recovery.verify import verify
            except OSError:  # no file descriptor is left: the statement itself will tell
                return
            verify(self, link.status(), monotonic(), asking)

    def _glance(self, link: Link, status: int) -> bool:
        """The healthy path: one poll, two comparisons. Whether no further check is needed."""
        if link.connection is not self.connection:
            return False
        if not SAME[0]:
            notice_fork()
            return False
        # Another thread may be waiting for its answer on a shared connection: reading that away
        # would leave it waiting for ever, and a poll object takes one thread at a time.
        if status == IN_TRANSACTION or (status == IDLE and self._thread_sharing_count):
            return True
        now = monotonic()
        if status == IDLE and not link.peek(0) and now - link.heard_at <= link.quiet:
            link.seen_at = now
            return True
        if status == FAILED and self._invalid is None:
            self._observe(link)
            return True
        return False

    def _cursor(self, name: str | None = None) -> Any:
        link = self._link
        if self.connection is not None and (
            link is None
            or (
                (
                    link.connection is not self.connection
                    or monotonic() - link.seen_at > FRESH
                    or not SAME[0]
                )
                and not self._glance(link, link.status())
            )
        ):
            self._look()
        try:
            wrapper = super()._cursor(name)
        except Error:
            # Found dead after the last check, by an end that went wrong: nothing has been sent.
            if self._link is None or not self._link.lost():
                raise
            self._look()
            wrapper = super()._cursor(name)
        if name is None and wrapper.__class__ is ResilientCursor:
            return wrapper
        return _adopt()(wrapper, self, name)

    def close_if_health_check_failed(self) -> None:
        """As Django's, without asking for the pool each time."""
        if (
            (self.health_check_enabled and not self.health_check_done)
            or self._below.close_if_health_check_failed is not _CHECK_HEALTH
            or BaseDatabaseWrapper.close_if_health_check_failed is not CHECK_HEALTH
        ):
            super().close_if_health_check_failed()

    def make_cursor(self, cursor: Any) -> Any:
        """Django's hook: a cursor without debug log."""
        if (
            self._below.make_cursor is MAKE_CURSOR
            and utils.CursorWrapper is CursorWrapper
            and CursorWrapper.__init__ is CURSOR_INIT
            and type(self).validate_no_broken_transaction is CHECK_TRANSACTION
        ):
            return ResilientCursor(cursor, self)
        return _adopt()(super().make_cursor(cursor), self)

    def make_debug_cursor(self, cursor: Any) -> Any:
        """Django's hook: a cursor with debug log."""
        return _adopt()(super().make_debug_cursor(cursor), self)

    def is_usable(self) -> bool:
        """Django's health check without its round trip: a peek, and a bounded ping after long."""
        if not SAME[0]:
            notice_fork()
        if self.connection is None or self._invalid is not None:
            return False
        if self._below.is_usable is not _IS_USABLE:
            return super().is_usable()
        link = self._link
        if link is None or link.connection is not self.connection:
            link = self._bind()
        status = self._observe(link)
        if status not in {IDLE, UNKNOWN, IN_TRANSACTION}:
            # A failed transaction answers nothing but ROLLBACK; TestCase counts on this.
            return False
        if self._thread_sharing_count:
            return not link.lost()
        quiet = status == IDLE and self.resilience.shared.learned.shortest is None
        if quiet and not link.poll(0) and monotonic() - link.heard_at <= link.quiet:
            return not link.lost()
        try:
            from .recovery import verify
        except OSError:  # no file descriptor is left
            return super().is_usable()
        if status == IN_TRANSACTION:
            return verify.ping_in_transaction(self, link)
        return verify.is_alive(self)

    # -- transactions -----------------------------------------------------------------------

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        """Entering a transaction looks first; leaving one needs nothing of a dead connection."""
        link, connector, status = self._link, self._connector, IDLE
        if (
            connector.lender is not None
            and link is None
            and autocommit
            and self.connection.autocommit
            and self.resilience.terms is not None
            and not (self.in_atomic_block or self.run_commit_hooks_on_set_autocommit_on)
        ):
            # A pool has lent it as it was given back; its driver takes a lock to set what is set.
            self.autocommit = autocommit
            return
        if link is not None and not connector.connecting and self.connection is not None:
            if not autocommit:
                if monotonic() - link.seen_at > FRESH and not self._glance(link, link.status()):
                    self._look()
                if self._transaction.phase is MANUAL and self._link is not None:
                    self._observe(self._link)  # it may have been ended past Django
                super().set_autocommit(False, force_begin_transaction_with_broken_autocommit)
                self._transaction.begin()  # now: the driver may refuse
                return
            status = link.status()
            if status == UNKNOWN:
                try:
                    self._leave_lost_transaction()
                finally:
                    self._tell_kept()
                return
        try:
            super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)
            if status != IDLE and link is not None and link is self._link:
                # psycopg2 knows nothing of a transaction that a text has begun: it goes on.
                self._observe(link)
        finally:
            if self._transaction.announcements:
                self._tell_kept()

    def _tell_kept(self) -> None:
        """A transaction is over, for which log lines and signals may have waited."""
        if self._transaction.announcements and not self.in_atomic_block:
            from .state.announce import tell_kept

            tell_kept(self)

    def _commit(self) -> None:
        """COMMIT; of one that was lost ``commit`` finds out what became of it."""
        link = self._link
        if link is None or link.connection is not self.connection:
            super()._commit()
            self._note_committed()
            return
        unit = UNIT.get() if UNDER_WAY else None
        if unit is not None:
            unit.begin(self)  # raises if the request is replayed without what has come here
        try:
            status, transaction = link.status(), self._transaction
            if (
                status != IN_TRANSACTION
                or transaction.phase is not DIRTY
                or self._invalid is not None
                or monotonic() - link.seen_at > FRESH
            ) and self._is_over(link, status):
                return
            asks = link.asks_outcome or (unit is not None and unit.is_transaction_of(self))
            marked = self._mark(link, status) if asks else None
            try:
                super()._commit()
            except BaseException as error:
                if not self._has_committed(link, error, marked):
                    raise
            sent = transaction.phase >= OPENED and not self.autocommit
            if unit is not None:
                self._note_committed()
            if self._session.pending or transaction.announcements:
                self._after_commit()
            transaction.over(len(self.run_on_commit))
            if sent:
                link.heard_at = link.seen_at = monotonic()
            else:  # in autocommit psycopg2 sends nothing, whatever a text has begun
                transaction.observe(link.status(), self.autocommit)
        finally:
            if unit is not None:
                unit.end(self)

    def _after_commit(self) -> None:
        if self._session.pending:
            self._session.committed()
        if not self.settings_dict["AUTOCOMMIT"]:
            self._tell_kept()  # it stays off

    def _is_over(self, link: Link, status: int) -> bool:
        """Look before COMMIT is sent: whether there is nothing left to send it to.

        Raises:
            TransactionLost: the connection is gone, and with it what the transaction had done.
        """
        transaction = self._transaction
        if not SAME[0]:
            notice_fork()
            status = link.status()
        self._observe(link)
        if status == IN_TRANSACTION and self.autocommit:
            transaction.texts.add(NO_TEXT)  # begun past set_autocommit(): what it ran was not kept
        stale = monotonic() - link.seen_at > FRESH and not self._thread_sharing_count
        # A loss seen before COMMIT is sent is certain, not "outcome unknown".
        if self._invalid is not None or status == UNKNOWN or (stale and link.peek(0)):
            from .recovery.commit import gone_before_commit

            if gone_before_commit(self, link):
                hooks = len(self.run_on_commit)
                self._note_committed()
                transaction.over(hooks)
                return True
        if self._session.pending and status != IN_TRANSACTION:
            self._session.rolled_back()  # the server answers the COMMIT of a failed transaction so
        return False

    def _mark(self, link: Link, status: int) -> TransactionId | None:
        """The id of the transaction, asked for before COMMIT.

        Returns:
            ``None``: it has only read, or it cannot be asked for.
        """
        if status != IN_TRANSACTION or not (self._transaction.begun and link.sends_commit()):
            return None
        try:
            from .recovery.commit import mark_transaction
        except OSError:  # no file descriptor is left
            return None
        try:
            return mark_transaction(self, link)
        except Error:
            raise
        except BaseException:
            # Not the database's: Django does not roll back then. COMMIT has not been sent.
            self._discard_interrupted(link)
            raise

    def _has_committed(
        self, link: Link, error: BaseException, marked: TransactionId | None
    ) -> bool:
        """Whether a transaction has committed although its COMMIT failed; see ``commit``."""
        if isinstance(error, Error):
            from .recovery.commit import has_committed

            return has_committed(self, link, error, marked)
        self._note_committed()  # it may have
        self._interrupted()
        return False

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
        if link is None or link.connection is not self.connection:
            super()._rollback()
            return
        if not SAME[0]:
            notice_fork()
        try:
            status = self._observe(link)
            if status != UNKNOWN:
                super()._rollback()
                if status != IDLE:
                    link.heard_at = monotonic()
        except Error as error:
            if not link.lost():
                raise
            from .recovery.commit import lost_in_rollback

            lost_in_rollback(self, link, error)
        except BaseException:
            self._interrupted()
            raise
        self._invalid = None
        self._transaction_over()
        self._transaction.observe(link.status(), self.autocommit)  # psycopg2: as after COMMIT
        if not self.settings_dict["AUTOCOMMIT"]:
            self._tell_kept()  # it stays off

    def _savepoint(self, sid: str) -> None:
        self._control(super()._savepoint, sid)
        self._transaction.saved(sid)
        if self._session.pending:
            self._session.savepoint(sid)

    def _savepoint_rollback(self, sid: str) -> None:
        try:
            self._control(super()._savepoint_rollback, sid)
        except Error:
            # Otherwise Django would mark the outer blocks for a rollback, which ends them silently.
            # So whatever comes next raises TransactionLost, COMMIT included.
            if self._invalid is None or self._invalid.pinned_by or self._in_testcase:
                raise
            self._invalid.rolled_back = sid
            return
        self._session.rolled_back_to(sid)
        self._transaction.rolled_back_to(sid)

    def _savepoint_commit(self, sid: str) -> None:
        if self._invalid is not None and self._invalid.rolled_back == sid:
            return
        self._control(super()._savepoint_commit, sid)
        self._transaction.released(sid)

    def _control(self, run: Callable[[str], None], sid: str) -> None:
        """Run a savepoint statement: by itself it leaves a transaction as it was."""
        status = UNKNOWN if self._link is None else self._link.status()
        self._transaction.control(run, sid, status, self.autocommit)

    def _interrupted(self) -> None:
        """An exception that is not the database's came out of a statement under way.

        A signal handler's (Celery's soft time limit) leaves psycopg 3 in the middle of a query,
        unusable and not closed (measured).
        """
        link = self._link
        if link is not None and link.status() == ACTIVE and not link.busy():
            self._discard_interrupted(link)

    def _discard_interrupted(self, link: Link) -> None:
        link.close()  # first, whatever becomes of the rest
        from .connecting.replace import discard_interrupted

        discard_interrupted(self)
