"""Threads that end with the request they serve, as ASGI has them.

Django's ASGI handler gives each request a thread of its own for its synchronous code. A connection
kept by such a thread is never used again: with CONN_MAX_AGE=60, a hundred requests left a hundred
connections open. So there it is closed when the request has finished, and at the latest with its
thread (work that goes on after the request makes a thread that no signal tells of).
"""

from __future__ import annotations

import contextlib
import threading
import weakref

from ..state.wrapper import Wrapper


class _Closing:
    """Belongs to one thread and goes with it; then what that thread has connected is closed."""

    def __init__(self) -> None:
        # They are made and dropped by Django, which may do so before the thread ends.
        self.wrappers: weakref.WeakSet[Wrapper] = weakref.WeakSet()

    def __del__(self) -> None:
        for db in list(self.wrappers):
            with contextlib.suppress(Exception):
                db.close()


class _Local(threading.local):
    closing: _Closing | None = None


_local = _Local()


def watch(db: Wrapper) -> None:
    """This thread ends with its request: see to it that ``db`` is closed then."""
    if _local.closing is None:
        _local.closing = _Closing()
    _local.closing.wrappers.add(db)
