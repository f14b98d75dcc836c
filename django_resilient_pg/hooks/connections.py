"""Connecting and closing: Django's hooks, and its pool."""

from __future__ import annotations

import contextlib
from asyncio import _get_running_loop
from functools import cache, partial
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Final

from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.db.utils import Error

from ..driver.process import SAME, notice_fork
from ..state.collecting import collecting
from ..state.originals import (
    CLOSE,
    CLOSE_ASKED,
    CONNECT,
    CONNECT_ASKED,
    ENSURE_CONNECTION,
    original,
)
from ..state.transaction import MANUAL
from ..state.unit_of_work import UNDER_WAY
from .transactions import TransactionHooks

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


@cache
def _connecting() -> Any:
    """What connects, imported with the first connection: an ``import`` costs each time."""
    from ..connecting import connect, plan, settle

    return SimpleNamespace(
        complete=plan.complete,
        connect=connect.connect,
        note_thread=settle.note_thread,
        settle=settle.settle,
    )


class ConnectionHooks(TransactionHooks):
    """Connects once, again, by a pool; closes, and says which session goes on."""

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
            from ..pool.pool import make

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
            from .. import deadlines

            bounded = self._connector.round is not None or deadlines.bounded()
            if not self.resilience.options.credentials and not bounded:
                return super().get_new_connection(conn_params)
            from ..connecting import physical_attempt

            return physical_attempt.make(self, super().get_new_connection, conn_params)
        from ..pool.pool import borrow

        return borrow(self, partial(super().get_new_connection, conn_params))

    def connect(self) -> None:
        """Connect once. A connection that could not be set up fully is discarded."""
        if not SAME[0]:
            notice_fork()
        session = self._session
        if session.continues and session.due:
            from ..connecting.setup import refuse_if_pinned

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
                if self._link is not None:
                    self._link.close()  # a pool would otherwise hand it on as it is
                self._discard()
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
            from ..connecting.setup import restore

            restore(self)
        self._session.arrived()

    def ensure_connection(self) -> None:
        """Connect if need be; a transient failure is retried until ``retry_deadline``."""
        if self.connection is not None:
            guarded = self._below.ensure_connection is not ENSURE_CONNECTION
            if (guarded or _get_running_loop() is not None) and not self._connector.retrying:
                # Which may refuse the use of the database, or call this one.
                with collecting():
                    self._connector.retry(super().ensure_connection)
            return
        if self._connector.retrying:
            # What stands in for Django's own method has called this one (a test's mock).
            self._connect_translated()
            return
        if not SAME[0]:
            notice_fork()
        plain = (
            self._below.ensure_connection is ENSURE_CONNECTION
            and not self.in_atomic_block
            and _get_running_loop() is None
        )
        # What Django's comes to then.
        attempt = self._connect_translated if plain else super().ensure_connection
        _connecting().connect(self, attempt)

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
