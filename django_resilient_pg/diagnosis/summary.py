"""What one alias' connection is, in one frozen object, and that object in words.

The same ``facts`` and ``limits`` that the engine acts on; for Django's own engine they are gathered
for the occasion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..ageing import Limits, limits
from ..drivers import Link, link_to
from ..facts import Facts, SocketOptions, gather_from, socket_options
from ..notes import seconds
from ..options import Options


@dataclass(frozen=True, slots=True)
class Summary:
    """One reachable alias.

    Attributes:
        alias: of DATABASES.
        facts: of the server and the path.
        limits: how long a connection may live and stay idle, and why.
        keepalives: read back from the socket; ``None`` on a Unix socket.
        tls: protocol and cipher ("TLSv1.3, TLS_AES_256_GCM_SHA384"), "" without TLS.
        conn_max_age: the setting in seconds, ``None``: unlimited.
        resilient: whether this engine serves the alias.
    """

    alias: str
    facts: Facts
    limits: Limits
    keepalives: SocketOptions | None
    tls: str
    conn_max_age: float | None
    resilient: bool


def summarise(connection: Any) -> Summary:
    """Connect if need be and look. Two round trips at most.

    Raises:
        django.db.Error: the database cannot be reached.
        ImproperlyConfigured: an option is wrong.
    """
    connection.ensure_connection()
    settings = connection.settings_dict
    resilience = getattr(connection, "resilience", None)
    link = link_to(connection.connection)
    facts = (resilience.facts if resilience else None) or gather_from(link, settings)
    if facts is None:
        raise connection.Database.OperationalError("the connection was lost while asking")
    max_age = settings["CONN_MAX_AGE"]
    return Summary(
        alias=connection.alias,
        facts=facts,
        limits=resilience.limits if resilience else limits(Options(), facts, None, max_age),
        keepalives=socket_options(link.fd),
        tls=_tls(link, facts),
        conn_max_age=max_age,
        resilient=resilience is not None,
    )


def _tls(link: Link, facts: Facts) -> str:
    """Protocol and cipher; psycopg 3 does not tell, so the server is asked."""
    if not facts.socket.tls:
        return ""
    if facts.socket.tls_version:
        return f"{facts.socket.tls_version}, {facts.socket.cipher}"
    try:
        rows = link.ask("SELECT version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    except link.connection.Error:
        rows = []
    return f"{rows[0][0]}, {rows[0][1]}" if rows and rows[0][0] else "in use"


def lines(summary: Summary) -> list[tuple[str, str]]:
    """The summary as (label, sentence part) pairs, in the order people ask."""
    facts = summary.facts
    return [
        ("server", _server(facts)),
        ("path", f"{facts.path.value}: {facts.path_evidence}"),
        ("TLS", summary.tls or "not in use"),
        ("keepalives", _keepalives(summary.keepalives)),
        ("idle timeout", _idle_timeout(summary.limits)),
        ("connection age", _age(summary)),
    ]


def _server(facts: Facts) -> str:
    major, minor = divmod(facts.server_version, 10000)
    version = (
        f"PostgreSQL {major}.{minor}" if facts.server_version else "PostgreSQL, version unknown"
    )
    role = {True: ", a standby", False: ", a primary", None: ""}[facts.in_recovery]
    provider = f", at {facts.provider.name}" if facts.provider else ""
    where = f" at {facts.socket.host}:{facts.socket.port}" if facts.socket.host else ""
    return f"{version}{where}{role}{provider}"


def _keepalives(found: SocketOptions | None) -> str:
    if found is None:
        return "none (a Unix socket needs none)"
    if not found.keepalives:
        return "off on this socket"
    parts = [
        f"idle {_time(found.keepalives_idle)}",
        f"interval {_time(found.keepalives_interval)}",
        f"count {found.keepalives_count if found.keepalives_count is not None else 'unknown'}",
        f"user timeout {_time(found.user_timeout)}",
    ]
    return "on this socket: " + ", ".join(parts)


def _time(value: float | None) -> str:
    return "not set" if not value else seconds(value)


def _idle_timeout(found: Limits) -> str:
    if math.isinf(found.idle.seconds):
        return f"{found.idle.source}; idle connections are not replaced"
    return f"{found.idle.source}; replaced before use after {seconds(found.idle.seconds)} idle"


def _age(summary: Summary) -> str:
    configured = summary.conn_max_age
    setting = "unlimited" if configured is None else seconds(configured)
    if not summary.resilient:
        return f"CONN_MAX_AGE ({setting}), not clamped by Django's own engine"
    age = summary.limits.age
    effective = "unlimited" if age is None else f"{seconds(age)} at most"
    return f"{effective} (CONN_MAX_AGE: {setting}; decided by {summary.limits.age_source})"
