"""Cursors, and the liveness check before they are used: Django's hooks."""

from __future__ import annotations

from asyncio import _get_running_loop
from functools import cache
from time import monotonic
from typing import Any, Final

from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.utils import Error

from ..cursors import ResilientCursor
from ..driver.link import ACTIVE, FAILED, FRESH, IDLE, IN_TRANSACTION, UNKNOWN, Link
from ..driver.process import SAME, notice_fork
from ..state.originals import (
    CHECK_HEALTH,
    CHECK_TRANSACTION,
    CURSOR,
    CURSOR_ASKED,
    CURSOR_INIT,
    MAKE_CURSOR,
    CursorWrapper,
    original,
)
from ..state.wrapper import Wrapper

_IS_USABLE: Final = original(DatabaseWrapper, "is_usable")
_CHECK_HEALTH: Final = original(DatabaseWrapper, "close_if_health_check_failed")


@cache
def _adopt() -> Any:
    from ..cursor_classes import adopt

    return adopt


class CursorHooks(Wrapper):
    """Makes cursors that retry, on a connection that was checked."""

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
                from ..recovery.verify import verify
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

    def cursor(self) -> Any:
        """As Django's, which raises an error inside to find that there is no event loop."""
        if self._below.cursor is CURSOR and _get_running_loop() is None:
            return CURSOR_ASKED(self)
        return super().cursor()

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
            from ..recovery import verify
        except OSError:  # no file descriptor is left
            return super().is_usable()
        if status == IN_TRANSACTION:
            return verify.ping_in_transaction(self, link)
        return verify.is_alive(self)

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
        from ..connecting.replace import discard_interrupted

        discard_interrupted(self)
