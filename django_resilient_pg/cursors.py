"""The cursor wrapper that retries a statement.

It sits below Django's execute wrappers, debug log and ``assertNumQueries``: they see one
statement however often it is sent (Django's own tests want ``execute_wrappers`` left alone).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sized
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.db.backends.postgresql.psycopg_any import is_psycopg3
from django.db.utils import Error, OperationalError

from .driver.link import FRESH, IN_TRANSACTION
from .driver.literals import has_text, known_values
from .driver_methods import DriverMethods
from .policy.token_bucket import BUCKET
from .sql.memory import HARMLESS, LONGEST, is_harmless
from .state.call import Call
from .state.effects import (
    note_effect,
    note_failed,
    note_left,
    note_session,
    note_unsent,
    note_wrong,
)
from .state.originals import EXECUTE, CursorWrapper
from .state.transaction import DIRTY
from .state.unit_of_work import LONGEST_TEXT, MOST_TEXTS, NO_TEXT, UNDER_WAY, UNIT

if TYPE_CHECKING:
    from .state.wrapper import Wrapper

_RENEWALS: Final = 3  # cursors asked of an engine that passes over the loss of its session
_GIVEN: Final = ("arraysize", "row_factory")  # to a driver's cursor, by who wants its rows so
_Plain: Any = CursorWrapper  # whose types leave out what is private


class ResilientCursorMixin(DriverMethods):
    """Over Django's cursor wrappers.

    The healthy path is written out rather than called through ``super()``: it does what Django's
    ``_execute`` does (Django 5.2 to 6.1), and pays for its own checks by entering
    ``wrap_database_errors`` only when there is an error to wrap.
    """

    #: The server-side cursor's name; such a cursor is recreated under the same name.
    name: str | None = None

    def __init__(self, cursor: Any, db: Wrapper) -> None:
        self.cursor = cursor
        self.db = db
        self._link = db._link

    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        db, link = self.db, self._link
        if (
            link is not db._link
            or not apps.ready
            or db.needs_rollback
            or _Plain._execute is not EXECUTE
        ):
            return self._call_through(self._send, sql, params, unclear=self.name is not None)
        status = link.status()
        if (
            status != IN_TRANSACTION
            and monotonic() - link.seen_at > FRESH
            and not db._glance(link, status)
        ):
            return self._call_through(self._send, sql, params, unclear=self.name is not None)
        first = db._transaction.enter(status, db.autocommit)
        unit = UNIT.get() if UNDER_WAY and not db._connector.connecting else None
        if unit is not None:
            unit.begin(self, sql)
        try:
            cursor = self.cursor
            result = cursor.execute(sql) if params is None else cursor.execute(sql, params)
        except BaseException as error:
            result = self._failed(error, Call(self, self._send, sql, params, first, status))
            link = self._link
        link.heard_at = link.seen_at = monotonic()
        # Texts that are known to leave the session as it was are the ordinary case.
        # A long one is not looked for: that takes as long as it is.
        known = sql.__class__ is str and len(sql) <= LONGEST and sql in HARMLESS
        if not db.autocommit:
            texts = db._transaction.texts
            if len(texts) < MOST_TEXTS:
                short = known or (sql.__class__ is str and len(sql) <= LONGEST_TEXT)
                texts.add(sql if short else id(sql))
        elif unit is not None:
            unit.took_effect(db.alias, sql)
        if BUCKET.short or not (
            known or (sql.__class__ is str and len(sql) > LONGEST and is_harmless(sql))
        ):
            BUCKET.refund()
            # A named cursor calls its functions when its rows are fetched, if they ever are.
            note_session(db, sql, params, first=first, many=self.name is not None)
        if unit is not None:
            unit.end(self)
        return result

    def _executemany(self, sql: Any, param_list: Any, *ignored: Any) -> Any:
        return self._call_through(self._send_many, sql, param_list, many=True)

    def callproc(self, procname: str, params: Any = None, kparams: Any = None) -> Any:
        """As Django's; the function counts as a read until the server says it is volatile."""

        def send(sql: Any, params: Any) -> Any:
            return super(ResilientCursorMixin, self).callproc(procname, params, kparams)  # type: ignore[misc]

        return self._call_through(send, f'SELECT * FROM "{procname}"()', params)

    def _call_through(
        self,
        send: Callable[[Any, Any], Any],
        sql: Any,
        params: Any,
        *,
        many: bool = False,
        unclear: bool = True,
    ) -> Any:
        """As :meth:`_execute` does it, for what is rare enough to be called through.

        Args:
            send: sends ``(sql, params)`` by Django's own method.
            many: ``params`` are many rows.
            unclear: what it leaves in its session cannot be told from its text alone.
        """
        self._check()
        link = self._link
        status = link.status()
        if status == IN_TRANSACTION or self.db._glance(link, status):
            return self._sent_through(send, sql, params, many, unclear)
        from .state.collecting import collecting

        with collecting():  # what a liveness check announces goes out after the statement
            self._look()
            return self._sent_through(send, sql, params, many, unclear)

    def _sent_through(
        self, send: Callable[[Any, Any], Any], sql: Any, params: Any, many: bool, unclear: bool
    ) -> Any:
        db = self.db
        status = self._link.status()
        first = db._transaction.enter(status, db.autocommit)
        unit = UNIT.get() if UNDER_WAY and not db._connector.connecting else None
        if unit is not None:
            unit.begin(self, sql)
        try:
            result = send(sql, params)
        except BaseException as error:
            result = self._failed(error, Call(self, send, sql, params, first, status, many))
        link = self._link
        if many and isinstance(params, Sized) and not len(params):
            db._transaction.sent_nothing(first, link.status())
        else:
            link.heard(monotonic())
            note_effect(db, sql)
            note_session(db, sql, params, first=first, many=unclear)
        if unit is not None:
            unit.end(self)
        return result

    def _send(self, sql: Any, params: Any) -> Any:
        """Django's own way, with its checks and its translation of errors."""
        return super()._execute(sql, params)  # type: ignore[misc]

    def _send_many(self, sql: Any, param_list: Any) -> Any:
        return super()._executemany(sql, param_list)  # type: ignore[misc]

    def _check(self) -> None:
        """What Django checks before a statement, and that this cursor is the connection's."""
        self.db.validate_no_broken_transaction()
        if self._link is not self.db._link:
            self._renew()

    def _look(self) -> Any:
        """Look at the connection, which may replace it; returns the link of the present one."""
        self.db._look(self)
        if self._link is not self.db._link:
            self._renew()
        return self._link

    def _failed(self, error: BaseException, call: Call) -> Any:
        """Recover, or raise the driver's error translated as Django does."""
        try:
            return self._recovered(error, call)
        except BaseException as raised:
            if not isinstance(raised, Error):
                note_effect(self.db, call.sql)  # it may have one: it is not known how far it came
                note_unsent(self.db, call)
                self.db._interrupted()
            if (unit := UNIT.get()) is not None:
                unit.end(self)
            raise

    def _recovered(self, error: BaseException, call: Call) -> Any:
        db = self.db
        try:
            with db.wrap_database_errors:
                raise error
        except Error as translated:
            wrong = call.is_wrong(error, self._link.status())
            if wrong and call.is_harmless:
                note_wrong(db, call)
                raise
            note_failed(db, call)
            if wrong:
                note_left(db, call)
                raise
            # Imported at the first failure: what heals costs nothing where nothing is wrong.
            try:
                from .recovery.statement import Recovery
            except OSError as unread:  # no file descriptor is left
                note_left(db, call)
                raise translated from (translated.__cause__ or unread)
            from .state.collecting import collecting

            with collecting():
                try:
                    return Recovery(db, call).after(translated)
                except Error:
                    note_left(db, call)
                    raise

    def _renew(self) -> None:
        """Put a driver cursor of the present connection under this wrapper."""
        db = self.db
        for _ in range(_RENEWALS):
            if db.connection is None:
                db.ensure_connection()
            # The outermost cursor(): other engines set their session up there.
            fresh = db._cursor(self.name) if self.name else db.cursor()
            if db._link is not None:
                for name in _GIVEN:
                    if hasattr(self.cursor, name):
                        setattr(fresh.cursor, name, getattr(self.cursor, name))
                with contextlib.suppress(Error, db.Database.Error):
                    self.cursor.close()
                self.cursor, self._link = fresh.cursor, db._link
                return
            # Lost again in there, and passed over: django-tenants does so when its SET fails.
        raise OperationalError(
            f'The connection "{db.alias}" was lost {_RENEWALS} times while its session was set up.'
        )


_execute: Final = ResilientCursorMixin._execute  # in every statement: looked up once
_LISTS: Final[frozenset[object]] = frozenset({list, tuple})
# Parameters: to look at more of them takes longer than to read what the text begins with.
_MANY: Final = 100


def _is_write(sql: object) -> bool:
    """Whether a text writes whatever its parameters are: a transaction that ran it did not read."""
    return sql.__class__ is str and sql[:6].upper() in {"INSERT", "UPDATE", "DELETE"}


class _Psycopg2Cursor(ResilientCursorMixin):
    """A parameter may be text of its statement (``AsIs``), of which nobody has kept a copy."""

    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        db = self.db
        if not db.autocommit and db._transaction.phase < DIRTY:
            self._see_end()
        # In autocommit and without a unit of work nobody keeps what has run.
        if params and (UNDER_WAY or not db.autocommit) and self._has_text(sql, params):
            with self._unread():
                return _execute(self, sql, params)
        return _execute(self, sql, params)

    def _has_text(self, sql: Any, params: Any) -> bool:
        many = params.__class__ in _LISTS and len(params) > _MANY
        if many and not self.db.autocommit and _is_write(sql):
            return False  # the transaction has written, whatever they are
        return has_text(params, self.cursor, known_values())

    def _call_through(
        self, send: Callable[[Any, Any], Any], sql: Any, params: Any, **how: bool
    ) -> Any:
        self._see_end()
        # Rows that are made as they are asked for cannot be looked at before.
        many = how.get("many", False)
        unread = many and not isinstance(params, (list, tuple))
        unread = unread or has_text(params, self.cursor, known_values())
        with self._unread() if unread else contextlib.nullcontext():
            return super()._call_through(send, sql, params, **how)

    def _see_end(self) -> None:
        """Notice that what comes takes effect at once, before anything else has been sent."""
        db, link = self.db, self._link
        if not db.autocommit and link is not None and link.ended_unseen():
            db._transaction.split()

    @contextlib.contextmanager
    def _unread(self) -> Iterator[None]:
        """Within it something runs that is not known by its text."""
        db = self.db
        if db.autocommit and (unit := UNIT.get()) is not None:
            unit.cannot_tell(db.alias)  # now: another thread may judge the unit meanwhile
        try:
            yield
        finally:
            if not db.autocommit:
                db._transaction.texts.add(NO_TEXT)  # of the present connection


if TYPE_CHECKING or is_psycopg3:  # noqa: SIM108  a type, for mypy
    Base = ResilientCursorMixin
else:
    Base = _Psycopg2Cursor


class ResilientCursor(Base, CursorWrapper):
    """Django's cursor wrapper."""
