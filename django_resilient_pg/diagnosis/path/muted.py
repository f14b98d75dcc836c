"""What libpq itself writes to standard error: notices of a login, as the server sends them.

psycopg 3 takes every notice. psycopg2 takes those that come after the login; before, libpq writes
them to the terminal unescaped, with whatever a peer has put into them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final

_STDERR: Final = 2
_LOCK: Final = threading.Lock()
# The descriptor that standard error had before, while somebody logs in.
_kept: list[int] = []
_users: set[object] = set()


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Have libpq write to nowhere meanwhile. For as short as goes: it holds for all threads."""
    own = object()
    _enter(own)
    try:
        yield
    finally:
        _leave(own)


def _enter(own: object) -> None:
    with _LOCK, contextlib.suppress(OSError):  # a daemon may have closed it
        if not _users:
            _kept.append(os.dup(_STDERR))
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _STDERR)
            os.close(nowhere)
        _users.add(own)


def _leave(own: object) -> None:
    with _LOCK, contextlib.suppress(OSError):
        _users.discard(own)
        if not _users and _kept:
            kept = _kept.pop()
            os.dup2(kept, _STDERR)
            os.close(kept)
