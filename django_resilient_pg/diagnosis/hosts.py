"""The servers that libpq tries in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .lookup import Lookup

_PORT: Final = 5432


@dataclass(frozen=True, slots=True)
class Host:
    """One of the servers that libpq tries in turn.

    Attributes:
        name: a host name, an address, or the folder of a Unix socket ("@..." an abstract one);
            "" with an ``address``: none was given; "" without: libpq's own folder.
        address: ``hostaddr``, which spares the look-up; "" if not given.
        port: of TCP, or in the name of the Unix socket.
    """

    name: str
    address: str
    port: int

    @property
    def unix(self) -> bool:
        """Whether it is reached over a Unix socket."""
        return not self.address and self.name[:1] in {"", "/", "@"}

    def __str__(self) -> str:
        name = self.name or self.address or "the default Unix socket"
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


def pair(given: Lookup, problems: list[str]) -> tuple[Host, ...]:
    """Pair names, addresses and ports as libpq does."""
    names, addresses, ports = (given.text(key).split(",") for key in ("host", "hostaddr", "port"))
    if problems:  # of one of them, or of the service
        return ()
    count = len(addresses) if addresses != [""] else len(names)
    if names != [""] and len(names) != count:
        told = f"{len(names)} host names{given.place('host')} do not fit {count} addresses"
        problems.append(f"{told} (hostaddr{given.place('hostaddr')}).")
    elif len(ports) not in {1, count}:
        told = f"{len(ports)} ports{given.place('port')} do not fit {count} hosts"
        problems.append(f"{told}{given.place('host')}: give one, or one for each.")
    place = given.place("port")
    wrong_ports = [port for port in ports if port and not _is_port(port)]
    problems.extend(_port_problem(port, place) for port in wrong_ports[:1])
    if problems:
        return ()
    return tuple(
        Host(
            name=names[number] if names != [""] else "",
            address=addresses[number] if addresses != [""] else "",
            port=int(ports[number if len(ports) > 1 else 0] or _PORT),
        )
        for number in range(count)
    )


def _port_problem(port: str, place: str) -> str:
    """A slip of the finger is short; what is longer may be a password in the wrong place."""
    shown = f'The port "{port}"' if len(port) < 7 and port.isalnum() else "PORT"
    return f"{shown}{place} is not a number from 1 to 65535."


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 65536
