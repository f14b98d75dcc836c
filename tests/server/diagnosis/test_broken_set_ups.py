"""The table of broken set-ups: each a real server, proxy or certificate in that state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import DEFAULT_DB_ALIAS
from django.test import override_settings

from django_resilient_pg.diagnosis.findings import PREFIX, Finding, Level, findings
from django_resilient_pg.diagnosis.survey.gather import from_settings, survey
from tests.engines import DRIVER, RESILIENT, STOCK, Connections
from tests.server.diagnosis.set_ups import (
    KEPT,
    NEEDED,
    SOUND,
    TIMEOUT,
    Lab,
    Row,
    State,
    admitting,
    at_neon,
    balanced,
    configured,
    crowded,
    database_with,
    expired_authority,
    far_away,
    listening,
    other_authority,
    pooled,
    presented,
    self_signed,
    standing_by,
    two_hosts,
    web_server,
)

pytestmark = pytest.mark.once_per_driver
ASGI = {"WSGI_APPLICATION": None, "ASGI_APPLICATION": "testproject.asgi.application"}
UNTRUSTED = {"sslmode": "require", "sslrootcert": None}
POOL = {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False}
ROWS = [
    # Settings that are refused, ways that end.
    Row("unknown option", "E001", {"resilience": {"ping_aftr": 1}}, engine=RESILIENT),
    Row("port is no number", "E002", entry={"PORT": "54x32"}),
    Row("unknown service", "E002", {"service": "nowhere"}),
    Row("sslmode misspelt", "E002", {"sslmode": "verify_full"}),
    Row("nothing listens", "E003", state=listening("refuse")),
    Row("no such host", "E003", entry={"HOST": "nowhere.invalid"}),
    Row("balancer without servers", "E003", state=listening("cut")),
    Row("nobody answers", "E003", state=listening("deaf")),
    Row("a web server", "E004", state=web_server),
    Row("wrong password", "E004", entry={"PASSWORD": "not this one"}),
    Row("no such database", "E004", entry={"NAME": "nowhere"}),
    Row("TLS off in the server", "E004", state=configured(ssl="off")),
    Row(
        "hostssl only", "E004", {"sslmode": "disable"}, state=admitting("hostssl all all all trust")
    ),
    Row(
        "client certificate missing",
        "E004",
        state=admitting("hostssl all all all trust clientcert=verify-ca"),
    ),
    Row("certificate expired", "E005", state=presented(days=-1)),
    Row("authority expired", "E005", state=expired_authority),
    Row("certificate for another host", "E006", state=presented("db.example")),
    Row("another authority", "E007", state=other_authority),
    Row("self-signed and verified", "E007 E006", state=self_signed),
    Row("keepalives of 0 s", "E009", {"keepalives_idle": 0}),
    Row("too many keepalives", "E009", {"keepalives_count": 128}, engine=RESILIENT),
    Row("options of this engine for Django's", "E010", {"resilience": {}}),
    # Keepalives and timeouts.
    Row("keepalives=0", "W101", {"keepalives": 0}),
    Row("keepalives as the kernel has them", "W102", {"keepalives_idle": None}),
    Row("keepalives every ten minutes", "W103", {"keepalives_idle": 600}),
    Row(
        "keepalives above idle_timeout",
        "W103",
        {"resilience": {"idle_timeout": 15}},
        engine=RESILIENT,
    ),
    Row(
        "keepalives that do not count",
        "W104 W115 W121 W146",
        entry={"CONN_MAX_AGE": 900},
        state=at_neon,
    ),
    Row("user timeout out of bounds", "W105 W106", {"tcp_user_timeout": -1}),
    Row("no user timeout", "W106", {"tcp_user_timeout": None}),
    Row("user timeout of 5 s", "W107", {"tcp_user_timeout": 5000}),
    Row("user timeout of two minutes", "W108", {"tcp_user_timeout": 120_000}),
    Row("no connect timeout", "W109", {"connect_timeout": None}),
    # TLS.
    Row("no TLS over a network", "W111", {"sslmode": "disable"}, state=far_away),
    Row("sslmode prefer over a network", "W112", {"sslmode": "prefer"}, state=far_away),
    Row("require, where more would do", "W113", {"sslmode": "require"}),
    Row("verify-ca, where more would do", "W113", {"sslmode": "verify-ca"}),
    Row("certificate for ten days", "W114", state=presented(days=10.5)),
    Row("another name, unchecked", "W115", {"sslmode": "verify-ca"}, state=presented("db.example")),
    Row("self-signed, unchecked", "W116 W115", UNTRUSTED, state=self_signed),
    Row(
        "TLS 1.0 allowed",
        "W117",
        entry={"USER": "auditor"},
        state=configured(ssl_min_protocol_version="TLSv1"),
    ),
    Row("expired, unchecked", "W118", UNTRUSTED, state=presented(days=-1)),
    Row("authority unknown", "I219", UNTRUSTED),
    Row("no CA file at its place", "W120", {**UNTRUSTED, "sslrootcert": "/nowhere/ca.pem"}),
    # How long connections are kept.
    Row("CONN_MAX_AGE above the server's", "W121", {"options": "-c idle_session_timeout=30s"}),
    Row(
        "CONN_MAX_AGE above the pooler's",
        "W121 I204",
        state=pooled(console=True, client_idle_timeout=30),
    ),
    Row(
        "for ever, without keepalives",
        "W122 W101",
        {"keepalives": 0},
        entry={"CONN_MAX_AGE": None},
    ),
    Row("kept under ASGI", "W124", project=ASGI),
    Row("kept and not checked", "W125", entry={"CONN_HEALTH_CHECKS": False}),
    Row(
        "a sleeping server is pinged",
        "W146 W115",
        entry={"CONN_HEALTH_CHECKS": True},
        state=at_neon,
    ),
    Row(
        "CONN_MAX_AGE clamped",
        "I221",
        {"options": "-c idle_session_timeout=30s"},
        engine=RESILIENT,
    ),
    Row(
        "a pooler's timeout not told",
        "I222 I204",
        state=pooled(console=True, client_idle_timeout=30),
        engine=RESILIENT,
    ),
    Row("CONN_MAX_AGE 0", "I223", entry={"CONN_MAX_AGE": 0}),
    # Who is there.
    Row("transaction pooler", "W131 I204", state=pooled(pool_mode="transaction")),
    Row(
        "transaction pooler, as it says",
        "W131 I204",
        state=pooled(pool_mode="transaction", console=True),
        engine=RESILIENT,
    ),
    Row(
        "transaction pooler for this database, as another user",
        "W131 I204",
        state=pooled(console=True, database="user=forced pool_mode=transaction"),
    ),
    Row(
        "a pool of one server: its mode cannot be seen",
        "W133 I204",
        state=pooled(default_pool_size=1),
    ),
    Row("a standby", "W141", state=standing_by),
    Row("read-only role", "W141", entry={"USER": "reader"}),
    Row("two hosts", "W142", state=two_hosts),
    Row("slots nearly used", "W143 W141", state=crowded),
    Row("impatient role", "W144", entry={"USER": "impatient"}),
    Row(
        "impatient database",
        "W144",
        state=database_with("idle_in_transaction_session_timeout = '5s'"),
        engine=RESILIENT,
    ),
    Row("HAProxy", "I204", state=balanced),
    Row("in some years", "I245", later=timedelta(days=1600)),
    Row("dead clients", "I248"),
]


if DRIVER == "psycopg2":
    ROWS.append(Row("pool with psycopg2", "E001", {"pool": True}, POOL))
else:
    ROWS += [
        Row(
            "pool with Django's check", "W126", {"pool": True}, {**POOL, "CONN_HEALTH_CHECKS": True}
        ),
        Row(
            "pool above the timeout",
            "W127",
            {"pool": True, "options": "-c idle_session_timeout=60s"},
            POOL,
        ),
        Row("pool with unknown settings", "E001", {"pool": {"sizes": 3}}, POOL),
        Row(
            "prepared statements through a transaction pooler",
            "W132 W131 I204",
            {"prepare_threshold": 5},
            state=pooled(pool_mode="transaction"),
        ),
    ]


if from_settings(DEFAULT_DB_ALIAS).libpq < 180000:  # of the driver's wheel
    ROWS.append(Row("option newer than libpq", "E008", {"min_protocol_version": "3.0"}))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


@contextmanager
def alias_of(row: Row, state: State) -> Iterator[str]:
    """An alias with everything in order but what the row says."""
    changes = dict(state.changes)
    given = {**changes.pop("OPTIONS", {}), **row.options}
    options = {**(SOUND if row.engine == STOCK else {}), **given}
    entry = state.server.database(
        engine=row.engine, options=options, **{**KEPT, **changes, **row.entry}
    )
    entry["OPTIONS"] = {
        name: value for name, value in entry["OPTIONS"].items() if value is not None
    }
    made = Connections(state.server)
    yield made.register(f"row {row.what}", entry).alias
    made.close()


def judged(row: Row, lab: Lab) -> tuple[Finding, ...]:
    with ExitStack() as stack:
        if row.project:
            stack.enter_context(override_settings(**row.project))
        state = stack.enter_context(row.state(lab)) if row.state else State(lab.server)
        alias = stack.enter_context(alias_of(row, state))
        began = time.monotonic()
        seen = survey(alias, TIMEOUT)
        assert time.monotonic() - began < TIMEOUT + 8
        return findings(replace(seen, now=seen.now + row.later))


def numbers(found: tuple[Finding, ...]) -> set[str]:
    return {one.id.removeprefix(PREFIX) for one in found}


# Of the libpq that is installed, not of the set-up: see test_handshakes_cut.
OF_LIBPQ = {"W129"}


def serious(found: tuple[Finding, ...]) -> set[str]:
    return numbers(tuple(one for one in found if one.level >= Level.WARNING)) - OF_LIBPQ


def test_the_table_is_long_enough() -> None:
    assert len({row.what for row in ROWS}) == len(ROWS) >= 30


def with_its_needs(row: Row) -> Any:
    names = NEEDED.get(row.state, ()) if row.state else ()
    return pytest.param(row, id=row.what, marks=[pytest.mark.needs(*names)] if names else [])


@pytest.mark.parametrize("row", [with_its_needs(row) for row in ROWS])
def test_a_broken_set_up(row: Row, lab: Lab) -> None:
    """What is broken is found, and nothing else that is serious."""
    found, meant = judged(row, lab), set(row.found.split())
    assert meant <= numbers(found)
    assert serious(found) <= meant, [one for one in found if one.level >= Level.WARNING]
    for one in found:
        said = f"{one.message} {one.hint} {one.evidence} {one.fix}"
        assert lab.server.password not in said
        assert "not this one" not in said


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
@pytest.mark.parametrize("age", [0, 60, 3600])
def test_a_healthy_set_up(engine: str, age: float, lab: Lab) -> None:
    """This engine with its defaults, and Django's own with what it needs to be told."""
    row = Row("healthy", "", entry={"CONN_MAX_AGE": age}, engine=engine)
    found = judged(row, lab)
    assert serious(found) == set()
    assert numbers(found) <= {"I223", "I245", "I248"}  # I245: as the years go by


def test_djangos_own_engine_as_it_comes_is_not_drowned(lab: Lab) -> None:
    """Three things to set, all of libpq's own making."""
    row = Row("as it comes", "", dict.fromkeys(SOUND), {"CONN_MAX_AGE": 0})
    assert serious(judged(row, lab)) == {"W102", "W106", "W109"}


def test_an_option_that_is_newer_than_libpq(lab: Lab) -> None:
    """libpq is what is installed; the option is one that it refuses."""
    with alias_of(Row("old libpq", "", {"sslnegotiation": "postgres"}), State(lab.server)) as alias:
        known = from_settings(alias)
        old = findings(replace(known, libpq=160000), connects=False)
        assert numbers(old) == {"E008"}
        assert known.libpq < 170000 or numbers(findings(known, connects=False)) == set()


@pytest.mark.parametrize(
    ("broken", "mended", "advice"),
    [
        (
            "ALTER ROLE auditor CONNECTION LIMIT 0",
            "ALTER ROLE auditor CONNECTION LIMIT -1",
            "(ALTER ROLE ... CONNECTION LIMIT)",
        ),
        (
            "ALTER DATABASE app CONNECTION LIMIT 0",
            "ALTER DATABASE app CONNECTION LIMIT -1",
            "(ALTER DATABASE ... CONNECTION LIMIT)",
        ),
        (
            "ALTER DATABASE app ALLOW_CONNECTIONS false",
            "ALTER DATABASE app ALLOW_CONNECTIONS true",
            "(ALTER DATABASE ... ALLOW_CONNECTIONS true)",
        ),
    ],
)
def test_what_is_limited_is_what_is_to_be_raised(
    broken: str, mended: str, advice: str, lab: Lab
) -> None:
    """The server's own limit has nothing to do with it, and the database is there."""
    row = Row("limited", "", entry={"USER": "auditor"})
    lab.server.execute(broken)
    try:
        with alias_of(row, State(lab.server)) as alias:
            (one, *_) = findings(survey(alias, TIMEOUT))
    finally:
        lab.server.execute(mended)
    assert numbers((one,)) <= {"E003", "E004"}
    assert advice in one.hint
    assert "max_connections" not in one.hint
    assert "create" not in one.hint
