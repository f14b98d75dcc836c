"""The facts of one alias as (label, sentence part) pairs, in the order people ask."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..findings.base import seconds
from ..path.certificates import validity
from ..path.login_stages import version
from ..survey.survey import Survey

Detail = tuple[str, str]


def details(survey: Survey) -> tuple[Detail, ...]:
    """Everything known; what is not known is left out."""
    return (
        *_where(survey),
        *_server(survey),
        *_times(survey),
        *_tls(survey),
        *_keepalives(survey),
        *_timeouts(survey),
        *_project(survey),
        ("driver", f"{survey.driver}, libpq {version(survey.libpq)}"),
    )


def _where(survey: Survey) -> Iterator[Detail]:
    target = survey.target
    if target.hosts:
        hosts = ", ".join(map(str, target.hosts))
        yield "target", f'{hosts}, database "{target.database}" as "{target.user}"'
    if target.service:
        yield "service", target.service


def _server(survey: Survey) -> Iterator[Detail]:
    facts, server = survey.facts, survey.server
    if facts is None:
        return
    role = {True: ", a standby", False: ", a primary", None: ""}[facts.in_recovery]
    yield "server", f"PostgreSQL {version(facts.server_version)}{role}"
    if survey.provider is not None:
        yield "provider", survey.provider.name
    yield "path", f"{facts.path.value}: {facts.path_evidence}"
    if survey.pooler is not None:
        yield "pooler", f"{survey.pooler.mode or 'unknown'} mode. {survey.pooler.evidence}"
        if survey.pooler.settings:
            yield "PgBouncer", ", ".join(f"{n} {v}" for n, v in survey.pooler.settings)
    if server is not None and server.max_connections is not None:
        used = f"{server.used} used of {server.max_connections}, {server.reserved} reserved"
        yield "connections", used


def _times(survey: Survey) -> Iterator[Detail]:
    walk, own = survey.walk, ("DNS", "TCP", "TLS")
    if walk.connect_seconds is not None:
        yield "connecting", f"{_ms(walk.connect_seconds)} for the driver's whole login"
    timed = [f"{s.name} {_ms(s.seconds)}" for s in walk.stages if s.name in own and s.seconds]
    if timed:
        yield "connection stages", f"{', '.join(timed)} (on connections of their own)"
    if survey.server is not None:
        yield "round trip", _ms(survey.server.round_trip)


def _ms(value: float) -> str:
    return f"{value * 1000:.1f} ms"


def _tls(survey: Survey) -> Iterator[Detail]:
    facts, shake = survey.facts, survey.walk.tls
    if facts is not None:
        words = ", ".join(filter(None, (survey.tls_version, survey.cipher)))
        used = words or ("in use" if facts.socket.tls else "not in use")
        yield "TLS", f"{used} (sslmode {survey.target.sslmode})"
    own = shake.certificate if shake is not None else None
    if shake is None or own is None:
        if shake is not None and shake.certificate_note:
            yield "certificate", shake.certificate_note
        return
    until = validity(own, survey.now)
    chain = {True: "chain verified", False: shake.verify_error, None: "chain not checked"}
    names = ", ".join(dict.fromkeys(own.names)) or own.subject
    yield "certificate", f"{names}; {until}; {chain[shake.chain_verified]}"
    yield "issuer", own.issuer


def _keepalives(survey: Survey) -> Iterator[Detail]:
    real = survey.keepalives
    if real is None:
        if not survey.refused and not survey.target.garbled:
            yield "keepalives", "none: a Unix socket needs none"
        return
    facts = survey.facts
    where = "on the socket" if facts is not None else "asked for"
    yield "keepalives", f"{where}: {_numbers(*real[1:]) if real.keepalives else 'off'}"
    if facts is not None:
        given = [f"{name}={v}" for name, v in survey.asked.items() if v is not None]
        yield "asked for", ", ".join(given) or "nothing"
        idle, interval = facts.tcp_keepalives_idle, facts.tcp_keepalives_interval
        count = facts.tcp_keepalives_count or "not set"
        yield "server's own", _numbers(idle, interval, count, facts.tcp_user_timeout)


def _numbers(idle: float | None, interval: float | None, count: object, user: float | None) -> str:
    return f"idle {_set(idle)}, interval {_set(interval)}, count {count}, user timeout {_set(user)}"


def _set(value: float | None) -> str:
    return f"{value:g} s" if value else "not set"


def _timeouts(survey: Survey) -> Iterator[Detail]:
    target, facts, limits = survey.target, survey.facts, survey.limits
    if target.hosts:
        own = "130 s (psycopg's default)" if survey.psycopg3 else "none"
        yield "connect timeout", _set(target.connect_timeout).replace("not set", own)
    if facts is not None:
        named = {
            "idle session": facts.idle_session_timeout,
            "idle in transaction": facts.idle_in_transaction_session_timeout,
            "transaction": facts.transaction_timeout,
            "statement": facts.statement_timeout,
        }
        off = ", ".join(f"{name} {f'{t:g} s' if t else 'off'}" for name, t in named.items())
        yield "server's timeouts", off
    if survey.server is not None:
        interval = survey.server.client_connection_check_interval
        yield "client check", _set(interval).replace("not set", "off")
    if limits is not None:
        known = math.isfinite(limits.idle.seconds)
        rest = f"; replaced after {limits.idle.seconds:g} s" if known else ""
        yield "idle timeout", limits.idle.source + (rest if survey.project.resilient else "")
        if survey.project.resilient:
            yield "connection age", f"{seconds(limits.age)} at most, by {limits.age_source}"


def _project(survey: Survey) -> Iterator[Detail]:
    own = survey.project
    yield "engine", own.engine
    yield "CONN_MAX_AGE", f"{seconds(own.conn_max_age)}; CONN_HEALTH_CHECKS {own.health_checks}"
    pool = "none" if own.pool is None else ", ".join(f"{k} {v}" for k, v in own.pool.items())
    yield "pool", pool or "with its defaults"
    cursors = "on" if own.server_side_cursors else "off"
    yield "server-side cursors", f"{cursors}; ATOMIC_REQUESTS {own.atomic_requests}"
    middleware = ", ".join(own.middleware) or "none of this package"
    yield "served by", f"{own.serving}; middleware: {middleware}"
