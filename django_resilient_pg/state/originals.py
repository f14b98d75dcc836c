"""Django's own methods and classes that the healthy path stands in for.

To notice where they were replaced, now or before this module was imported.

Guards, query printers and error trackers replace methods of Django's classes. The healthy path
does by itself what those methods do, so it compares them first and, where one is another, goes
through Django. A method that was replaced before this module was imported never compares equal.
No driver is imported here.
"""

from __future__ import annotations

from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import django
from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper as CursorWrapper

_HOME: Final = str(Path(django.__file__).parent)


def original(owner: Any, name: str) -> Any:
    """Django's method of this name, or what is equal to nothing where it is not Django's."""
    found = getattr(owner, name)
    ours = isinstance(found, FunctionType) and found.__code__.co_filename.startswith(_HOME)
    return found if ours else object()


def original_class(found: Any) -> Any:
    """Django's class below one that may stand in for it; itself where it derives from none."""
    return next((cls for cls in found.__mro__ if cls.__module__.startswith("django.")), found)


if not TYPE_CHECKING:
    CursorWrapper = original_class(utils.CursorWrapper)

EXECUTE: Final = original(CursorWrapper, "_execute")
GETATTR: Final = original(CursorWrapper, "__getattr__")
ITERATE: Final = original(CursorWrapper, "__iter__")
CURSOR_INIT: Final = original(CursorWrapper, "__init__")
MAKE_CURSOR: Final = original(BaseDatabaseWrapper, "make_cursor")
ENSURE_CONNECTION: Final = original(BaseDatabaseWrapper, "ensure_connection")
CHECK_HEALTH: Final = original(BaseDatabaseWrapper, "close_if_health_check_failed")
CONNECT: Final = original(BaseDatabaseWrapper, "connect")
CLOSE: Final = original(BaseDatabaseWrapper, "close")
CURSOR: Final = original(BaseDatabaseWrapper, "cursor")
COMMIT: Final = original(BaseDatabaseWrapper, "commit")
#: The same without Django's question for an event loop, which raises an error to say that there is
#: none; for who has asked already.
CONNECT_ASKED: Final = getattr(CONNECT, "__wrapped__", CONNECT)
CLOSE_ASKED: Final = getattr(CLOSE, "__wrapped__", CLOSE)
CURSOR_ASKED: Final = getattr(CURSOR, "__wrapped__", CURSOR)
COMMIT_ASKED: Final = getattr(COMMIT, "__wrapped__", COMMIT)
CHECK_TRANSACTION: Final = original(BaseDatabaseWrapper, "validate_no_broken_transaction")


class NotAsDjango:
    """Stands for an engine whose methods are looked up through ``super()`` each time."""

    make_cursor = ensure_connection = close_if_health_check_failed = is_usable = None
    connect = close = get_new_connection = get_connection_params = cursor = commit = None
    set_autocommit = _set_autocommit = _close = None


def engine_below(cls: type, own: type) -> Any:
    """The engine that ``own`` is composed with in ``cls``: its methods, looked up without super().

    Of several side by side there is no single one whose methods are those that ``super()`` finds.
    """
    after = cls.__mro__[cls.__mro__.index(own) + 1 :]
    below = after[0]
    return below if below.__mro__ == after and below is not object else NotAsDjango
