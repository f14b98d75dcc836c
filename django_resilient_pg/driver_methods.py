"""What a cursor has of the driver's, by Django's wrapper: its rows, its attributes, COPY."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from .driver.link import IDLE
from .state.effects import note_effect
from .state.originals import GETATTR, CursorWrapper
from .state.unit_of_work import UNIT

COPIES: Final = frozenset({"copy", "copy_expert", "copy_from", "copy_to", "stream"})
_WRAPPED: Final = CursorWrapper.WRAP_ERROR_ATTRS
_Plain: Any = CursorWrapper  # whose types leave out what is private


def _asking(name: str) -> Callable[..., Any]:
    """A method that comes by ``__getattr__``, as all of its kind do with Django's wrapper."""

    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.__getattr__(name)(*args, **kwargs)

    return ask


class DriverMethods:
    """Over Django's cursor wrappers, which look each of these up and wrap it anew each time."""

    db: Any
    cursor: Any
    #: The link of the connection that the driver cursor belongs to.
    _link: Any
    #: Another class has a ``__getattr__`` of its own, which Django's wrapper would ask each time.
    _asked = False

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        known = (DriverMethods, CursorWrapper)
        if any("__getattr__" in vars(c) for c in cls.__mro__ if c not in known):
            cls._asked = True
            for name in ("fetchone", "fetchmany", "fetchall", "close"):
                if getattr(cls, name) is vars(DriverMethods)[name]:
                    setattr(cls, name, _asking(name))

    def _look(self) -> Any:
        """Check the connection, which may replace it."""
        raise NotImplementedError

    def fetchone(self) -> Any:
        """As the driver's, its errors translated. Django looks it up and wraps it each time."""
        if _Plain.__getattr__ is not GETATTR:
            return self.__getattr__("fetchone")()
        try:
            return self.cursor.fetchone()
        except BaseException:
            with self.db.wrap_database_errors:
                raise

    def fetchmany(self, *size: Any, **named: Any) -> Any:
        """As :meth:`fetchone`."""
        if _Plain.__getattr__ is not GETATTR:
            return self.__getattr__("fetchmany")(*size, **named)
        try:
            if named or len(size) != 1:
                return self.cursor.fetchmany(*size, **named)
            return self.cursor.fetchmany(size[0])  # Django's way; to pass it on unread takes longer
        except BaseException:
            with self.db.wrap_database_errors:
                raise

    def fetchall(self) -> Any:
        """As :meth:`fetchone`."""
        if _Plain.__getattr__ is not GETATTR:
            return self.__getattr__("fetchall")()
        try:
            return self.cursor.fetchall()
        except BaseException:
            with self.db.wrap_database_errors:
                raise

    def close(self) -> None:
        """As the driver's."""
        if _Plain.__getattr__ is not GETATTR:
            self.__getattr__("close")()
        else:
            self.cursor.close()

    def __getattr__(self, attr: str) -> Any:
        # As Django's, without calling it: every fetch comes through here.
        if self._asked or CursorWrapper.__getattr__ is not GETATTR:
            found = super().__getattr__(attr)  # type: ignore[misc]
            return partial(self._copy, attr, None) if attr in COPIES else found
        found = getattr(self.cursor, attr)
        if attr in COPIES:
            return partial(self._copy, attr, None)  # whether there is one may be all that is asked
        return self.db.wrap_database_errors(found) if attr in _WRAPPED else found

    def _copy(self, name: str, debug: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> Any:
        """Copy by the debug cursor's way, or else the driver's."""
        self._before_copy()
        from .recovery.copy import heard_after

        # Of the present connection: the liveness check may have replaced it.
        return heard_after(self.db, name, debug or getattr(self.cursor, name))(*args, **kwargs)

    def _before_copy(self) -> None:
        """What goes past ``execute()`` is looked at before, and counts as a write."""
        db = self.db
        if self._link is db._link and self._link.status() == IDLE:
            self._look()
        db._transaction.observe(self._link.status(), db.autocommit)
        db._transaction.dirtied()
        note_effect(db, "COPY")
        if (unit := UNIT.get()) is not None:
            unit.check(self.db.alias)
