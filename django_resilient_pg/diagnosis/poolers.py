"""What a pooler in between does: asked of PgBouncer's admin console, else tried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..drivers import Link
from .attempts import Connector, Refused, attempt
from .target import Target

TIMEOUT: Final = 2.0
_CONSOLE: Final = "pgbouncer"
_PID: Final = "SELECT pg_backend_pid()"


@dataclass(frozen=True, slots=True)
class Pooler:
    """A pooler.

    Attributes:
        mode: "session", "transaction", "statement", or ``None``: not known.
        evidence: a sentence that says how that is known.
        version: as it tells it, "" if it does not.
        client_idle_timeout: seconds after which it ends an idle client; ``None``: never, or not
            known.
        query_wait_timeout: seconds a statement may wait for a server; likewise.
        max_prepared_statements: that it keeps track of; 0: prepared statements break; ``None``:
            not known.
        settings: as its console shows them, empty if it was not reachable.
    """

    mode: str | None
    evidence: str
    version: str = ""
    client_idle_timeout: float | None = None
    query_wait_timeout: float | None = None
    max_prepared_statements: int | None = None
    settings: tuple[tuple[str, str], ...] = ()


def look(target: Target, connect: Connector, session: Link) -> Pooler:
    """Ask the console, or share the session's server with a second one.

    Args:
        target: what the session is connected to.
        connect: logs in.
        session: open and idle.

    Makes one or two logins and asks at most four questions.
    """
    asked = _console(target, connect)
    return asked if asked is not None else _tried(connect, session)


def _console(target: Target, connect: Connector) -> Pooler | None:
    try:
        link, _ = attempt(connect, {"dbname": _CONSOLE}, TIMEOUT)
    except Refused:
        return None
    try:
        config = {row["key"]: str(row["value"]) for row in _table(link, "SHOW CONFIG")}
        pools = _table(link, "SHOW POOLS")
        version = _version(link)
    except (link.connection.Error, KeyError):
        return None
    finally:
        link.close()
    own = (p for p in pools if p.get("database") == target.database)
    fitting = next((p["pool_mode"] for p in own if p.get("user") == target.user), None)
    mode = str(fitting or config.get("pool_mode") or "") or None
    return Pooler(
        mode=mode,
        evidence=f"PgBouncer's console says so: pool_mode is {mode}.",
        version=version,
        client_idle_timeout=_seconds(config, "client_idle_timeout"),
        query_wait_timeout=_seconds(config, "query_wait_timeout"),
        max_prepared_statements=int(config.get("max_prepared_statements", "0")),
        settings=tuple((name, config[name]) for name in SHOWN if name in config),
    )


#: What matters here of the console's settings.
SHOWN: Final = (
    "pool_mode",
    "client_idle_timeout",
    "query_wait_timeout",
    "server_idle_timeout",
    "server_lifetime",
    "max_client_conn",
    "default_pool_size",
    "max_prepared_statements",
    "tcp_keepalive",
    "tcp_keepidle",
    "tcp_user_timeout",
)


def _version(link: Link) -> str:
    """The version that the console reported at login."""
    return (link.parameter("server_version") or "").partition("/")[0]


def _table(link: Link, sql: str) -> list[dict[str, Any]]:
    with link.connection.cursor() as cursor:
        cursor.execute(sql)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _seconds(config: dict[str, str], name: str) -> float | None:
    try:
        return float(config[name]) or None
    except (KeyError, ValueError):
        return None


def _tried(connect: Connector, session: Link) -> Pooler:
    """Two idle sessions on one server process share it: transaction pooling."""
    try:
        [(first,)] = session.ask(_PID)
        other, _ = attempt(connect, {}, TIMEOUT)
    except (Refused, session.connection.Error):
        return Pooler(None, "The pooler did not take a second session.")
    try:
        [(second,)] = other.ask(_PID)
    except other.connection.Error:
        return Pooler(None, "The pooler did not answer in a second session.")
    finally:
        other.close()
    if first == second:
        return Pooler("transaction", f"Two open sessions share the server process {first}.")
    return Pooler(
        "session", f"Two open sessions have server processes of their own ({first}, {second})."
    )
