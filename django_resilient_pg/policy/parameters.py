"""libpq parameters that notice a dead peer, added where the user has set none.

Numbers (measured on Linux 6.18): an idle or waiting connection whose path drops everything is
found dead after 32 s, a write into it fails after 31 s. TCP_USER_TIMEOUT overrides the keepalive
count, and also ends a live peer that stops reading for so long (COPY): it stays at 30 s or more.
Sources: libpq manual, section 34.1.2; tcp(7); kernel ``net/ipv4/tcp_timer.c``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ..providers import CONNECT_TIMEOUT, recognise_host
from .lookup import Lookup

#: Seconds, a count, and (``tcp_user_timeout``) milliseconds, as libpq has them.
TCP_DEFAULTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "keepalives": 1,
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
)

# Versions of libpq: see default_root.
ENDS_PROCESSES: Final = frozenset({16, 17})


def additions(given: Lookup) -> dict[str, object]:
    """Return the libpq parameters to add to those of one connection: what the user has set nowhere.

    More seconds to connect where the host's name says that its server may have to wake first.
    """
    wanted: dict[str, object] = {"connect_timeout": math.ceil(connect_timeout(given))}
    if not _only_unix_sockets(given):
        wanted |= TCP_DEFAULTS
    return {name: value for name, value in wanted.items() if not given.has(name)}


def default_root(given: Lookup, libpq: int) -> dict[str, object]:
    """Return ``sslrootcert`` as the file that libpq would look for by itself, where that is safer.

    libpq 17 ends the process (SIGSEGV) when a server goes away in the middle of a TLS handshake
    after its certificate, and no file is named (measured; of 16 the source is the same, 18 does
    not). Whether the file is there means the same either way.

    Args:
        given: what goes to the driver's ``connect``.
        libpq: its version, as ``PQlibVersion`` has it.
    """
    if libpq // 10_000 not in ENDS_PROCESSES or os.name == "nt" or given.text("sslrootcert"):
        return {}
    home = given.environ.get("HOME") or os.path.expanduser("~")
    named = home.startswith("/") and not _only_unix_sockets(given)
    return {"sslrootcert": f"{home}/.postgresql/root.crt"} if named else {}


def connect_timeout(given: Lookup) -> float:
    """Return the seconds to allow one attempt: more where a sleeping server must wake first."""
    port = given.text("port").partition(",")[0].strip()
    hosts = given.text("host").split(",")
    found = (recognise_host(host, int(port) if port.isdecimal() else None) for host in hosts)
    return max((one.connect_timeout for one in found if one), default=CONNECT_TIMEOUT)


def _only_unix_sockets(given: Lookup) -> bool:
    """Whether libpq will use Unix sockets for every host of the list."""
    if given.text("hostaddr").strip(","):
        return False
    return all(host[:1] in {"", "/", "@"} for host in given.text("host").split(","))
