"""The cursor wrapper that runs a statement again.

It sits below Django's execute wrappers, debug log and ``assertNumQueries``: they see one
statement however often it is sent (Django's own tests want ``execute_wrappers`` left alone).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sized
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.db.backends.postgresql.base import CursorDebugWrapper
from django.db.backends.postgresql.psycopg_any import is_psycopg3
from django.db.backends.utils import CursorWrapper
from django.db.utils import Error, OperationalError

from .bucket import BUCKET
from .drivers import IDLE, IN_TRANSACTION
from .literals import has_text, known_values
from .server_side import ServerSideMixin
from .session import HARMLESS
from .units import MOST_TEXTS, NO_TEXT, UNDER_WAY, UNIT

if TYPE_CHECKING:
    from .mixins import ResilientDatabaseMixin

# An answer or a look this fresh (seconds) is not followed by another look: the statements of a
# busy request come faster. Death can come later than any look, so looking narrows a gap that
# nothing closes; this leaves it at half a millisecond.
FRESH: Final = 0.0005
_RENEWALS: Final = 3  # cursors asked of an engine that passes over the loss of its session
_COPIES: Final = frozenset({"copy", "copy_expert", "copy_from", "copy_to", "stream"})
_GIVEN: Final = ("arraysize", "row_factory")  # to a driver's cursor, by who wants its rows so
_WRAPPED: Final = CursorWrapper.WRAP_ERROR_ATTRS


class ResilientCursorMixin:
    """Over Django's cursor wrappers.

    The healthy path is written out rather than called through ``super()``: it does what Django's
    ``_execute`` does (Django 5.2 to 6.1), and pays for its own checks by entering
    ``wrap_database_errors`` only when there is an error to wrap.
    """

    db: Any
    cursor: Any
    #: The server-side cursor's name; such a cursor is made anew under the same name.
    name: str | None = None
    #: The link of the connection that the driver cursor belongs to.
    _link: Any

    def __init__(self, cursor: Any, db: ResilientDatabaseMixin) -> None:
        self.cursor = cursor
        self.db = db
        self._link = db._link

    # Branches are cheaper than calls here; each is one line of the promise.
    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:  # noqa: C901
        db = self.db
        if self._link is not db._link or not apps.ready or db.needs_rollback:
            self._check()
        status = db._status()
        if status != IN_TRANSACTION:
            if monotonic() - db._seen_at > FRESH:
                self._look()
                status = db._status()
            if not (db.autocommit or db._untouched) and status == IDLE:
                db._note_ended()
            # Not in a failed transaction: it has run something.
            db._untouched = status == IDLE and not db._split
        elif db._untouched and not db._opened:
            db._note_raw()
        untouched = db._untouched
        db._untouched = False
        unit = UNIT.get() if UNDER_WAY and not db._connecting else None
        if unit is not None:
            unit.begin(self, sql)
        try:
            if params is None:
                result = self.cursor.execute(sql)
            else:
                result = self.cursor.execute(sql, params)
        except BaseException as error:
            result = self._failed(error, self._send, sql, params, untouched, status)
        db._heard_at = db._seen_at = monotonic()
        if BUCKET.short:
            BUCKET.refund()
        if db.autocommit:
            if unit is not None:
                unit.took_effect(db.alias, sql)
        elif sql.__class__ is str and len(db._ran) < MOST_TEXTS:
            # db._note_effect written out: it is called for every statement of a transaction.
            db._ran.add(sql)
        else:
            db._note_effect(sql)
        # Texts that are known to leave the session as it was are the ordinary case.
        if sql.__class__ is not str or sql not in HARMLESS:
            # A named cursor calls its functions when its rows are fetched, if they ever are.
            db._note_session(sql, params, many=self.name is not None)
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
        self, send: Callable[[Any, Any], Any], sql: Any, params: Any, *, many: bool = False
    ) -> Any:
        """As :meth:`_execute` does it, for what is rare enough to be called through."""
        db = self.db
        self._check()
        status = db._status()
        if status != IN_TRANSACTION:
            self._look()
            status = db._status()
            if not (db.autocommit or db._untouched) and status == IDLE:
                db._note_ended()
            db._untouched = status == IDLE and not db._split
        elif db._untouched and not db._opened:
            db._note_raw()
        untouched = db._untouched
        db._untouched = False
        unit = UNIT.get() if UNDER_WAY and not db._connecting else None
        if unit is not None:
            unit.begin(self, sql)
        try:
            result = send(sql, params)
        except BaseException as error:
            result = self._failed(error, send, sql, params, untouched, status, many)
        if many and isinstance(params, Sized) and not len(params):
            self._note_nothing(untouched)
        else:
            db._heard_at = db._seen_at = monotonic()
            db._note_effect(sql)
            db._note_session(sql, params, many=True)
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
        if not apps.ready and not apps.stored_app_configs:
            message = CursorWrapper.APPS_NOT_READY_WARNING_MSG
            warnings.warn(message, category=RuntimeWarning, stacklevel=4)
        self.db.validate_no_broken_transaction()
        if self._link is not self.db._link:
            self._renew()

    def _look(self) -> None:
        self.db._look()
        if self._link is not self.db._link:
            self._renew()

    def _failed(self, error: BaseException, *call: Any) -> Any:
        """Recover, or raise the driver's error translated as Django does."""
        try:
            return self._recovered(error, *call)
        except BaseException:
            if (unit := UNIT.get()) is not None:
                unit.end(self)
            raise

    def _recovered(self, error: BaseException, *call: Any) -> Any:
        try:
            with self.db.wrap_database_errors:
                raise error
        except Error as translated:
            if not self.db.autocommit:
                self.db._note_end(call[1], IN_TRANSACTION)  # by its text alone
                self._note_unsent(*call)
            elif UNDER_WAY:
                self.db._note_failed(call[1], many=True in call[5:])
            # Imported at the first failure: what heals costs nothing where nothing is wrong.
            from .recovery import Call, Recovery

            try:
                return Recovery(self.db, Call(self, *call)).after(translated)
            except Error:
                self.db._note_left(call[1], many=True in call[5:])
                raise
            except BaseException:
                self._note_interrupted(*call)
                raise
        except BaseException:
            self._note_interrupted(*call)
            raise

    def _note_interrupted(self, *call: Any) -> None:
        self.db._note_effect(call[1])  # it may have one: it is not known how far it came
        self._note_unsent(*call)
        self.db._interrupted()

    def _note_nothing(self, untouched: bool) -> None:
        """Of no rows nothing was sent but, by psycopg 3, BEGIN."""
        if untouched and not self.db._split:
            self.db._untouched, self.db._opened = True, self.db._status() == IN_TRANSACTION

    def _note_unsent(self, *call: Any) -> None:
        """A first statement that the driver refused has left the transaction as it was."""
        if call[3] and not self.db._split and self.db._status() == IDLE:
            self.db._untouched = True

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

    def __getattr__(self, attr: str) -> Any:
        # As Django's, without calling it: every fetch comes through here.
        found = getattr(self.cursor, attr)
        if attr in _COPIES:
            return partial(self._copy, attr, None)  # whether there is one may be all that is asked
        return self.db.wrap_database_errors(found) if attr in _WRAPPED else found

    def _copy(self, name: str, debug: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> Any:
        """Copy by the debug cursor's way, or else the driver's."""
        self._before_copy()
        from .copying import heard_after

        # Of the present connection: the look may have replaced it.
        return heard_after(self.db, name, debug or getattr(self.cursor, name))(*args, **kwargs)

    def _before_copy(self) -> None:
        """What goes past ``execute()`` is looked at before, and counts as a write."""
        self.db._note_by_hand(self.db._status())
        if self._link is self.db._link and self.db._status() == IDLE:
            self._look()
        self.db._untouched = False
        self.db._note_effect("COPY")
        if (unit := UNIT.get()) is not None:
            unit.check(self.db.alias)


class _Psycopg2Cursor(ResilientCursorMixin):
    """A parameter may be text of its statement (``AsIs``), of which nobody has kept a copy."""

    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        # In autocommit and without a unit of work nobody keeps what has run.
        kept = params and (UNDER_WAY or not self.db.autocommit)
        if not (kept and has_text(params, self.cursor, known_values())):
            return super()._execute(sql, params)
        with self._unread():
            return super()._execute(sql, params)

    def _call_through(
        self, send: Callable[[Any, Any], Any], sql: Any, params: Any, *, many: bool = False
    ) -> Any:
        # Rows that are made as they are asked for cannot be looked at before.
        unread = many and not isinstance(params, (list, tuple))
        unread = unread or has_text(params, self.cursor, known_values())
        with self._unread() if unread else contextlib.nullcontext():
            return super()._call_through(send, sql, params, many=many)

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
                db._ran.add(NO_TEXT)  # of the present connection


class DebugCopies:
    """Over Django's debug cursor, which has methods to copy that no ``__getattr__`` sees."""

    _copy: Callable[..., Any]


def _copies_first(name: str) -> Callable[..., Any]:
    def copy(self: DebugCopies, *args: Any, **kwargs: Any) -> Any:
        return self._copy(name, getattr(super(DebugCopies, self), name), *args, **kwargs)

    return copy


# Those of the driver that there is: code asks with hasattr() which one it is.
for _name in _COPIES.intersection(vars(CursorDebugWrapper)):
    setattr(DebugCopies, _name, _copies_first(_name))


if TYPE_CHECKING or is_psycopg3:  # noqa: SIM108  a type, for mypy
    _Base = ResilientCursorMixin
else:
    _Base = _Psycopg2Cursor


class ResilientCursor(_Base, CursorWrapper):
    """Django's cursor wrapper."""


class ResilientDebugCursor(DebugCopies, _Base, CursorDebugWrapper):
    """Django's debug cursor wrapper."""


class ResilientServerCursor(ServerSideMixin, _Base, CursorWrapper):
    """A server-side cursor."""


class ResilientServerDebugCursor(ServerSideMixin, DebugCopies, _Base, CursorDebugWrapper):
    """A server-side cursor with the debug log."""
