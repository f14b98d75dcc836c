"""COPY and ``stream()``: what goes past ``execute()`` and takes its time.

Imported at the first of them. When it is over the server has just been heard: a connection that was
busy was not idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .mixins import ResilientDatabaseMixin


def heard_after(db: ResilientDatabaseMixin, name: str, send: Callable[..., Any]) -> Any:
    """The driver's method of this name, which notes when it was over."""
    ways = {"copy": _copied, "stream": _streamed}
    return partial(ways.get(name, _called), db, send)


@contextmanager
def _copied(
    db: ResilientDatabaseMixin, send: Callable[..., Any], *args: Any, **kwargs: Any
) -> Iterator[Any]:
    with send(*args, **kwargs) as copy:
        yield copy
    _heard(db)


def _streamed(
    db: ResilientDatabaseMixin, send: Callable[..., Any], *args: Any, **kwargs: Any
) -> Iterator[Any]:
    yield from send(*args, **kwargs)
    _heard(db)


def _called(db: ResilientDatabaseMixin, send: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    result = send(*args, **kwargs)
    _heard(db)
    return result


def _heard(db: ResilientDatabaseMixin) -> None:
    db._heard_at = monotonic()
