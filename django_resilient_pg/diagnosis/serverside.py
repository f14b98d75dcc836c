"""What a session tells beyond :class:`~django_resilient_pg.facts.Facts`: four round trips."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from ..drivers import Link

_COLUMNS: Final = {
    "max_connections": "current_setting('max_connections')::int",
    "reserved": "current_setting('superuser_reserved_connections')::int"
    " + coalesce(current_setting('reserved_connections', true), '0')::int",
    # Of all databases; visible to every role, unlike what the sessions do.
    "used": "(SELECT sum(numbackends)::int FROM pg_stat_database)",
    "client_connection_check_interval": "extract(epoch FROM"
    " current_setting('client_connection_check_interval', true)::interval)::float8",
    # By way of the catalogue: to ask for it is an error for a role that may not see it.
    "lowest_tls": "(SELECT setting FROM pg_settings WHERE name = 'ssl_min_protocol_version')",
    "tls_on": "current_setting('ssl', true) = 'on'",
    "tls_version": "(SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid())",
    "cipher": "(SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid())",
    "superuser": "current_setting('is_superuser') = 'on'",
}
QUERY: Final = "SELECT " + ", ".join(_COLUMNS.values())
_MEASURED: Final = 3


@dataclass(frozen=True, slots=True)
class ServerSide:
    """The server's own state.

    Attributes:
        max_connections: all slots.
        reserved: those kept for superusers and the role pg_use_reserved_connections.
        used: sessions in databases now.
        client_connection_check_interval: seconds; 0: off.
        lowest_tls: the lowest version that it accepts; ``None`` if the role may not see it.
        tls_on: whether it offers TLS at all.
        tls_version, cipher: of its own end of the connection, which may be a pooler's.
        superuser: whether the session's role is one.
        round_trip: seconds, the shortest of three.
    """

    max_connections: int | None
    reserved: int | None
    used: int | None
    client_connection_check_interval: float | None
    lowest_tls: str | None
    tls_on: bool | None
    tls_version: str | None
    cipher: str | None
    superuser: bool | None
    round_trip: float


def ask(link: Link) -> ServerSide | None:
    """Ask an idle session; None if the server refuses to tell."""
    try:
        [row] = link.ask(QUERY)
        values: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
        return ServerSide(**values, round_trip=min(_timed(link) for _ in range(_MEASURED)))
    except (link.connection.Error, ValueError):
        return None


def _timed(link: Link) -> float:
    began = time.monotonic()
    link.ask("SELECT 1")
    return time.monotonic() - began
