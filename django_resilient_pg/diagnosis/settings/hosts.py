"""The servers that libpq tries in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ...policy.lookup import Lookup
from ...policy.places import is_address
from .libpq_numbers import whole

_PORT: Final = 5432
# Bytes, on Linux (unix(7)) and in libpq: 108 with the one that ends it.
_LONGEST_PATH: Final = 107


@dataclass(frozen=True, slots=True)
class Host:
    """One of the servers that libpq tries in turn.

    Attributes:
        name: a host name, an address, or the folder of a Unix socket ("@..." an abstract one);
            "" with an ``address``: none was given; "" without: libpq's own folder.
        address: ``hostaddr``, which needs no name lookup; "" if not given.
        port: of TCP, or in the name of the Unix socket.
    """

    name: str
    address: str
    port: int

    @property
    def unix(self) -> bool:
        """Whether it is reached over a Unix socket."""
        return not self.address and self.name[:1] in {"", "/", "@"}

    @property
    def named(self) -> bool:
        """Whether it has to be looked up."""
        return not self.unix and not self.address and not is_address(self.name)

    @property
    def path(self) -> str:
        """Of the Unix socket, if it is one in a folder that is named."""
        return socket_path(self.name, self.port) if self.unix and self.name else ""

    def __str__(self) -> str:
        name = self.name or self.address or "the default Unix socket"
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


def socket_path(folder: str, port: int) -> str:
    """The Unix socket of a server that listens in this folder."""
    return f"{folder}/.s.PGSQL.{port}"


def pair(given: Lookup, problems: list[str], *, psycopg3: bool = False) -> tuple[Host, ...]:
    """Pair names, addresses and ports as libpq does; psycopg 3 looks names up itself."""
    names, addresses, ports = (given.text(key).split(",") for key in ("host", "hostaddr", "port"))
    if problems:  # of one of them, or of the service
        return ()
    count = len(addresses) if addresses != [""] else len(names)
    if names != [""] and len(names) != count:
        told = f"{len(names)} host names{given.place('host')} do not match {count} addresses"
        problems.append(f"{told} (hostaddr{given.place('hostaddr')}).")
    elif len(ports) not in {1, count}:
        told = f"{len(ports)} ports{given.place('port')} do not match {count} hosts"
        problems.append(f"{told}{given.place('host')}: give one, or one for each.")
    place = given.place("port")
    wrong_ports = [port for port in ports if port and not _is_port(port)]
    problems.extend(_port_problem(port, place) for port in wrong_ports[:1])
    if problems:
        return ()
    hosts = tuple(
        Host(
            name=names[number] if names != [""] else "",
            address=addresses[number] if addresses != [""] else "",
            port=int(ports[number if len(ports) > 1 else 0] or _PORT),
        )
        for number in range(count)
    )
    problems.extend(_too_long(hosts, given.place("host")))
    # getaddrinfo() takes white space before a port, and none behind it.
    if psycopg3 and any(host.named for host in hosts) and any(p != p.rstrip() for p in ports):
        problems.append(f"PORT{place} ends in white space, which psycopg 3 does not take.")
    return hosts


def _too_long(hosts: tuple[Host, ...], place: str) -> Iterator[str]:
    for host in hosts:
        length = len(host.path.encode(errors="surrogatepass"))
        if length > _LONGEST_PATH:
            yield (
                f'"{host.path}" (in the folder HOST{place}) is {length} bytes long, a Unix'
                f" socket's path may have {_LONGEST_PATH}."
            )


def _port_problem(port: str, place: str) -> str:
    """A slip of the finger is short; what is longer may be a password in the wrong place."""
    shown = f'The port "{port}"' if len(port) < 7 and port.isalnum() else "PORT"
    return f"{shown}{place} is not a number from 1 to 65535."


def _is_port(text: str) -> bool:
    return 0 < (whole(text) or 0) < 65536
