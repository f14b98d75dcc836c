"""Server-side cursors (``iterator()``): their rows come in batches, and may stop coming."""

from __future__ import annotations

import contextlib
from _thread import get_ident
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, cast

from django.db.utils import Error

from .driver.link import IDLE
from .state.originals import GETATTR, ITERATE, CursorWrapper


class ServerSideMixin:
    """Over a cursor wrapper: what was delivered, stays so; the rest may be asked for again."""

    db: Any
    cursor: Any
    _link: Any
    _send: Callable[[Any, Any], Any]
    _last: tuple[Any, Any] = ("", None)
    # Counted here: psycopg2's rownumber starts again with every batch (measured).
    _delivered = 0
    #: Scrolled: where it stands, no other cursor does.
    _moved = False
    #: Depends on no transaction: the drivers open it WITH HOLD in autocommit.
    _held = False
    #: PQtransactionStatus after it was opened in autocommit.
    _status = IDLE

    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        result = super()._execute(sql, params)  # type: ignore[misc]
        db = self.db
        self._delivered = 0
        self._moved = False
        # Otherwise in a transaction, one begun by a text included.
        self._status = self._link.status() if db.autocommit else IDLE
        self._held = db.autocommit and self._status == IDLE
        if self._held:
            self._link.cursors.add(self)
        # Kept in case the loss comes before the first row: then it may be opened again.
        self._last = (sql, params)
        # Django makes these of a class of its own, past the one that a pool has set.
        if (note := getattr(self._link.connection, "note_statement", None)) is not None:
            note(sql)
        return result

    def _fetch(self, method: str, *args: Any) -> Any:
        db = self.db
        try:
            with db.wrap_database_errors:
                rows = self.__getattr__(method)(*args)  # type: ignore[attr-defined]
        except Error as error:
            self._open_again(error)
            return self._fetch(method, *args)
        except BaseException:
            db._interrupted()
            raise
        if self._link is db._link:
            self._link.heard(monotonic())
        return rows

    def _open_again(self, error: Error) -> None:
        """Raises, unless no row has been delivered yet and the cursor is open again."""
        from .recovery.fetch import Fetching
        from .state.call import Call

        call = Call(cast(Any, self), self._send, *self._last, False, self._status)
        try:
            Fetching(self.db, call).after_fetch(
                error, self._delivered, held=self._held, moved=self._moved
            )
        except BaseException:
            self.db._interrupted()
            raise

    def scroll(self, *args: Any, **kwargs: Any) -> Any:
        """As the driver's."""
        self._moved = True
        return self.__getattr__("scroll")(*args, **kwargs)  # type: ignore[attr-defined]

    def fetchone(self) -> Any:
        """The next row, or None."""
        row = self._fetch("fetchone")
        self._delivered += row is not None
        return row

    def fetchmany(self, *args: Any) -> Any:
        """The next rows."""
        rows = self._fetch("fetchmany", *args)
        self._delivered += len(rows)
        return rows

    def fetchall(self) -> Any:
        """All rows that are left."""
        rows = self._fetch("fetchall")
        self._delivered += len(rows)
        return rows

    def __iter__(self) -> Iterator[Any]:
        if CursorWrapper.__iter__ is not ITERATE or CursorWrapper.__getattr__ is not GETATTR:
            yield from super().__iter__()  # type: ignore[misc]
            return
        while rows := self.fetchmany(self.cursor.itersize):
            yield from rows

    def close(self) -> None:
        """Close the cursor on the server, if there still is one."""
        if self._link is not None:
            self._link.cursors.discard(self)
            if self.db._thread_ident != get_ident() and self._left_open():
                return
        if self._link is not None and self._link.lost():
            # An error of it would only hide the one that tells what happened.
            with contextlib.suppress(self._link.connection.Error):
                self.cursor.close()
            return
        try:
            self.__getattr__("close")()  # type: ignore[attr-defined]
        except BaseException as error:
            if not self._lost_in_close(error):
                self.db._interrupted()
                raise

    def _left_open(self) -> bool:
        """Whether it is left to its own thread: an event loop drops what that one has opened.

        Nothing is sent from here, where nobody knows what that thread is at.
        """
        db = self.db
        if db.allow_thread_sharing or self.cursor.closed or self._link.lost():
            return False
        self._link.leave_cursor(self.cursor)
        return True

    def _lost_in_close(self, error: BaseException) -> bool:
        """Whether CLOSE failed because its session ended, with which the cursor has gone.

        No row is missing that was asked for. What else the loss has taken (a transaction), the
        next statement or COMMIT tells.
        """
        db, link = self.db, self._link
        if link is None or not isinstance(error, (Error, db.Database.Error)):
            return False
        from .driver.exceptions import judge_error
        from .policy.verdicts import Phase
        from .recovery.announce_loss import announce_loss
        from .state.collecting import collecting

        verdict = judge_error(link, error, Phase.FETCH)
        if not verdict.lost:
            return False
        with collecting():
            if link is db._link:
                announce_loss(db, verdict, error, "fetch")
            link.doubt()
            link.close()
        return True
