"""The events of a recovery under way: collected in order, until its outcome is fixed.

What they are, and to whom they go, is :mod:`.announce`, imported with the first of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any

from django.db.utils import Error

if TYPE_CHECKING:
    from .incidents import Incident
    from .wrapper import Wrapper

    #: What is sent, and about which connection; ``None``: about none.
    Item = tuple[Wrapper | None, Callable[[], object] | Incident]


class Box:
    """The events of a recovery under way in this thread.

    Attributes:
        items: the events.
        thread: whose they are. A context is copied to other threads, whose recoveries are their
            own.
    """

    __slots__ = ("items", "thread")

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.thread = get_ident()


#: What keeps or sends the events of a recovery that is over, and what hears that no connection came
#: in the place of a lost one. Set by :mod:`.announce`: without it there are no events.
announcers: list[tuple[Callable[[list[Item]], None], Callable[[Wrapper, Box, Error], None]]] = []

BOX: ContextVar[Box | None] = ContextVar("django_resilient_pg_announcements", default=None)


def here() -> Box | None:
    """The recovery under way in this thread, if there is one."""
    box = BOX.get()
    return box if box is not None and box.thread == get_ident() else None


def _end(box: Box) -> None:
    for end, _ in announcers:
        end(box.items)


@contextlib.contextmanager
def collecting() -> Iterator[Box]:
    """A recovery: its events go out at its end, or at that of the recovery around it."""
    if (outer := here()) is not None:
        yield outer
        return
    box = Box()
    token = BOX.set(box)
    try:
        yield box
    finally:
        BOX.reset(token)
        _end(box)


def collected(do: Callable[[Wrapper, Any], None], db: Wrapper, argument: Any) -> None:
    """Call what connects within :func:`collecting`.

    A connection that could not be replaced has reached the application.
    """
    with collecting() as box:
        try:
            do(db, argument)
        except Error as error:
            for _, not_reconnected in announcers:
                not_reconnected(db, box, error)
            raise


def begin(db: Wrapper) -> None:
    """From here on events are collected, if ``db`` is being connected: who does that ends it.

    For what connects without any event nearly always, as each request with a pool does.
    """
    if db._connector.retrying and here() is None:
        BOX.set(Box())


def end(outer: Box | None) -> None:
    """What has begun within a recovery, or ``None``, is over."""
    box = BOX.get()
    BOX.set(outer)
    if box is not None:
        _end(box)
