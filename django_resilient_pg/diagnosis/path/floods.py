"""A peer that sends without an end: how much has come, and when to hang up.

No answer to a question of this command comes near the limit, but a driver keeps whatever a peer
sends until the answer is complete. Linux counts the bytes of each TCP connection (TCP_INFO); where
the system does not count, only time is limited.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Final

#: Bytes.
MOST: Final = 16 * 1024 * 1024
#: Seconds from one count to the next: within them not much more than the limit can come.
TICK: Final = 0.005
# struct tcp_info: 8 bytes, 24 times u32, then u64: pacing_rate, max_pacing_rate, bytes_acked,
# bytes_received (Linux 4.1).
_RECEIVED: Final = struct.Struct("=128xQ")
_DESCRIPTORS: Final = "/proc/self/fd"


class TooMuch(TimeoutError):
    """The peer sent more than any answer has."""

    def __init__(self) -> None:
        super().__init__(f"it sent more than {MOST // 1024 // 1024} MB without an end")


def received(fd: int) -> int:
    """Return the bytes that a TCP connection has brought so far; 0: not known."""
    with contextlib.suppress(OSError), _opened(fd) as own:
        return _received(own)
    return 0


def _received(own: socket.socket) -> int:
    if not sys.platform.startswith("linux"):
        return 0
    try:
        raw = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.size)
    except OSError:  # no TCP
        return 0
    return int(_RECEIVED.unpack(raw)[0]) if len(raw) == _RECEIVED.size else 0


def beyond(fd: int) -> Callable[[], bool]:
    """Return what tells whether more than :data:`MOST` has come from now on."""
    before = received(fd)
    return lambda: received(fd) - before > MOST


class Dialling:
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
                if _port(own) in ports and _received(own) > MOST:
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
