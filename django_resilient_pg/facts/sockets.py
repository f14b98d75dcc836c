"""What the kernel says of a connection's socket: addresses, keepalives, TCP_INFO.

Everything works on a duplicate of libpq's descriptor, closed again at once: whatever interrupts us
(a signal handler's exception, too), libpq's own is never closed.
"""

import ipaddress
import os
import socket
import struct
import sys
from typing import Any, Final, NamedTuple

from ..conf.records import Record

# The head of struct tcp_info (linux/tcp.h, unchanged since 2.6): 8 bytes (tcpi_state,
# tcpi_ca_state, tcpi_retransmits, tcpi_probes, tcpi_backoff, tcpi_options, two of bit fields),
# then 24 times u32: rto, ato, snd_mss, rcv_mss, unacked, sacked, lost, retrans, fackets,
# last_data_sent, last_ack_sent, last_data_recv, last_ack_recv, pmtu, rcv_ssthresh, rtt, rttvar ...
# last_* are milliseconds, rto and rtt microseconds. Kernels only ever add at the end.
_TCP_INFO: Final = struct.Struct("8B24I")
_UNACKED, _LAST_DATA_SENT, _LAST_DATA_RECV, _LAST_ACK_RECV, _RTT = 12, 17, 19, 20, 23
# include/net/tcp_states.h, from 1.
_STATES: Final = (
    "ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN"
    " CLOSING NEW_SYN_RECV"
).split()


class Endpoint(NamedTuple):
    """An address and a port. Addresses are compared in the form :func:`plain_address` makes."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self[0]}:{self[1]}"


class SocketOptions(NamedTuple):
    """The keepalive settings that are really on a socket, in seconds.

    ``None``: this platform, or a Unix socket, has none. A ``user_timeout`` of 0 is the system's
    own (about 15 minutes on Linux).
    """

    keepalives: bool
    keepalives_idle: float | None
    keepalives_interval: float | None
    keepalives_count: int | None
    user_timeout: float | None


class TcpInfo(Record):
    """What Linux knows of a TCP connection. Times are in seconds.

    Attributes:
        state: "ESTABLISHED", "CLOSE_WAIT" (the peer has hung up) ...
        retransmits: times in a row that the oldest data was sent again.
        probes: keepalive probes that were not answered.
        backoff: doublings of the wait for an answer.
        unacked: segments sent and not acknowledged.
        last_data_sent, last_data_recv: since data went out, came in.
        last_ack_recv: since the peer's kernel was last heard, which answers keepalives, too.
        rtt: smoothed round-trip time.
    """

    state: str
    retransmits: int
    probes: int
    backoff: int
    unacked: int
    last_data_sent: float
    last_data_recv: float
    last_ack_recv: float
    rtt: float


def _own(fd: int) -> socket.socket:
    """Return a socket object around a duplicate: closing it closes nothing of libpq's."""
    copy = os.dup(fd)
    try:
        return socket.socket(fileno=copy)
    except OSError:  # not a socket (any more)
        os.close(copy)
        raise


def tcp_info(fd: int) -> TcpInfo | None:
    """Return the kernel's view of a TCP connection; None where there is none.

    Costs three system calls and no round trip. None: not Linux, not TCP, or no socket.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        with _own(fd) as own:
            raw = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    return parse_tcp_info(raw) if len(raw) == _TCP_INFO.size else None


def parse_tcp_info(raw: bytes) -> TcpInfo:
    """Read the head of the kernel's struct (layout: top of this module)."""
    values = _TCP_INFO.unpack(raw)
    state = values[0]
    return TcpInfo(
        state=_STATES[state - 1] if 0 < state <= len(_STATES) else str(state),
        retransmits=values[2],
        probes=values[3],
        backoff=values[4],
        unacked=values[_UNACKED],
        last_data_sent=values[_LAST_DATA_SENT] / 1e3,
        last_data_recv=values[_LAST_DATA_RECV] / 1e3,
        last_ack_recv=values[_LAST_ACK_RECV] / 1e3,
        rtt=values[_RTT] / 1e6,
    )


def socket_options(fd: int) -> SocketOptions | None:
    """Read the keepalive settings back from a socket; None if it is no socket."""
    try:
        with _own(fd) as own:
            tcp = own.family in {socket.AF_INET, socket.AF_INET6}
            milliseconds = _option(own, "TCP_USER_TIMEOUT") if tcp else None
            # macOS calls the idle time TCP_KEEPALIVE.
            idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"
            return SocketOptions(
                keepalives=tcp and bool(own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
                keepalives_idle=_seconds(_option(own, idle)) if tcp else None,
                keepalives_interval=_seconds(_option(own, "TCP_KEEPINTVL")) if tcp else None,
                keepalives_count=_option(own, "TCP_KEEPCNT") if tcp else None,
                user_timeout=None if milliseconds is None else milliseconds / 1000,
            )
    except OSError:
        return None


def _option(own: socket.socket, name: str) -> int | None:
    number = getattr(socket, name, None)
    if number is None:
        return None
    try:
        return own.getsockopt(socket.IPPROTO_TCP, number)
    except OSError:
        return None


def _seconds(value: int | None) -> float | None:
    return None if value is None else float(value)


def endpoints(fd: int) -> tuple[Endpoint | None, Endpoint | None]:
    """Return both ends as this host sees them, own and peer; None for what has no address."""
    try:
        with _own(fd) as own:
            return _endpoint(own.getsockname()), _endpoint(own.getpeername())
    except OSError:  # not connected any more
        return None, None


def is_unix(fd: int) -> bool:
    """Whether a descriptor is that of a Unix socket."""
    try:
        with _own(fd) as own:
            return own.family == getattr(socket, "AF_UNIX", None)
    except OSError:
        return False


def _endpoint(name: Any) -> Endpoint | None:
    return Endpoint(plain_address(name[0]), name[1]) if isinstance(name, tuple) else None


def plain_address(text: str) -> str:
    """Return an address in the one form in which two of them may be compared.

    Without prefix length and zone; an IPv4 address mapped into IPv6 (``::ffff:10.0.0.1``: a
    socket of the other family, the same path) as IPv4. What is no address stays as it is.
    """
    try:
        address = ipaddress.ip_address(text.partition("/")[0].partition("%")[0])
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
