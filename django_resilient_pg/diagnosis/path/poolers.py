"""What a pooler in between does: asked of PgBouncer's admin console, else tried out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ...driver.link import Link
from ..settings.libpq_numbers import whole
from ..settings.target import Target
from .attempts import Connector, Refused, attempt
from .network import answer

TIMEOUT: Final = 2.0
#: What ``pool_mode`` may be.
MODES: Final = ("session", "transaction", "statement")
#: Seconds for the answer in a second session, which waits where the pool has no server for it.
ASKING: Final = 1.0
_CONSOLE: Final = "pgbouncer"
_Table = list[dict[str, Any]]
_PID: Final = "SELECT pg_catalog.pg_backend_pid()"


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
        pool_size: servers that the sessions of this database may have at a time; ``None``: not
            known.
        settings: as its console shows them, empty if it was not reachable.
    """

    mode: str | None
    evidence: str
    version: str = ""
    client_idle_timeout: float | None = None
    query_wait_timeout: float | None = None
    max_prepared_statements: int | None = None
    pool_size: int | None = None
    settings: tuple[tuple[str, str], ...] = ()


def look(target: Target, connect: Connector, session: Link) -> Pooler:
    """Ask the console, or share the session's server with a second one.

    Args:
        target: what the session is connected to.
        connect: logs in.
        session: open and idle.

    Makes one or two logins and asks at most seven questions.
    """
    user, _ = session.login()  # not always the one in the settings: see the option credentials
    asked = _console(replace(target, user=user), connect)
    if asked is not None and asked.mode is not None:
        return asked
    tried = _tried(connect, session)
    if asked is None:
        return tried
    return replace(asked, mode=tried.mode, evidence=tried.evidence)


def _console(target: Target, connect: Connector) -> Pooler | None:
    try:
        link, _ = attempt(connect, {"dbname": _CONSOLE}, TIMEOUT)
    except Refused:
        return None
    try:
        config, pools, databases = answer(lambda: _shown(link), link.fd, TIMEOUT)
        version = (link.parameter("server_version") or "").partition("/")[0]
    except (TimeoutError, link.connection.Error, ValueError, TypeError, LookupError):
        return None
    finally:
        link.close()
    own = _row(databases, name=target.database)
    # Pools go by the user that PgBouncer logs in with. The general pool_mode tells nothing: a
    # database and a user may each have another one.
    user = own.get("force_user") or target.user
    mode = _row(pools, database=target.database, user=user).get("pool_mode")
    mode = mode if mode in MODES else None
    size = own.get("pool_size") or config.get("default_pool_size")
    return Pooler(
        mode=mode,
        evidence=f"PgBouncer's console shows pool_mode {mode} for this database.",
        version=version,
        client_idle_timeout=_seconds(config.get("client_idle_timeout")),
        query_wait_timeout=_seconds(config.get("query_wait_timeout")),
        max_prepared_statements=whole(config.get("max_prepared_statements", "0")),
        pool_size=whole(str(size)) if size else None,
        settings=tuple((name, config[name]) for name in SHOWN if name in config),
    )


def _shown(link: Link) -> tuple[dict[str, str], _Table, _Table]:
    config = {str(row["key"]): str(row["value"]) for row in _table(link, "SHOW CONFIG")}
    return config, _table(link, "SHOW POOLS"), _table(link, "SHOW DATABASES")


def _row(rows: Iterable[Mapping[str, Any]], **wanted: str) -> Mapping[str, Any]:
    fitting = (row for row in rows if all(row.get(key) == wanted[key] for key in wanted))
    return next(fitting, {})


#: What matters here of the console's settings.
SHOWN: Final = (
    "pool_mode client_idle_timeout query_wait_timeout server_idle_timeout server_lifetime"
    " max_client_conn default_pool_size max_prepared_statements"
    " tcp_keepalive tcp_keepidle tcp_user_timeout".split()
)


def _table(link: Link, sql: str) -> list[dict[str, Any]]:
    with link.connection.cursor() as cursor:
        cursor.execute(sql)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or 0)
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None


def _tried(connect: Connector, session: Link) -> Pooler:
    """Two idle sessions on one server process share it: transaction pooling.

    So does one session that is given another process from one question to the next, as it may be
    where others are busy.
    """
    try:
        first = _process(session)
        other, _ = attempt(connect, {}, TIMEOUT)
    except (Refused, session.connection.Error, ValueError, TypeError):
        return Pooler(None, "The pooler refused a second session.")
    try:
        # Where the first session holds the pool's only server, this waits.
        second = answer(lambda: _process(other), other.fd, ASKING)
        again = _process(session)
        shared = second in {first, again} or first != again
        mode = "statement" if shared and _refuses_blocks(connect, other) else "transaction"
    except (TimeoutError, Refused, other.connection.Error, ValueError, TypeError):
        return Pooler(None, f"A second session got no server within {ASKING:g} s.")
    finally:
        other.close()
    if second in {first, again}:
        return Pooler(mode, f"Two open sessions share the server process {second}.")
    if shared:
        return Pooler(mode, f"A session moved from the server process {first} to {again}.")
    own = f"Two open sessions have server processes of their own ({first}, {second})."
    return Pooler("session", own)


def _refuses_blocks(connect: Connector, link: Link) -> bool:
    """Whether a transaction block is refused, as PgBouncer does in statement mode.

    It closes the connection. psycopg2 does not always hear why: then it has to happen twice.
    """
    said = _begun(link)
    if said is None or "statement pooling" in said:
        return said is not None
    if not link.lost():
        return False
    second, _ = attempt(connect, {}, TIMEOUT)
    try:
        return _begun(second) is not None and second.lost()
    finally:
        second.close()


def _begun(link: Link) -> str | None:
    """What the refusal of a transaction block says; ``None``: it is not refused."""
    try:
        answer(lambda: (link.ask("BEGIN READ ONLY"), link.ask("ROLLBACK")), link.fd, ASKING)
    except link.connection.Error as error:
        return str(error)
    return None


def _process(link: Link) -> int:
    return int(link.ask(_PID)[0][0])
