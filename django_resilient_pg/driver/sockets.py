"""What a socket says of itself, asked without waiting and without a duplicate of its descriptor."""

from __future__ import annotations

import _socket
import select
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, cast

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import FIONREAD


def _kernels_poll() -> Callable[[], Any] | None:
    """``select.poll`` as it was before gevent put its own in the place, or eventlet took it away.

    Ours never waits, so it need not give way to other greenlets; gevent's does even then, which
    takes seven times as long and lets them run in the middle of a liveness check (measured).
    """
    if hasattr(select, "poll"):
        monkey = sys.modules.get("gevent.monkey")
        poll = select.poll if monkey is None else monkey.get_original("select", "poll")
        return cast(Callable[[], Any], poll)
    patcher = sys.modules.get("eventlet.patcher")
    return None if patcher is None else getattr(patcher.original("select"), "poll", None)


def poll_for(fd: int) -> Callable[[int], object]:
    """A callable that tells at once whether anything arrived on ``fd``, errors and ends included.

    Called with a timeout in milliseconds; returns something true when it is readable. Without
    ``poll`` (Windows) it is a ``select``; without POLLRDHUP (macOS) an end of stream is seen as
    "readable", which is enough because readable is always looked into.
    """
    if (kernels := _kernels_poll()) is not None:
        poller: select.poll = kernels()
        poller.register(fd, select.POLLIN | getattr(select, "POLLRDHUP", 0))
        return poller.poll
    return lambda timeout: select.select([fd], [], [], timeout / 1000)[0]


def wait_for(fd: int, seconds: float, *, writable: bool = False) -> bool:
    """Wait until ``fd`` is readable (or writable); False: it is not, after so many seconds.

    By what is in ``select`` now, so that other greenlets run meanwhile.
    """
    if not hasattr(select, "poll"):
        return any(select.select([fd], [fd] if writable else [], [], seconds))
    poller = select.poll()
    poller.register(fd, select.POLLIN | (select.POLLOUT if writable else 0))
    return bool(poller.poll(seconds * 1000))


def port_of(fd: int) -> int | None:
    """The own TCP port of a socket, without a duplicate of its descriptor."""
    try:
        own = _socket.socket(fileno=fd)
    except OSError:  # none
        return None
    try:
        name = own.getsockname()
    except OSError:
        return None
    finally:
        own.detach()
    return int(name[1]) if isinstance(name, tuple) else None


def _nothing(arrived: Callable[[int], object]) -> bool:
    try:
        return not arrived(0)
    except RuntimeError:  # another thread asks just now
        return False


def _waiting(fd: int) -> int:
    """How many bytes wait to be read."""
    return int(_INT.unpack(ioctl(fd, FIONREAD, _NO_INT))[0])


# Where struct tcp_info (linux/tcp.h) has tcpi_bytes_received, a u64, since Linux 4.1.
_RECEIVED: Final = struct.Struct("=128xQ")
_INT: Final = struct.Struct("i")
_NO_INT: Final = bytes(_INT.size)


def bytes_read(fd: int, arrived: Callable[[int], object] | None = None) -> int | None:
    """How many bytes have been read from a TCP socket, without a duplicate of its descriptor.

    Args:
        fd: the socket's.
        arrived: see :func:`poll_for`; asking it is quicker than to count what waits.
    """
    if sys.platform != "linux":
        return None
    try:
        # Whatever it is: to find that out would take more system calls.
        own = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, fd)
    except OSError:  # none
        return None
    try:
        # First what waits to be read: what comes in between then counts as read, never as not.
        waiting = 0 if arrived is not None and _nothing(arrived) else _waiting(fd)
        raw = own.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _RECEIVED.size)
    except OSError:  # not TCP
        return None
    finally:
        own.detach()
    return int(_RECEIVED.unpack(raw)[0] - waiting) if len(raw) == _RECEIVED.size else None
