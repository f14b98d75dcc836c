"""Findings from hand-made surveys: each rule where it has something to say, and just beside."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_resilient_pg.conf.options import Options
from django_resilient_pg.diagnosis.findings import PREFIX, RULES, Finding, Level, findings
from django_resilient_pg.diagnosis.findings.base import rule, seconds
from django_resilient_pg.diagnosis.path.certificates import Certificate
from django_resilient_pg.diagnosis.path.client_certificates import ClientCertificate
from django_resilient_pg.diagnosis.path.handshakes import Answer, TlsFacts
from django_resilient_pg.diagnosis.path.poolers import Pooler
from django_resilient_pg.diagnosis.path.server import Activity, ServerSide
from django_resilient_pg.diagnosis.path.stages import NAMES, UNWALKED, Outcome, Stage, Walk
from django_resilient_pg.diagnosis.report.checklist import checklist
from django_resilient_pg.diagnosis.report.details import details
from django_resilient_pg.diagnosis.report.fixes import merged
from django_resilient_pg.diagnosis.settings.hosts import Host
from django_resilient_pg.diagnosis.settings.project import Project, keepalives_expected
from django_resilient_pg.diagnosis.settings.target import Target
from django_resilient_pg.diagnosis.survey.survey import Measured, Survey
from django_resilient_pg.facts import Endpoint, Facts, Path, SocketOptions, SocketView
from django_resilient_pg.policy.limits import Limit, limits
from django_resilient_pg.providers import recognise_host

pytestmark = pytest.mark.once_per_driver

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


class Case(NamedTuple):
    """Where a rule speaks, and where it does not, though not much is different."""

    number: str
    bad: Survey
    good: Survey
    part: str = ""


def client(**changes: Any) -> ClientCertificate:
    """A certificate of the client's own."""
    other_key = changes.pop("other_key", False)
    own = replace(CERTIFICATE, **changes)
    return ClientCertificate("/app.crt", "/app.key", own, other_key=other_key)


CASES = [
    Case("E001", known(refused='"default" is wrong.'), known(), "is wrong"),
    Case("E002", known(target={"problems": ("The port is odd.",)}), known(), "odd"),
    Case(
        "E003", known(failed="TCP", retryable=True), known(failed="TCP", retryable=False), "broken"
    ),
    Case("E004", known(failed="authentication"), known(failed="TCP", retryable=True), "broken"),
    Case("E005", known(failed="TLS", certificate=OLD), known(certificate=OLD), "2025-12-29"),
    Case(
        "E005",
        known(failed="TLS", tls=CHAIN_EXPIRED),
        known(failed="TLS", tls=UNVERIFIED),
        'CA "CN=authority" of the server\'s certificate, or a CA above it, has expired',
    ),
    Case("W118", known(target=REQUIRE, tls=CHAIN_EXPIRED), known(target=REQUIRE), "authority"),
    Case(
        "E006",
        known(failed="TLS", tls={"hostname_matches": False}),
        known(failed="TLS", tls={"hostname_matches": False}, target={"sslmode": "verify-ca"}),
        '"db.example"',
    ),
    # A client certificate that is missing fails at the same stage.
    Case(
        "E007",
        known(**REFUSED),
        known(**REFUSED, target={"sslmode": "require", "sslrootcert": "system"}),
        "CN=authority",
    ),
    Case(
        "E008",
        known(project={"options": ("sslnegotiation",)}, libpq=160004),
        known(project={"options": ("sslnegotiation",)}, libpq=170000),
        "sslnegotiation (libpq 17)",
    ),
    Case("E008", known(target={"sslrootcert": "system"}, libpq=150000), known(libpq=150000)),
    Case(
        "E008",
        known(target={"target_session_attrs": "primary"}, libpq=130000),
        known(target={"target_session_attrs": "read-write"}, libpq=130000),
    ),
    Case(
        "E009",
        known(connected=False, asked={"keepalives_idle": 0, "keepalives_count": 128}),
        known(connected=False, asked={"keepalives_idle": 1, "keepalives_count": 127}),
        "keepalives_idle is 0, keepalives_count is 128",
    ),
    Case(
        "E009",
        known(connected=False, asked={"keepalives_interval": 32768}),
        known(connected=False, asked={"keepalives_interval": 32768, "keepalives": 0}),
    ),
    Case(
        "E010",
        known(project={**STOCK, "options": ("resilience",)}),
        known(project={"options": ("resilience",)}),
    ),
    Case(
        "E011",
        known(failed="TLS", client=client(other_key=True)),
        known(failed="TLS", client=client()),
        "does not belong to its certificate",
    ),
    Case(
        "E011",
        known(failed="authentication", client=client(**OLD)),
        known(failed="TCP", client=client(**OLD)),
        "expired 3 days ago, on 2025-12-29 12:00 UTC",
    ),
    Case(
        "E012",
        known(pooler=replace(PGBOUNCER, mode="statement")),
        known(pooler=PGBOUNCER),
        "every atomic() fails",
    ),
    Case("W101", known(socket=keepalives(keepalives=False)), known(), "Read back"),
    Case(
        "W101", known(connected=False, asked={"keepalives": 0}), known(connected=False), "settings"
    ),
    Case(
        "W102",
        known(socket=keepalives(keepalives_idle=7200.0)),
        known(socket=keepalives(keepalives=False, keepalives_idle=7200.0)),
        "7200 s",
    ),
    Case("W102", known(connected=False, asked={"keepalives_idle": None}), known(connected=False)),
    Case(
        "W103",
        known(socket=keepalives(keepalives_idle=240.0)),
        known(socket=keepalives(keepalives_idle=239.0)),
    ),
    Case("W103", known(options={"idle_timeout": 15.0}), known(options={"idle_timeout": 25.0})),
    Case(
        "W104",
        known(project={**STOCK, "conn_max_age": 600}, facts=NEON),
        known(project={**STOCK, "conn_max_age": 300}, facts=NEON),
        "300 s",
    ),
    Case(
        "W105",
        known(socket=keepalives(keepalives_idle=21.0)),
        known(socket=keepalives(user_timeout=None)),
        "keepalives_idle: asked 20, is 21",
    ),
    Case(
        "W106",
        known(socket=keepalives(user_timeout=0.0)),
        known(socket=keepalives(user_timeout=0.0, keepalives=False)),
    ),
    Case("W106", known(connected=False, asked={"tcp_user_timeout": None}), known(connected=False)),
    Case("W107", known(socket=keepalives(user_timeout=29.0)), known(), "29 s"),
    Case(
        "W108",
        known(socket=keepalives(user_timeout=71.0)),
        known(socket=keepalives(user_timeout=70.0)),
        "35 s",
    ),
    Case("W109", known(target={"connect_timeout": None}), known()),
    Case("W109", known(target={"connect_timeout": None}, connected=False), known(connected=False)),
    Case(
        "W111",
        known(target={"sslmode": "disable"}, socket={"tls": False}),
        known(target={"sslmode": "disable"}, socket={"tls": False, **LOOPBACK}),
        "not encrypted",
    ),
    Case(
        "W112",
        known(target={"sslmode": "prefer"}),
        known(target={"sslmode": "prefer"}, socket=LOOPBACK),
        '"prefer"',
    ),
    Case(
        "W113",
        known(target=REQUIRE),
        known(target=REQUIRE, tls={"hostname_matches": False}),
        '"require"',
    ),
    Case("W114", known(certificate=SOON), known(certificate={"not_after": NOW + timedelta(30)})),
    Case(
        "W115",
        known(target=REQUIRE, tls={"hostname_matches": False}),
        known(failed="TLS", tls={"hostname_matches": False}),
    ),
    Case(
        "W116",
        known(target=REQUIRE, tls=UNVERIFIED, certificate={"self_signed": True}),
        known(target=REQUIRE, certificate={"self_signed": True}),  # it is itself in sslrootcert
    ),
    Case(
        "W116",
        known(target=REQUIRE, tls={**UNVERIFIED, "verify_code": 18}, certificate=None),
        known(target=REQUIRE, tls=UNVERIFIED, certificate=None),
    ),
    Case("W117", known(server={"lowest_tls": "TLSv1.1"}), known(), "accepts TLSv1.1"),
    Case("W117", known(socket={"tls_version": "TLSv1"}), known(), "uses TLSv1"),
    Case(
        "W118",
        known(target=REQUIRE, certificate=OLD),
        known(target={"sslmode": "prefer"}, certificate=OLD, socket=LOOPBACK),
    ),
    Case(
        "W119",
        known(client=client(not_after=NOW + timedelta(hours=20))),
        known(client=client(not_after=NOW + timedelta(days=31))),
        "expires in 20 hours, on 2026-01-02 08:00 UTC",
    ),
    Case(
        "W119",
        known(client=ClientCertificate("/app.crt", "/app.key", problem="permission denied")),
        known(client=client()),
        "was not checked: permission denied",
    ),
    Case(
        "W129",
        known(project=STOCK, target={"sslrootcert": ""}, libpq=170006),
        known(project=STOCK, target={"sslrootcert": ""}, libpq=180000),
        "SIGSEGV",
    ),
    Case(
        "W129",
        known(project=STOCK, target={"sslrootcert": ""}, libpq=160000),
        known(target={"sslrootcert": ""}, libpq=160000),
    ),
    Case(
        "W120",
        known(certificate=None, tls={"certificate_note": "It is malformed."}),
        known(certificate=None, target=REQUIRE, socket={"tls": False}),
        "not checked: It is malformed.",
    ),
    Case("W120", known(tls=None), known(target={"sslmode": "prefer"}, tls=None, socket=LOOPBACK)),
    Case(
        "W120",
        known(tls={"chain_verified": None, "verify_error": '"/etc/ca.pem" cannot be used'}),
        known(failed="TLS", tls={"chain_verified": None}),
        "cannot be used",
    ),
    Case(
        "W121",
        known(project={**STOCK, "conn_max_age": 60}, facts={"idle_session_timeout": 59.0}),
        known(project={**STOCK, "conn_max_age": 60}, facts={"idle_session_timeout": 60.0}),
        "idle_session_timeout",
    ),
    Case(
        "W121",
        known(project={**STOCK, "conn_max_age": None}, pooler=Pooler("session", "", "", 300.0)),
        known(project={**STOCK, "conn_max_age": None}, pooler=Pooler("session", "")),
        "client_idle_timeout",
    ),
    Case(
        "W122",
        known(project={"conn_max_age": None}, socket=keepalives(keepalives=False)),
        known(project={"conn_max_age": None}),
    ),
    Case("W124", known(project={**STOCK, "serving": "ASGI"}), known(project={"serving": "ASGI"})),
    Case(
        "W125",
        known(project={**STOCK, "health_checks": False}),
        known(project={**STOCK, "health_checks": False, "conn_max_age": 0}),
    ),
    Case(
        "W126",
        known(project={**STOCK, "pool": {}, "conn_max_age": 0}),
        known(project={**STOCK, "pool": {}, "conn_max_age": 0, "health_checks": False}),
    ),
    Case(
        "W127",
        known(project={**STOCK, "pool": {}}, facts={"idle_session_timeout": 599.0}),
        known(project={**STOCK, "pool": {}}, facts={"idle_session_timeout": 600.0}),
    ),
    Case(
        "W131",
        known(pooler=PGBOUNCER),
        known(pooler=PGBOUNCER, project={"server_side_cursors": False}),
    ),
    Case(
        "W132",
        known(pooler=PGBOUNCER, project={"prepare_threshold": 5}),
        known(
            pooler=replace(PGBOUNCER, max_prepared_statements=100),
            project={"prepare_threshold": 5},
        ),
    ),
    Case("W128", known(measured=SHORT), known(measured=SHORT, options={"idle_timeout": 6.9})),
    Case(
        "W128",
        known(measured=FORGOTTEN, asked={"keepalives_idle": 20}),
        known(measured=FORGOTTEN._replace(limit=Limit(21.0, "measured"))),
        "forgets",
    ),
    Case("W133", known(pooler=Pooler(None, "Nobody knows.")), known(pooler=PGBOUNCER)),
    Case("W134", known(large=False), known(), "large ones hang"),
    Case("W134", known(large=None), known(failed="TLS", large=None), "were not checked"),
    Case(
        "W141",
        known(facts={"in_recovery": True}, project={"routed": True}),
        known(facts={"in_recovery": True}, project={"routed": True}, alias="replica"),
        "standby",
    ),
    Case("W141", known(facts={"read_only": True}), known(), "read-only"),
    Case(
        "W142",
        known(target={"hosts": (Host("a", "", 1), Host("b", "", 1))}),
        known(
            target={
                "hosts": (Host("a", "", 1), Host("b", "", 1)),
                "target_session_attrs": "read-write",
            }
        ),
    ),
    Case("W143", known(server={"used": 83}), known(server={"used": 82}), "83 of 97"),
    Case(
        "W144",
        known(facts={"transaction_timeout": 59.0}, project={"atomic_requests": True}),
        known(facts={"transaction_timeout": 60.0}),
        "ATOMIC_REQUESTS",
    ),
    Case("W144", known(facts={"idle_in_transaction_session_timeout": 5.0}), known()),
    Case(
        "W147",
        known(activity=Activity(31.0, None), facts={"idle_in_transaction_session_timeout": 60.0}),
        known(activity=Activity(29.0, 59.0), facts={"idle_in_transaction_session_timeout": 60.0}),
        "idle in a transaction for 31 s; idle_in_transaction_session_timeout terminates it after",
    ),
    Case(
        "W147",
        known(activity=Activity(None, 301.0), facts={"transaction_timeout": 600.0}),
        known(activity=Activity(None, 301.0)),
        "transaction_timeout",
    ),
    Case("W148", known(server=None), known(), "Not checked: its connection slots."),
    Case(
        "W148",
        known(activity=None, facts={"refusal": "permission denied"}),
        known(failed="TLS", activity=None),
        "its settings and the path, the application's transactions",
    ),
    Case(
        "W146",
        known(facts=NEON, project={**STOCK, "conn_max_age": 60}),
        known(facts=NEON, project={**STOCK, "conn_max_age": 60, "health_checks": False}),
        "pings",
    ),
    Case("I204", known(facts=OVER_NAT), known()),
    Case("I219", known(target=REQUIRE, tls=UNVERIFIED), known(target=REQUIRE)),
    Case(
        "I221",
        known(facts={"idle_session_timeout": 100.0}),
        known(facts={"idle_session_timeout": 120.0}),
        "50 s instead of 60 s",
    ),
    Case(
        "I222",
        known(pooler=Pooler("session", "", "", 300.0)),
        known(pooler=Pooler("session", "", "", 300.0), options={"idle_timeout": 300.0}),
    ),
    Case(
        "I223",
        known(project={"conn_max_age": 0}),
        known(project={"conn_max_age": 0, "serving": "ASGI"}),
        "12 ms",
    ),
    Case(
        "I245",
        known(facts={"server_version": 130022}),
        known(facts={"server_version": 140020}),
        "PostgreSQL 13",
    ),
    Case("I245", known(facts={"server_version": 90624}), known()),
    Case(
        "I248",
        known(server={"client_connection_check_interval": 0.0}),
        known(server={"client_connection_check_interval": 0.0}, facts={"statement_timeout": 30.0}),
    ),
]


def test_a_time_is_told_as_people_read_it() -> None:
    """Neither "0 days" nor "-1 days left"."""
    for left, said in (
        (timedelta(hours=20), "expires in 20 hours"),
        (timedelta(days=29), "expires in 29 days"),
        (timedelta(hours=-30), "expired 30 hours ago"),
        (timedelta(days=-3), "expired 3 days ago"),
    ):
        seen = known(certificate={"not_after": NOW + left})
        assert said in dict(details(seen))["certificate"]
        assert said in checklist(seen)[4].answer


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_it_speaks_there_and_not_here(case: Case) -> None:
    found = {one.id.removeprefix(PREFIX): one for one in findings(case.bad)}
    assert case.number in found, list(found)
    assert case.part in found[case.number].message + found[case.number].evidence
    assert case.number not in numbers(findings(case.good))


def test_every_rule_has_its_case() -> None:
    assert {PREFIX + case.number for case in CASES} == RULES.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_what_is_said_is_sentences(case: Case) -> None:
    for one in findings(case.bad):
        for text in (one.message, one.hint, one.evidence):
            assert text.endswith("."), (one.id, text)
            assert text[:1].isupper() or text[:1] in '"1234567890' or text.split()[0] in _LOWER
            assert "None" not in text.replace("CONN_MAX_AGE is None", ""), (one.id, text)
            assert ".." not in text.replace("...", ""), (one.id, text)


# Names of settings, which begin some sentences.
_LOWER = {
    "client_connection_check_interval",
    "client_idle_timeout,",
    "connect_timeout",
    "libpq",
    "max_connections",
    "pg_is_in_recovery()",
    "sslmode",
    "target_session_attrs",
    "tcp_user_timeout",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_a_fix_names_settings(case: Case) -> None:
    for name, value in merged(findings(case.bad)).items():
        assert name.isupper()
        assert isinstance(value, Mapping) == (name == "OPTIONS")


@pytest.mark.parametrize("number", ["E005", "W121", "I223"])
def test_a_rule_that_fails_is_told_and_stops_no_other(
    number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``manage.py check``, and with it most commands, must not die of a diagnosis."""

    def broken(survey: Survey) -> None:
        raise TypeError("much-too-secret")

    name = PREFIX + number
    monkeypatch.setitem(RULES, name, replace(RULES[name], judge=broken))
    found = findings(known(target={"connect_timeout": None}))
    assert sorted(numbers(found)) == sorted(["W109", number])
    (one,) = [each for each in found if each.id == name]
    assert one.level is Level.WARNING
    assert one.message == (f'The rule "{RULES[name].title}" failed with a TypeError.')
    assert "much-too-secret" not in str(one)
    assert "test_findings.py" in one.evidence


def test_a_healthy_set_up_has_no_findings() -> None:
    assert findings(known()) == ()
    assert findings(known(connected=False)) == ()


def test_the_stock_engine_well_configured_has_none_either() -> None:
    assert findings(known(project=STOCK)) == ()
    assert findings(known(project=STOCK, connected=False)) == ()


def test_a_unix_socket_needs_no_keepalives_and_no_tls() -> None:
    socket = {"unix": True, "local": None, "peer": None, "tls": False, "keepalives": None}
    survey = known(
        target={"hosts": (Host("/run", "", 5432),), "connect_timeout": None, "sslmode": "prefer"},
        asked=dict.fromkeys(ASKED, None),
        facts={"path": Path.UNIX_SOCKET},
        socket=socket,
        tls=None,
    )
    assert findings(survey) == ()


def test_the_worst_come_first() -> None:
    survey = known(
        failed="TCP", retryable=True, target={"connect_timeout": None}, asked={"keepalives": 0}
    )
    assert numbers(findings(survey)) == ["E003", "W101", "W109"]


@pytest.mark.parametrize("stage", NAMES)
@pytest.mark.parametrize("retryable", [True, False])
def test_every_stage_that_fails_is_an_error(stage: str, retryable: bool) -> None:
    found = findings(known(failed=stage, retryable=retryable))
    assert numbers(found) == ["E003" if retryable else "E004"]
    (one,) = found
    assert f"The stage {stage} failed" in one.evidence
    assert all(rest in one.evidence for rest in NAMES[NAMES.index(stage) + 1 :])


def test_a_certificate_that_is_refused_is_told_once() -> None:
    assert numbers(findings(known(**REFUSED))) == ["E007"]
    assert numbers(findings(known(failed="TLS", certificate=OLD))) == ["E005"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_without_a_connection_only_the_settings_are_judged(case: Case) -> None:
    survey = replace(case.bad, walk=UNWALKED, client=None, server=None, pooler=None)
    survey = replace(survey, limits=None, measured=None)
    assert findings(survey, connects=True) == ()
    assert {one.id for one in findings(survey)} <= {
        one.id for one in RULES.values() if not one.connects
    }


def test_both_halves_make_the_whole() -> None:
    survey = known(socket=keepalives(keepalives=False), server={"used": 97})
    halves = [findings(survey, connects=each) for each in (False, True)]
    assert [numbers(half) for half in halves] == [["W101"], ["W143"]]
    assert numbers(findings(survey)) == ["W101", "W143"]


def test_levels_are_those_of_the_ids_and_djangos() -> None:
    assert [level.word for level in sorted(Level, reverse=True)] == ["error", "warning", "info"]
    assert [RULES[f"resilient_pg.{one}"].level for one in ("E001", "W101", "I204")] == [40, 30, 20]


def test_an_id_is_given_once() -> None:
    with pytest.raises(ValueError, match=r"resilient_pg\.E001 is taken by refused"):
        rule("E001", "Another")(lambda survey: None)


def test_fixes_do_not_break_what_works() -> None:
    """Where the certificate cannot be verified, verify-full would end all connections."""
    sound = merged(findings(known(target={"sslmode": "prefer"})))
    assert sound == {"OPTIONS": {"sslmode": "verify-full"}}
    unverifiable = merged(findings(known(target={"sslmode": "prefer"}, tls=UNVERIFIED)))
    assert unverifiable == {"OPTIONS": {"sslmode": "require"}}


@pytest.mark.parametrize("libpq", [150000, 160000])
@pytest.mark.parametrize("file", ["/etc/ssl/certs/ca-certificates.crt", ""])
def test_without_a_file_of_authorities_the_fix_names_the_systems(
    libpq: int, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the word "system": a wheel's libpq looks in other places than this Python."""
    paths = ssl.get_default_verify_paths()._replace(cafile=file)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    full = {"sslmode": "verify-full", "sslrootcert": file} if file else {"sslmode": "require"}
    for mode in ("prefer", "require"):
        survey = known(target={"sslmode": mode, "sslrootcert": ""}, libpq=libpq)
        assert merged(findings(survey)) == ({"OPTIONS": full} if file or mode == "prefer" else {})
    # What of a folder vouches for the server is not known, and it cannot be named.
    monkeypatch.setenv("SSL_CERT_DIR", "/etc/own")
    survey = known(target={"sslmode": "prefer", "sslrootcert": ""}, libpq=libpq)
    assert merged(findings(survey)) == {"OPTIONS": {"sslmode": "require"}}


def test_a_standby_alone_is_not_given_up_for_nothing() -> None:
    alone, two = known(facts={"in_recovery": True}), (Host("a", "", 1), Host("b", "", 1))
    assert merged(findings(alone)) == {}
    several = known(facts={"in_recovery": True}, target={"hosts": two})
    assert merged(findings(several)) == {"OPTIONS": {"target_session_attrs": "read-write"}}


GIS = "django.contrib.gis.db.backends.postgis"
FOREIGN = "project.engine"


@pytest.mark.parametrize(
    ("engine", "ours"),
    [
        ("django.db.backends.postgresql", "django_resilient_pg"),
        (GIS, "django_resilient_pg.postgis"),
        (FOREIGN, None),
    ],
)
def test_the_engine_that_is_advised_can_do_what_the_present_one_does(
    engine: str, ours: str | None
) -> None:
    """An alias of GeoDjango would lose it; what a foreign engine does nobody knows."""
    own = {"resilient": False, "engine": engine, "conn_max_age": 600}
    refused = known(project={**own, "options": ("resilience",)})
    assert merged(findings(refused)) == ({"ENGINE": ours} if ours else {})
    impatient = known(project=own, facts={"idle_session_timeout": 300.0})
    (one,) = findings(impatient)
    assert one.id == "resilient_pg.W121"
    wanted = f"ENGINE to {ours}, which" if ours else "use this package's engine, which"
    assert wanted in one.hint


@pytest.mark.parametrize(
    ("driver", "endless"),
    [("psycopg 3.3.3, Django 6.1", False), ("psycopg2 2.9.10, Django 5.2", True)],
)
@pytest.mark.parametrize(
    ("host", "seconds"), [("db.example", 5), ("ep-cool-1.eu-central-1.aws.neon.tech", 40)]
)
def test_a_connect_timeout_is_long_enough_to_wake_a_server(
    driver: str, endless: bool, host: str, seconds: int
) -> None:
    """psycopg 3 gives up by itself (its own 130 s), psycopg2 does not."""
    for sources in ((), (("connect_timeout", "DATABASES"),)):
        target = {"connect_timeout": None, "hosts": (Host(host, "", 5432),), "sources": sources}
        (one,) = findings(known(target=target, driver=driver, connected=False))
        assert one.fix == {"OPTIONS": {"connect_timeout": seconds}}
        assert f"connect_timeout to {seconds} (" in one.hint
        assert one.message.startswith(f"connect_timeout is {'0' if sources else 'not set'}: ")
        assert ("or forever" in one.message) is endless
        took = dict(details(known(target=target, driver=driver)))["connect timeout"]
        assert took == ("none" if endless else "130 s (psycopg's default)")


def test_one_report_does_not_contradict_itself() -> None:
    """One age, and none under ASGI, where checking what is not kept would be for nothing."""
    off: dict[str, Any] = {"socket": keepalives(keepalives=False)}
    kept, ten = {**STOCK, "conn_max_age": None}, {"idle_session_timeout": 10.0}
    short = known(project=kept, facts=ten, **off)
    ages = {one.id[-4:]: one.fix.get("CONN_MAX_AGE") for one in findings(short)}
    assert ages == {"W101": None, "W121": 5, "W122": 5}
    asgi = known(project={**kept, "serving": "ASGI", "health_checks": False}, **off)
    ages = {one.id[-4:]: one.fix.get("CONN_MAX_AGE") for one in findings(asgi)}
    assert ages == {"W101": None, "W122": 0, "W124": 0}
    vain = {**STOCK, "conn_max_age": 900, "serving": "ASGI"}
    assert (
        "or less"
        in {one.id[-4:]: one.hint for one in findings(known(project=vain, facts=NEON))}["W104"]
    )


def test_what_dies_within_two_seconds_is_not_kept() -> None:
    project = {**STOCK, "conn_max_age": 0}
    assert numbers(findings(known(project=project, facts={"idle_session_timeout": 1.5}))) == []
    assert numbers(findings(known(project=project, facts={"idle_session_timeout": 4}))) == ["I223"]


def test_the_pool_of_this_engine_is_not_advised_against() -> None:
    (one,) = findings(known(project={**STOCK, "pool": {}, "conn_max_age": 0}))
    assert one.id == "resilient_pg.W126"
    assert "use this package's engine, whose pool checks" in one.hint


AURORA = provided("shop.cluster-abc123.eu-central-1.rds.amazonaws.com")
POOL: dict[str, Any] = {
    "min_size": st.integers(0, 4),
    "max_size": st.integers(4, 8),
    "max_idle": st.floats(0.5, 2000),
}


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


_LIFETIMES = {f"{PREFIX}W12{number}" for number in "1245"} | {f"{PREFIX}{n}" for n in ("W146",)}
_SETTLING = _LIFETIMES | {f"{PREFIX}{number}" for number in ("W101", "W104", "W126", "W127")}
_IDLE: dict[str, Any] = {"facts": {"idle_session_timeout": 30.0}}
_ROWS = [case.bad for case in CASES] + [
    known(project={**STOCK, "conn_max_age": 0}, **_IDLE),
    known(project={**STOCK, "conn_max_age": 600, "serving": "ASGI"}, **_IDLE),
    known(project={**STOCK, "conn_max_age": 0, "health_checks": False}, facts=NEON),
    known(project={**STOCK, "conn_max_age": 900, "serving": "ASGI"}, facts=NEON),
    known(project={**STOCK, "conn_max_age": 60, "health_checks": False}, facts=NEON),
    known(project={**STOCK, "conn_max_age": None, "health_checks": False}, facts=NEON),
    known(project={**STOCK, "conn_max_age": 0, "pool": {}}, facts=NEON),
]


@pytest.mark.parametrize("survey", _ROWS)
def test_settings_to_paste_settle(survey: Survey) -> None:
    """Once pasted, nothing is left that the next paste would change, nor anything new."""
    fix = merged(findings(survey))
    again = findings(settled(survey, fix))
    left = [one for one in again if one.id in _LIFETIMES and one.level >= Level.WARNING]
    assert left == [], fix
    if survey.project.pool is not None:
        assert fix.get("CONN_MAX_AGE", 0) == 0  # Django refuses both together


@given(
    age=st.one_of(st.none(), st.just(0), st.floats(0.5, 4000), st.integers(1, 4000)),
    checks=st.booleans(),
    pool=st.one_of(st.none(), st.fixed_dictionaries({}, optional=POOL)),
    serving=st.sampled_from(["ASGI", "WSGI", "unknown"]),
    resilient=st.booleans(),
    session=st.one_of(st.none(), st.floats(0.5, 4000)),
    pooler=st.one_of(st.none(), st.floats(0.5, 4000)),
    provider=st.sampled_from([{}, NEON, AURORA]),
    on=st.booleans(),
)
@hypothesis_settings(max_examples=300, deadline=None)
def test_lifetimes_settle_whatever_they_are(
    age: float | None,
    checks: bool,
    pool: dict[str, Any] | None,
    serving: str,
    resilient: bool,
    session: float | None,
    pooler: float | None,
    provider: dict[str, Any],
    on: bool,
) -> None:
    """One age for all findings, which none of them minds."""
    project = {
        **({} if resilient else STOCK),
        "conn_max_age": 0 if pool is not None else age,
        "health_checks": checks,
        "pool": pool,
        "serving": serving,
    }
    survey = known(
        project=project,
        facts={"idle_session_timeout": session, **provider},
        pooler=Pooler("session", "It says so.", "", pooler) if pooler else None,
        socket=keepalives(keepalives=on),
        asked={"keepalives": int(on)},
    )
    fix = merged(findings(survey))
    left = findings(settled(survey, fix))
    assert [one for one in left if one.id in _SETTLING and one.level >= Level.WARNING] == [], fix
    if pool is not None:
        assert fix.get("CONN_MAX_AGE", 0) == 0  # Django refuses both together
        assert {**pool, **fix.get("OPTIONS", {}).get("pool", {})}.get("max_size", 1) > 0


def test_a_replicas_reads_are_not_sent_to_the_primary() -> None:
    two = {"hosts": (Host("a", "", 1), Host("b", "", 1))}
    for alias, routed, wanted in (
        ("replica", True, "prefer-standby"),
        ("replica", False, "read-write"),
        ("default", True, "read-write"),
    ):
        fix = merged(findings(known(target=two, project={"routed": routed}, alias=alias)))
        assert fix == {"OPTIONS": {"target_session_attrs": wanted}}


def test_times_in_words() -> None:
    assert [seconds(each) for each in (20.0, 0.5, None)] == ["20 s", "0.5 s", "unlimited"]
