"""What the status page shows of a process and of each of its aliases, as plain data for JSON."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any, Final

import django
from django.db import connections

from .. import __version__
from ..diagnosis.findings import Finding
from ..diagnosis.report.as_json import plain as as_json
from ..driver.link import ACTIVE, FAILED, IDLE, IN_TRANSACTION, LINKS, Link
from ..policy import messages
from ..policy.limits import Kept, Limits, limits
from ..policy.token_bucket import BUCKET
from ..signals import ConnectionLost
from ..state.aliases import is_ours, load
from ..state.wrapper import Wrapper
from . import checking, words
from .asking import Answer

_STATES: Final = {
    IDLE: "idle",
    ACTIVE: "runs a statement",
    IN_TRANSACTION: "in a transaction",
    FAILED: "in a failed transaction",
}
# The set of all links changes while it is read: so often is that tried.
_READINGS: Final = 10


def status(answers: Mapping[str, Answer], *, asgi: bool) -> dict[str, Any]:
    """All that is shown.

    Args:
        answers: what became of asking each alias.
        asgi: whether this process serves by ASGI, where threads keep no connections.
    """
    return {
        "process": _process(),
        "retry_budget": {
            "tokens": BUCKET.tokens,
            "capacity": BUCKET.CAPACITY,
            "cost_of_a_retry": BUCKET.COST,
            "retries_left": BUCKET.tokens // BUCKET.COST,
        },
        "databases": [_database(alias, answer, asgi) for alias, answer in answers.items()],
    }


def _process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine": __version__,
        "django": django.get_version(),
        "python": platform.python_version(),
    }


def _database(alias: str, answer: Answer, asgi: bool) -> dict[str, Any]:
    wrapper, _ = load(alias)
    entry = connections.settings[alias]
    found: dict[str, Any] = {
        "alias": alias,
        "engine": str(entry.get("ENGINE", "")),
        "reachable": answer.reachable,
        "reason": answer.reason,
        "answer_seconds": answer.seconds,
        "role": {True: "standby", False: "primary", None: None}[answer.standby],
    }
    if getattr(wrapper, "vendor", "") == "postgresql":
        found["findings"] = _findings(alias)
    if is_ours(wrapper):
        found |= _known(wrapper, asgi)
    shown: dict[str, Any] = _safe(as_json(found), entry)
    return shown


def _known(db: Wrapper, asgi: bool) -> dict[str, Any]:
    """What the engine of this process knows of an alias, without connecting."""
    alias = db.alias
    try:
        stats, bounds = db.resilience.stats, _limits(db, asgi)
    except Exception:  # its options are refused: the answer above says so
        return {}
    return {
        "server": _server(db),
        "connections": [_connection(link) for link in _links(alias)],
        "pool": _pool(db),
        "limits": {
            "idle": bounds.idle.seconds,
            "idle_source": bounds.idle.source,
            "age": bounds.age,
            "age_source": bounds.age_source,
            "ping_after": bounds.ping_after,
        },
        "losses": {
            "by_reason": dict(stats.lost),
            "healed": stats.healed,
            "surfaced": stats.surfaced,
            "replaced": stats.replaced,
            "last": [_loss(one) for one in reversed(stats.last_losses)],
        },
        "retries": {
            **stats.retried,
            "connect": stats.connect_retries,
            "attempts_to_connect": stats.connect_attempts,
        },
        "outage": _outage(db),
    }


def _limits(db: Wrapper, asgi: bool) -> Limits:
    """As of the threads that serve requests: the one that asks has not connected."""
    shared, max_age = db.resilience.shared, db.settings_dict["CONN_MAX_AGE"]
    kept = Kept.NOT_AT_ALL if asgi else Kept.BY_THREAD
    if db._pooled:
        kept = Kept.IN_POOL
    return limits(db.resilience.options, shared.facts, shared.learned.value(), max_age, kept)


def _server(db: Wrapper) -> dict[str, Any] | None:
    """By the first connection of this process; ``None``: there has been none yet."""
    facts = db.resilience.facts
    if facts is None:
        return None
    return {
        "version": facts.server_version,
        "host": facts.socket.host,
        "port": facts.socket.port,
        "path": facts.path,
        "path_evidence": facts.path_evidence,
        "provider": None if facts.provider is None else facts.provider.name,
        "tls": (facts.socket.tls_version or words.TLS) if facts.socket.tls else facts.socket.tls,
        "standby_at_first": facts.in_recovery,
    }


def _links(alias: str) -> list[Link]:
    for _ in range(_READINGS):
        try:
            found = [one for one in LINKS if one.alias == alias and not one.inherited]
        except RuntimeError:  # another thread has connected meanwhile
            continue
        return sorted(found, key=lambda one: one.made_at)
    return []


def _connection(link: Link) -> dict[str, Any]:
    now = monotonic()
    return {
        "backend_pid": link.pid,
        "host": link.peer[0],
        "port": link.peer[1],
        "state": _STATES.get(link.status(), "closed"),
        "age": now - link.made_at,
        "idle": now - link.heard_at,
    }


def _pool(db: Wrapper) -> dict[str, Any] | None:
    """Of the pool, if there is one by now: nothing is made here."""
    pool = db._connection_pools.get(db.alias) if db._pooled else None
    if pool is None:
        return None
    stats = pool.get_stats()
    return {
        "size": stats.get("pool_size", 0),
        "max_size": pool.max_size,
        "available": stats.get("pool_available", 0),
        "waiting": stats.get("requests_waiting", 0),
        "leak_after": db.resilience.options.pool_leak_after,
        "held_too_long": list(pool.holds()),
    }


def _loss(record: ConnectionLost) -> dict[str, Any]:
    explained = messages.lost(record.alias, record.reason, record.idle, record.sqlstate)
    fields: dict[str, Any] = {name: getattr(record, name) for name in record.__match_args__}
    return {**fields, "reason": record.reason.name, "explained": explained}


def _outage(db: Wrapper) -> dict[str, Any]:
    """Whether the server is known to be down, and how long statements still wait for it."""
    breaker, patience = db.resilience.shared.breaker, db.resilience.options.retry_deadline
    down = breaker.down
    lasting = breaker.down_for() if down else 0.0
    return {
        "down": down,
        "said": breaker.said if down else "",
        "seconds": lasting,
        "retry_deadline": patience,
        "budget_left": max(0.0, patience - lasting),
    }


def _findings(alias: str) -> dict[str, Any]:
    """Of the settings, judged now; of a connection, as the last check in this process has it."""
    last = checking.last(alias)
    return {
        "settings": _listed(checking.of_settings(alias)),
        "checked_at": None if last is None else last.at.isoformat(timespec="seconds"),
        "verdict": None if last is None else last.verdict,
        "connection": [] if last is None else _listed(last.findings),
    }


def _listed(found: Iterable[Finding]) -> list[dict[str, Any]]:
    names = ("id", "message", "hint", "evidence", "page")
    return [{**{n: getattr(one, n) for n in names}, "level": one.level.word} for one in found]


def _safe(value: Any, entry: Mapping[str, Any]) -> Any:
    """The same without secrets and control characters, wherever a driver or a peer has put any."""
    names = {entry.get(key) for key in ("USER", "NAME", "HOST")}
    password = entry.get("PASSWORD")  # one that is also a name is given away by hiding the name
    secrets = [] if password in names else [password]
    return _texts(value, words.hiding(entry, secrets, entry.get("USER")))


def _texts(value: Any, text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {name: _texts(each, text) for name, each in value.items()}
    if isinstance(value, list):
        return list(map(partial(_texts, text=text), value))
    return value
