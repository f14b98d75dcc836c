"""What lies between a socket and the server: both ends' views compared. Pure."""

from __future__ import annotations

import enum
import ipaddress

from ..conf.records import Record
from .sockets import Endpoint, SocketOptions, plain_address


class Path(enum.Enum):
    """What is known to be between this process and the server."""

    DIRECT = "direct"
    NAT_OR_PROXY = "NAT or a TCP proxy"
    POOLER = "a pooler"
    VIRTUAL_IP = "a virtual IP address"
    UNIX_SOCKET = "a Unix socket"
    UNKNOWN = "unknown"


class SocketView(Record):
    """A connection as this process sees it.

    Attributes:
        backend_pid: the process id of the protocol's cancel key; 0 if none was sent.
        local, peer: the socket's ends; ``None`` on a Unix socket.
        unix: whether it is one.
        host, port: as libpq was told to connect; ``port`` ``None`` if unknown.
        keepalives: what is set on the socket.
        markers: what the server has said about itself unasked (names of ParameterStatus).
        tls: whether libpq encrypts; ``None``: the driver does not tell.
        tls_version, cipher: as the driver tells them, else ``None``.
    """

    backend_pid: int
    local: Endpoint | None
    peer: Endpoint | None
    unix: bool
    host: str = ""
    port: int | None = None
    keepalives: SocketOptions | None = None
    markers: frozenset[str] = frozenset()
    tls: bool | None = None
    tls_version: str | None = None
    cipher: str | None = None


class ServerView(Record):
    """The same connection as the server sees it; ``None``: it sees a Unix socket."""

    backend_pid: int | None
    client: Endpoint | None
    server: Endpoint | None


def classify(link: SocketView, server: ServerView) -> tuple[Path, str]:
    """Return what lies between, and a sentence with the evidence.

    The order matters: behind a pooler the server's addresses are those of the pooler's own
    connection. Pgpool-II passes the server's real process id on and shows as a proxy.
    """
    told = server.backend_pid
    # No cancel key was sent (pid 0), or the server numbers nothing: nothing to compare.
    if link.backend_pid and told is not None and told > 0 and told != link.backend_pid:
        return (
            Path.POOLER,
            f"The server process is {told}, but {link.backend_pid} was named at login: a pooler is"
            " in between.",
        )
    if link.unix:
        return _from_unix_socket(server)
    return _from_tcp(link, server)


def _from_unix_socket(server: ServerView) -> tuple[Path, str]:
    if server.client is None:
        return Path.UNIX_SOCKET, "Both ends see a Unix socket, and the same server process."
    return (
        Path.NAT_OR_PROXY,
        f"This end is a Unix socket, but the server sees a client at {server.client}: a proxy is"
        " in between.",
    )


def _from_tcp(link: SocketView, server: ServerView) -> tuple[Path, str]:
    if link.local is None or link.peer is None:
        return Path.UNKNOWN, "The socket does not tell its addresses."
    if server.client is None:
        return (
            Path.NAT_OR_PROXY,
            f"This end is the TCP socket {link.local}, but the server sees a Unix socket: a proxy"
            " is in between.",
        )
    if not _real(server.client):
        return Path.UNKNOWN, "The server does not tell the addresses that it sees."
    if server.client != link.local:
        return (
            Path.NAT_OR_PROXY,
            f"The server sees the client at {server.client}, but this socket is {link.local}: NAT"
            " or a TCP proxy is in between.",
        )
    if server.server is not None and _real(server.server) and server.server != link.peer:
        return (
            Path.VIRTUAL_IP,
            f"The connection was made to {link.peer}, but {server.server} answers: a virtual IP"
            " address is in between.",
        )
    return (
        Path.DIRECT,
        f"Both ends see the same addresses ({link.local} to {link.peer}) and server process.",
    )


def _real(end: Endpoint) -> bool:
    """Whether it is an address. CockroachDB answers with "::" and port 0."""
    try:
        return bool(end.port) and not ipaddress.ip_address(end.address).is_unspecified
    except ValueError:
        return False


def endpoint(address: object, port: object) -> Endpoint | None:
    """Return what a server said as an end, None if it said nothing."""
    if address is None:
        return None
    number = int(str(port)) if port is not None and str(port).isdecimal() else 0
    return Endpoint(plain_address(str(address)), number)
