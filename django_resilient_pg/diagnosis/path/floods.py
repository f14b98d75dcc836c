"""A peer that sends without an end: how much has come, and when to hang up.

No answer to a question of this command comes near the limit, but a driver keeps whatever a peer
sends until the answer is complete. Where the system does not count bytes (other than Linux), only
time is limited.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Collection, Iterator
from typing import Final

from ...driver.sockets import bytes_read

#: Bytes.
MOST: Final = 16 * 1024 * 1024
#: Seconds from one count to the next: within them not much more than the limit can come.
TICK: Final = 0.005
_DESCRIPTORS: Final = "/proc/self/fd"


class TooMuch(TimeoutError):
    """The peer sent more than any answer has."""

    def __init__(self) -> None:
        super().__init__(f"it sent more than {MOST // 1024 // 1024} MB without an end")


def beyond(fd: int) -> Callable[[], bool]:
    """Return what tells whether more than :data:`MOST` has come from now on."""
    before = bytes_read(fd) or 0
    return lambda: (bytes_read(fd) or 0) - before > MOST


class Dials:
    """The connections that a driver opens to some ports from now on.

    A driver tells the descriptor of a connection only once the login is complete.
    """

    def __init__(self) -> None:
        self._before = frozenset(_descriptors())

    def flooded(self, ports: Collection[int]) -> bool:
        """Hang up where more than :data:`MOST` has come; return whether there was such a one."""
        found = False
        for fd in _descriptors() - self._before:
            with contextlib.suppress(OSError), _opened(fd) as own:
                if (bytes_read(fd) or 0) > MOST and _port(own) in ports:
                    own.shutdown(socket.SHUT_RDWR)
                    found = True
        return found


@contextlib.contextmanager
def _opened(fd: int) -> Iterator[socket.socket]:
    """A socket object around a duplicate: closing it closes nothing of the driver's.

    Raises:
        OSError: it is no socket.
    """
    copy = os.dup(fd)
    try:
        own = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with own:
        yield own


def _descriptors() -> set[int]:
    try:
        return {int(name) for name in os.listdir(_DESCRIPTORS)}
    except OSError:  # another system than Linux
        return set()


def _port(own: socket.socket) -> int:
    peer = own.getpeername()
    return int(peer[1]) if isinstance(peer, tuple) else 0
