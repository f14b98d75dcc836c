"""The cursor wrappers that are not Django's plain one: server-side, with the debug log, others'.

Imported for the first of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from django.db.backends.postgresql import base

from .cursors import Base, ResilientCursor, ResilientCursorMixin
from .driver_methods import COPIES
from .server_cursors import ServerSideMixin
from .state.originals import CursorWrapper, original_class

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import CursorDebugWrapper

    from .state.wrapper import Wrapper
else:
    CursorDebugWrapper = original_class(base.CursorDebugWrapper)


class DebugCopies:
    """Over Django's debug cursor, which has methods to copy that no ``__getattr__`` sees."""

    _copy: Callable[..., Any]


def _copies_first(name: str) -> Callable[..., Any]:
    def copy(self: DebugCopies, *args: Any, **kwargs: Any) -> Any:
        return self._copy(name, getattr(super(DebugCopies, self), name), *args, **kwargs)

    return copy


# Those of the driver that there is: code asks with hasattr() which one it is.
for _name in COPIES.intersection(vars(CursorDebugWrapper)):
    setattr(DebugCopies, _name, _copies_first(_name))


class _Through(Base):
    """Over cursor wrappers that are more than Django's plain one: statements go through them."""

    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        return self._call_through(self._send, sql, params, unclear=self.name is not None)


class ResilientDebugCursor(DebugCopies, _Through, CursorDebugWrapper):
    """Django's debug cursor wrapper."""


class ResilientServerCursor(ServerSideMixin, ResilientCursor):
    """A server-side cursor."""


class ResilientServerDebugCursor(ServerSideMixin, ResilientDebugCursor):
    """A server-side cursor with the debug log."""


#: By the class that Django, or what replaced it, has made a cursor of, and whether it is
#: server-side: the class that heals it.
_OVER: Final[dict[tuple[type, bool], Any]] = {
    (ResilientCursor, True): ResilientServerCursor,
    (CursorDebugWrapper, False): ResilientDebugCursor,
    (ResilientDebugCursor, True): ResilientServerDebugCursor,
}


def _class_over(kind: type, *, server_side: bool) -> Any:
    found = _OVER.get((kind, server_side))
    if found is None:
        bases: tuple[Any, ...] = (kind,)
        if not issubclass(kind, ResilientCursorMixin):
            copies = (DebugCopies,) if issubclass(kind, CursorDebugWrapper) else ()
            bases = (*copies, _Through, kind)
        if server_side and not issubclass(kind, ServerSideMixin):
            bases = (ServerSideMixin, *bases)
        found = _OVER[kind, server_side] = type(f"Resilient{kind.__name__}", bases, {})
    return found


def adopt(made: Any, db: Wrapper, name: str | None = None) -> Any:
    """Have a cursor healed that Django, or what replaced its methods, has made.

    Args:
        made: a cursor wrapper of any class; one that is not derived from Django's is left alone.
        db: its wrapper.
        name: of a server-side cursor.
    """
    if not isinstance(made, CursorWrapper):
        return made
    if not isinstance(made, ResilientCursorMixin) or name is not None:
        made.__class__ = _class_over(type(made), server_side=name is not None)
        made.__dict__["_link"] = db._link
    if name is not None:
        made.__dict__["name"] = name
    return made
