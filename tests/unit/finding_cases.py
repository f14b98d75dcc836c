"""Where each rule of the findings speaks, and where it does not, though not much is different."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

from django_resilient_pg.diagnosis.path.client_certificates import ClientCertificate
from django_resilient_pg.diagnosis.path.poolers import Pooler
from django_resilient_pg.diagnosis.path.server import Activity
from django_resilient_pg.diagnosis.settings.hosts import Host
from django_resilient_pg.diagnosis.survey.survey import Survey
from django_resilient_pg.policy.limits import Limit
from tests.unit.surveys import (
    CERTIFICATE,
    CHAIN_EXPIRED,
    FORGOTTEN,
    LOOPBACK,
    NEON,
    NOW,
    OLD,
    OVER_NAT,
    PGBOUNCER,
    REFUSED,
    REQUIRE,
    SHORT,
    SOON,
    STOCK,
    UNVERIFIED,
    keepalives,
    known,
)


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
