"""Whether a unit of work has used a connection of another engine, where nobody counts effects.

Such connections are watched one by one: each notes that a cursor was made on it, or a hook
registered. Connections of this engine pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from ..state.aliases import is_ours
from ..state.unit_of_work import UNIT

# Every statement, callproc() and COPY needs a cursor, and these two make them all. A hook can run
# without any.
_WAYS: Final = ("make_cursor", "make_debug_cursor", "on_commit")
_connected: Final[list[bool]] = []


def watch_from_now() -> None:
    """Watch the connections of other engines, those that are there and those that will be."""
    # Once: Django 5.2 keeps something of every further time, for ever.
    if not _connected:
        connection_created.connect(
            _watch_new, dispatch_uid="django_resilient_pg.replay.other_engines"
        )
        _connected.append(True)
    for connection in _unwatched():
        _watch(connection)


def used(unit_aliases: set[str]) -> set[str]:
    """The aliases of other engines that a unit has used, or may have.

    One of this thread that was made since, and has never connected, is not watched yet: all that
    could have been used of it is a hook that waits.
    """
    unwatched = _unwatched()
    for connection in unwatched:
        _watch(connection)
    doubtful = (one for one in unwatched if one.connection is not None or one.run_on_commit)
    return unit_aliases | {connection.alias for connection in doubtful}


def _unwatched() -> list[BaseDatabaseWrapper]:
    every = connections.all(initialized_only=True)
    return [one for one in every if not is_ours(one) and "on_commit" not in one.__dict__]


def _watch_new(sender: object, connection: BaseDatabaseWrapper, **_: object) -> None:
    if not is_ours(connection) and "on_commit" not in connection.__dict__:
        _watch(connection)


def _watch(connection: BaseDatabaseWrapper) -> None:
    for way in _WAYS:
        setattr(connection, way, _noting(connection, way))


def _noting(connection: BaseDatabaseWrapper, way: str) -> Callable[..., Any]:
    its_own = connection.__dict__.get(way)

    def noting(*args: Any, **kwargs: Any) -> Any:
        if (unit := UNIT.get()) is not None:
            unit.used_foreign(connection.alias)
            unit.check(connection.alias)
        if its_own is not None:
            return its_own(*args, **kwargs)
        # Looked up at each call: what replaces it on the class still takes effect.
        return getattr(type(connection), way)(connection, *args, **kwargs)

    return noting
