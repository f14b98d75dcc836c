"""The addresses that one attempt to connect tries: each of them may take ``connect_timeout``."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

from ..conf.records import Record
from .lookup import Lookup

#: Seconds that drivers and libpq (up to 16) allow one address at least.
LEAST: Final = 2


class Place(Record):
    """One address; ``""`` where libpq goes by the host, or by its default."""

    host: str
    address: str
    port: str


class Round(Record):
    """An attempt within a time that a driver cannot be told: see :mod:`..connecting.in_turn`.

    Attributes:
        places: to be tried in turn; none: the driver goes through them by itself.
        seconds: for all of them together.
    """

    places: Sequence[Place]
    seconds: float


def resolve(host: str) -> list[str]:
    """The addresses of a host name; none if it cannot be resolved now: the driver says so."""
    # As text it would be encoded by IDNA, whose tables take a millisecond to import.
    name = host.encode("ascii") if host.isascii() else host
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def places(given: Lookup, resolve: Callable[[str], Sequence[str]] = resolve) -> list[Place]:
    """The addresses that libpq or the driver will try, in their order."""
    hosts, addresses, ports = (given.text(name).split(",") for name in ("host", "hostaddr", "port"))
    number = max(len(hosts), len(addresses))
    found: list[Place] = []
    for index in range(number):
        host, address = _entry(hosts, index), _entry(addresses, index)
        port = _entry(ports, index if len(ports) > 1 else 0)
        named = not (address or host[:1] in {"", "/", "@"} or is_address(host))
        every = (resolve(host) if named else ()) or (address,)
        found += [Place(host, one, port) for one in every]
    return found


def only(some: Sequence[Place]) -> dict[str, object]:
    """The parameters for an attempt on these alone."""
    given = {
        "host": [one.host for one in some],
        "hostaddr": [one.address for one in some],
        "port": [one.port for one in some],
    }
    return {name: ",".join(values) if any(values) else None for name, values in given.items()}


def _entry(values: Sequence[str], index: int) -> str:
    return values[index].strip() if index < len(values) else ""


def is_address(host: str) -> bool:
    """Whether a host is given by its address, so that nothing has to be looked up."""
    address = host.partition("%")[0]  # without the zone of a link-local one
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError):  # ValueError: a NUL in it
            continue
        return True
    return False
