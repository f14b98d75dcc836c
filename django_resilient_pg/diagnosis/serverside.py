"""What a session tells beyond :class:`~django_resilient_pg.facts.Facts`: four round trips."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from ..drivers import Link

_OWN: Final = (
    "pg_catalog.pg_stat_ssl AS s WHERE s.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
)
# Everything is named with its schema: the application's may come before pg_catalog.
_COLUMNS: Final = {
    "max_connections": "pg_catalog.current_setting('max_connections')::int",
    "reserved": "pg_catalog.current_setting('superuser_reserved_connections')::int"
    " OPERATOR(pg_catalog.+)"
    " COALESCE(pg_catalog.current_setting('reserved_connections', true), '0')::int",
    # Of all databases; visible to every role, unlike what the sessions do.
    "used": "(SELECT pg_catalog.sum(d.numbackends)::int FROM pg_catalog.pg_stat_database AS d)",
    "client_connection_check_interval": "EXTRACT(epoch FROM pg_catalog.current_setting("
    "'client_connection_check_interval', true)::interval)::pg_catalog.float8",
    # By way of the catalogue: to ask for it is an error for a role that may not see it.
    "lowest_tls": "(SELECT s.setting FROM pg_catalog.pg_settings AS s"
    " WHERE s.name OPERATOR(pg_catalog.=) 'ssl_min_protocol_version')",
    "tls_on": "pg_catalog.current_setting('ssl', true) OPERATOR(pg_catalog.=) 'on'",
    "tls_version": f"(SELECT s.version FROM {_OWN})",
    "cipher": f"(SELECT s.cipher FROM {_OWN})",
    "superuser": "pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on'",
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
