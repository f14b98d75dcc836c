"""Hand-made surveys, in which everything is in order but for what a test changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django_resilient_pg.conf.options import Options
from django_resilient_pg.diagnosis.findings import PREFIX, Finding
from django_resilient_pg.diagnosis.path.certificates import Certificate
from django_resilient_pg.diagnosis.path.handshakes import Answer, TlsFacts
from django_resilient_pg.diagnosis.path.poolers import Pooler
from django_resilient_pg.diagnosis.path.server import Activity, ServerSide
from django_resilient_pg.diagnosis.path.stages import NAMES, Outcome, Stage, Walk
from django_resilient_pg.diagnosis.settings.hosts import Host
from django_resilient_pg.diagnosis.settings.project import Project, keepalives_expected
from django_resilient_pg.diagnosis.settings.target import Target
from django_resilient_pg.diagnosis.survey.survey import Measured, Survey
from django_resilient_pg.facts import Endpoint, Facts, Path, SocketOptions, SocketView
from django_resilient_pg.policy.limits import Limit, limits
from django_resilient_pg.providers import recognise_host

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HERE, THERE = Endpoint("10.0.0.1", 40000), Endpoint("10.0.0.2", 5432)
LOOPBACK = {"local": Endpoint("127.0.0.1", 40000), "peer": Endpoint("127.0.0.1", 5432)}
KERNEL = SocketOptions(True, 7200.0, 75.0, 9, 0.0)
ASKED = {
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
STOCK = {"resilient": False, "engine": "django.db.backends.postgresql"}
PROJECT = Project(
    engine="django_resilient_pg",
    resilient=True,
    conn_max_age=60,
    health_checks=True,
    pool=None,
    atomic_requests=False,
    server_side_cursors=True,
    prepare_threshold=None,
    serving="WSGI",
    middleware=(),
    routed=False,
    options=("sslmode", "sslrootcert"),
)
TARGET = Target(
    alias="default",
    hosts=(Host("db.example", "", 5432),),
    user="app",
    database="shop",
    sslmode="verify-full",
    sslrootcert="/etc/ca.pem",
    connect_timeout=5.0,
)
CERTIFICATE = Certificate(
    subject="CN=db.example",
    issuer="CN=authority",
    common_name="db.example",
    dns_names=("db.example",),
    ip_addresses=(),
    not_before=NOW - timedelta(days=100),
    not_after=NOW + timedelta(days=100),
    self_signed=False,
    fingerprint="00",
)
SHAKE = TlsFacts(
    Answer.TLS,
    version="TLSv1.3",
    cipher="TLS_AES_256_GCM_SHA384",
    trust="/etc/ca.pem",
    chain_verified=True,
    server_name="db.example",
    hostname_matches=True,
    certificate=CERTIFICATE,
)
SOCKET = SocketView(
    77,
    HERE,
    THERE,
    unix=False,
    host="db.example",
    port=5432,
    keepalives=SocketOptions(True, 20.0, 5.0, 3, 30.0),
    tls=True,
    tls_version="TLSv1.3",
)
FACTS = Facts(
    server_version=180006,
    path=Path.DIRECT,
    path_evidence="Both ends see the same.",
    provider=None,
    socket=SOCKET,
    tcp_keepalives_idle=7200.0,
    in_recovery=False,
    read_only=False,
)
SERVER = ServerSide(
    max_connections=100,
    reserved=3,
    used=10,
    client_connection_check_interval=10.0,
    lowest_tls="TLSv1.2",
    tls_on=True,
    tls_version="TLSv1.3",
    cipher="TLS_AES_256_GCM_SHA384",
    superuser=False,
    round_trip=0.001,
)
PGBOUNCER = Pooler("transaction", "PgBouncer's console says so.", max_prepared_statements=0)
SHORT = Measured(Limit(6.9, "measured"), 7.1, {})
FORGOTTEN = Measured(Limit(8.9, "measured"), 9.1, {"keepalives": 1, "keepalives_idle": 4})
DONE = tuple(Stage(name, Outcome.OK) for name in NAMES)


def failing(name: str) -> tuple[Stage, ...]:
    """The stages of a walk that ends at this one."""
    at = NAMES.index(name)
    failed = Stage(name, Outcome.FAILED, 0.5, "It is broken.", "Mend it.")
    return (*DONE[:at], failed, *(Stage(rest, Outcome.NOT_RUN) for rest in NAMES[at + 1 :]))


def known(
    *,
    project: Mapping[str, Any] = {},
    target: Mapping[str, Any] = {},
    asked: Mapping[str, int | None] = {},
    facts: Mapping[str, Any] = {},
    socket: Mapping[str, Any] = {},
    server: Mapping[str, Any] | None = {},
    tls: Mapping[str, Any] | None = {},
    certificate: Mapping[str, Any] | None = {},
    options: Mapping[str, Any] = {},
    failed: str = "",
    retryable: bool = False,
    connected: bool = True,
    **own: Any,
) -> Survey:
    """A survey in which everything is in order but for these changes."""
    project_now, target_now = replace(PROJECT, **project), replace(TARGET, **target)
    asked_now, options_now = {**ASKED, **asked}, replace(Options(), **options)
    base = Survey(
        alias="default",
        project=project_now,
        target=target_now,
        asked=asked_now,
        kernel=KERNEL,
        options=options_now,
        refused="",
        driver="psycopg 3.3.3, Django 6.1",
        libpq=180000,
        large=True,
        activity=Activity(None, None),
        now=NOW,
    )
    if not connected:
        return replace(base, **own)
    shown = replace(CERTIFICATE, **certificate) if certificate is not None else None
    shake = replace(SHAKE, **{"certificate": shown, **tls}) if tls is not None else None
    found = FACTS._replace(socket=SOCKET._replace(**socket))._replace(**facts)
    way = Walk(
        target_now,
        failing(failed) if failed else DONE,
        retryable=retryable or not failed,
        tls=shake,
        connect_seconds=None if failed else 0.012,
        facts=None if failed else found,
    )
    made = replace(base, walk=way)
    if not failed:
        bounds = limits(options_now, found, None, project_now.conn_max_age)
        told = None if server is None else replace(SERVER, **server)
        made = replace(made, server=told, limits=bounds)
    return replace(made, **own)


def keepalives(**changes: Any) -> dict[str, Any]:
    """What is on the socket, as ``known(socket=...)`` takes it."""
    return {"keepalives": SOCKET.keepalives._replace(**changes)}  # type: ignore[union-attr]


def numbers(found: tuple[Finding, ...]) -> list[str]:
    return [one.id.removeprefix(PREFIX) for one in found]


def provided(host: str) -> dict[str, Any]:
    found = recognise_host(host, None)
    assert found is not None
    return {"provider": found}


NEON = provided("ep-cool-name-123.eu-central-1.aws.neon.tech")
UNVERIFIED = {"chain_verified": False, "verify_code": 20, "verify_error": "unknown issuer"}
CHAIN_EXPIRED = {"chain_verified": False, "verify_code": 10, "verify_error": "has expired"}
REFUSED: dict[str, Any] = {"failed": "TLS", "tls": UNVERIFIED}
OLD = {"not_after": NOW - timedelta(days=3)}
SOON = {"not_after": NOW + timedelta(days=29)}
OVER_NAT = {"path": Path.NAT_OR_PROXY, "path_evidence": "The server sees another port."}
REQUIRE = {"sslmode": "require"}


def settled(survey: Survey, fix: Mapping[str, Any]) -> Survey:
    """The survey after these settings were pasted."""
    project, options = survey.project, dict(fix.get("OPTIONS", {}))
    asked = {**survey.asked, **{name: options[name] for name in ASKED if name in options}}
    project = replace(
        project,
        resilient=project.resilient or fix.get("ENGINE") == "django_resilient_pg",
        conn_max_age=fix.get("CONN_MAX_AGE", project.conn_max_age),
        health_checks=fix.get("CONN_HEALTH_CHECKS", project.health_checks),
        server_side_cursors=not fix.get(
            "DISABLE_SERVER_SIDE_CURSORS", not project.server_side_cursors
        ),
        pool={**(project.pool or {}), **options["pool"]} if "pool" in options else project.pool,
        prepare_threshold=options.get("prepare_threshold", project.prepare_threshold),
    )
    walk, facts = survey.walk, survey.facts
    if facts is not None and asked != survey.asked:
        link = facts.socket._replace(keepalives=keepalives_expected(asked, survey.kernel))
        walk = replace(walk, facts=facts._replace(socket=link))
    after = replace(survey, project=project, asked=asked, walk=walk)
    if after.facts is not None and survey.limits is not None:
        bounds = limits(survey.options, after.facts, None, project.conn_max_age)
        after = replace(after, limits=bounds)
    return after
