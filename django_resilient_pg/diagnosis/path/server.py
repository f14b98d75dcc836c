"""What a session tells beyond :class:`~django_resilient_pg.facts.Facts`: six round trips."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from ...driver.link import Link

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
# What comes through a proxy, or from what only looks like PostgreSQL, may be of any type.
_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(("max_connections", "reserved", "used"), int),
    "client_connection_check_interval": (int, float),
    **dict.fromkeys(("lowest_tls", "tls_version", "cipher"), str),
    **dict.fromkeys(("tls_on", "superuser"), bool),
}
QUERY: Final = "SELECT " + ", ".join(_COLUMNS.values())
_MEASURED: Final = 3


# Of this role in this database: what others do, a role may not see.
_OWN_SESSIONS: Final = (
    "pg_catalog.pg_stat_activity AS a"
    " WHERE a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"
    " AND a.usename OPERATOR(pg_catalog.=) CURRENT_USER"
    " AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()"
)
_IDLE: Final = "a.state OPERATOR(pg_catalog.~~) 'idle in transaction%'"
_ACTIVITY: Final = (
    "SELECT pg_catalog.max(EXTRACT(epoch FROM pg_catalog.clock_timestamp()"
    f" OPERATOR(pg_catalog.-) a.state_change)) FILTER (WHERE {_IDLE})::pg_catalog.float8,"
    " pg_catalog.max(EXTRACT(epoch FROM pg_catalog.clock_timestamp()"
    f" OPERATOR(pg_catalog.-) a.xact_start))::pg_catalog.float8 FROM {_OWN_SESSIONS}"
)
#: Bytes each way in :func:`large`: dozens of full packets.
LARGE: Final = 65_536


@dataclass(frozen=True, slots=True)
class Activity:
    """What the application's other sessions do now, in seconds; ``None``: none of them does.

    Attributes:
        idle: the longest that one has been idle in its transaction.
        transaction: the longest that a transaction has been open.
    """

    idle: float | None
    transaction: float | None


def activity(link: Link) -> Activity | None:
    """Ask what the role's other sessions do; None if the server refuses to tell."""
    try:
        [(idle, transaction)] = link.ask(_ACTIVITY)
        return Activity(*(None if each is None else float(each) for each in (idle, transaction)))
    except (link.connection.Error, ValueError, TypeError):
        return None


def large(link: Link) -> bool:
    """Send a large statement and get a large answer; whether that is what was asked for."""
    text = "x" * LARGE
    [row] = link.ask("SELECT %s::pg_catalog.text", [text])
    return row == (text,)


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
        for name, value in values.items():
            if value is not None and not isinstance(value, _TYPES[name]):
                raise TypeError(f"{name} is a {type(value).__name__}")
        return ServerSide(**values, round_trip=min(_timed(link) for _ in range(_MEASURED)))
    except (link.connection.Error, ValueError, TypeError):
        return None


def _timed(link: Link) -> float:
    began = time.monotonic()
    link.ask("SELECT 1")
    return time.monotonic() - began
