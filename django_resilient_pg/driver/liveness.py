"""Is this connection alive? Asked before a unit of work, cheapest question first.

1. ``poll`` on the socket (no round trip; done inline by the mixin): nothing arrived, so no end
   of the session has reached this kernel.
2. Something arrived: libpq reads it. Readable is not dead (NOTIFY, ParameterStatus, a TLS
   ticket), and if it is the end, the server's reason is in it.
3. Idle for longer than ``ping_after``: a drop may have been silent. TCP_INFO shows whether the
   peer's kernel was heard lately (keepalives), which is proof on a direct path only.
4. No proof: one ping that ends after ``ping_timeout`` seconds whatever the peer does.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from time import perf_counter

from ..facts import Path, TcpInfo, tcp_info
from .link import Link


class Vital(enum.Enum):
    """What a liveness check found."""

    ALIVE = "alive"
    LOST = "lost"
    #: Alive as far as can be told, but idle for longer than its limit: not worth the risk.
    STALE = "stale"


def inspect(
    link: Link,
    *,
    idle: float,
    idle_limit: float,
    ping_after: float,
    ping_timeout: float,
    path: Path,
    tcp: Callable[[int], TcpInfo | None] = tcp_info,
    took: Callable[[float], object] | None = None,
) -> Vital:
    """Check a connection that is not in use.

    Args:
        link: the connection; the caller has made sure that nobody else is using it.
        idle: seconds since the server was last heard.
        idle_limit: seconds after which it is replaced rather than trusted; ``inf`` for none.
        ping_after: seconds idle after which silence is not trusted.
        ping_timeout: hard limit of the ping, in seconds.
        path: what lies between; only on a direct one does TCP_INFO speak of the server.
        tcp: for tests.
        took: gets the seconds that a check took which goes beyond the peek.
    """
    if link.lost():
        return Vital.LOST
    arrived, limited = link.poll(0), idle > idle_limit
    if not arrived and (limited or idle <= ping_after):
        return Vital.STALE if limited else Vital.ALIVE
    began = perf_counter()
    try:
        if arrived:
            link.consume()
            if link.lost():
                return Vital.LOST
        if limited:
            return Vital.STALE
        if idle <= ping_after or _heard_lately(link, idle, ping_after, path, tcp):
            return Vital.ALIVE
        return Vital.ALIVE if link.ping(ping_timeout) else Vital.LOST
    finally:
        if took is not None:
            took(perf_counter() - began)


def _heard_lately(
    link: Link, idle: float, ping_after: float, path: Path, tcp: Callable[[int], TcpInfo | None]
) -> bool:
    """Whether the server's own kernel acknowledged something within ``ping_after`` seconds."""
    if path not in {Path.DIRECT, Path.VIRTUAL_IP}:
        return False
    info = tcp(link.fd)
    if info is None or info.probes or info.backoff or info.retransmits:
        return False
    return info.last_ack_recv < min(idle, ping_after)
