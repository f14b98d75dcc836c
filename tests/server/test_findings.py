"""The table of broken set-ups: each a real server, proxy or certificate in that state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.db import DEFAULT_DB_ALIAS
from django.test import override_settings

from django_resilient_pg.diagnosis.findings import PREFIX, Finding, Level, findings
from django_resilient_pg.diagnosis.survey.gather import from_settings, survey
from testproject.postgres import Server
from tests import needs
from tests.engines import DRIVER, RESILIENT, STOCK, Connections
from tests.faults import namespace
from tests.faults.haproxy import HAProxy
from tests.faults.pgbouncer import PgBouncer
from tests.faults.proxy import Mode, Proxy
from tests.server.impostors import Impostor
from tests.server.tls import TlsServer, client_certificate

pytestmark = pytest.mark.once_per_driver

TIMEOUT = 2.0
NEON = "ep-cool-name-123456.eu-central-1.aws.neon.tech"
# What Django's own engine needs to be told to be in order.
SOUND = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
KEPT = {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}


class Lab:
    """The servers of the table, started when they are first needed, shared by all rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    @cached_property
    def server(self) -> TlsServer:
        """To be broken within ``server.broken()``, and put right again by it."""
        made = self._stack.enter_context(TlsServer())
        self.role("impatient", made, "idle_in_transaction_session_timeout = '5s'")
        self.role("reader", made, "default_transaction_read_only = on")
        self.role("auditor", made)
        self.role("forced", made)
        made.execute("GRANT pg_read_all_settings TO auditor")
        return made

    @cached_property
    def standby(self) -> Server:
        """A server in hot standby, with seven slots for those who are not superusers."""
        slots = {"max_connections": "8", "superuser_reserved_connections": "1"}
        made = self._stack.enter_context(Server(settings=slots))
        made.stop()
        (made.data / "standby.signal").touch()
        made.start()
        return made

    @cached_property
    def far(self) -> Server:
        """A server that is not on this machine: in a network namespace."""
        there = self._stack.enter_context(namespace.Namespace())
        return self._stack.enter_context(there.server())

    @staticmethod
    def role(name: str, server: Server, *settings: str) -> None:
        server.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{server.password}'")
        for each in settings:
            server.execute(f"ALTER ROLE {name} SET {each}")

    def close(self) -> None:
        self._stack.close()


class State(NamedTuple):
    """What is there, and what an alias has to have to meet it."""

    server: Server
    changes: Mapping[str, Any] = {}


Breakage = Callable[[Lab], AbstractContextManager[State]]
# What a state needs of the system: see tests.needs.
NEEDED: dict[Breakage, tuple[str, ...]] = {}


class Row(NamedTuple):
    """One broken set-up: how it came about, and what is found.

    ``found``: all findings of level warning and above, and those worth knowing that are meant; the
    first is the one that the row is about. ``options`` None: that one taken out.
    """

    what: str
    found: str
    options: Mapping[str, Any] = {}
    entry: Mapping[str, Any] = {}
    state: Breakage | None = None
    engine: str = STOCK
    project: Mapping[str, Any] = {}  # settings outside of DATABASES
    later: timedelta = timedelta()  # how far the clock has gone on


# -- states -----------------------------------------------------------------------------------


def listening(mode: Mode) -> Breakage:
    """A proxy on the way, in this mode."""

    @contextmanager
    def state(lab: Lab) -> Iterator[State]:
        with Proxy(lab.server.port) as proxy:
            proxy.set_mode(mode)
            yield State(lab.server, {"PORT": proxy.port})

    return state


@contextmanager
def web_server(lab: Lab) -> Iterator[State]:
    with Impostor(answer=b"HTTP/1.1 400 Bad Request\r\n\r\n") as web:
        yield State(lab.server, {"PORT": web.port})


def presented(*names: str, days: float = 100) -> Breakage:
    """A certificate for these names, for so long, of an authority that clients trust."""

    @contextmanager
    def state(lab: Lab) -> Iterator[State]:
        with lab.server.broken():
            expires = datetime.now(UTC) + timedelta(days=days)
            lab.server.present(*(names or ("localhost",)), expires=expires)
            yield State(lab.server)

    return state


@contextmanager
def other_authority(lab: Lab) -> Iterator[State]:
    file = lab.folder / "other.pem"
    trustme.CA(organization_name="somebody else").cert_pem.write_to_path(file)
    yield State(lab.server, {"OPTIONS": {"sslrootcert": str(file)}})


@contextmanager
def expired_authority(lab: Lab) -> Iterator[State]:
    """The certificate itself is good for a year, that of its authority was until yesterday."""
    now = datetime.now(UTC)
    key, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old authority")])
    leaf = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])

    def signed(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, days: int, what: x509.ExtensionType
    ) -> bytes:
        made = (
            x509.CertificateBuilder(name, subject, public, x509.random_serial_number())
            .not_valid_before(now - timedelta(days=500))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(what, critical=False)
        )
        return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    file = lab.folder / "old.pem"
    authority = x509.BasicConstraints(ca=True, path_length=None)
    file.write_bytes(signed(name, key.public_key(), -1, authority))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    with lab.server.broken():
        (lab.server.folder / "server.pem").write_bytes(signed(leaf, own.public_key(), 365, names))
        (lab.server.folder / "server.key").write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        lab.server.configure()
        yield State(lab.server, {"OPTIONS": {"sslrootcert": str(file)}})


@contextmanager
def self_signed(lab: Lab) -> Iterator[State]:
    own = trustme.CA(organization_name="myself")
    with lab.server.broken():
        own.cert_pem.write_to_path(lab.server.folder / "server.pem")
        (lab.server.folder / "server.key").write_bytes(own.private_key_pem.bytes())
        lab.server.configure()
        yield State(lab.server)


def configured(**settings: str) -> Breakage:
    """Settings of the server."""

    @contextmanager
    def state(lab: Lab) -> Iterator[State]:
        with lab.server.broken():
            lab.server.configure(**settings)
            yield State(lab.server)

    return state


def admitting(*rules: str) -> Breakage:
    """Lines of pg_hba.conf."""

    @contextmanager
    def state(lab: Lab) -> Iterator[State]:
        with lab.server.broken():
            lab.server.admit(*rules)
            lab.server.trust_clients(client_certificate(lab.folder).ca_file)
            yield State(lab.server)

    return state


def database_with(setting: str) -> Breakage:
    """ALTER DATABASE."""

    @contextmanager
    def state(lab: Lab) -> Iterator[State]:
        lab.server.execute(f"ALTER DATABASE app SET {setting}")
        try:
            yield State(lab.server)
        finally:
            lab.server.execute("ALTER DATABASE app RESET ALL")

    return state


def pooled(**settings: Any) -> Breakage:
    """Behind PgBouncer."""

    @contextmanager
    def state(lab: Lab) -> Iterator[State]:
        with PgBouncer(lab.server, **settings) as bouncer:
            yield State(lab.server, {"PORT": bouncer.port})

    NEEDED[state] = ("pgbouncer",)
    return state


@contextmanager
def balanced(lab: Lab) -> Iterator[State]:
    with HAProxy(lab.server) as proxy:
        yield State(lab.server, {"PORT": proxy.port})


NEEDED[balanced] = ("haproxy",)


@contextmanager
def standing_by(lab: Lab) -> Iterator[State]:
    yield State(lab.standby)


@contextmanager
def crowded(lab: Lab) -> Iterator[State]:
    others = Connections(lab.standby)
    for _ in range(5):
        others(STOCK).ensure_connection()
    yield State(lab.standby)
    others.close()


@contextmanager
def far_away(lab: Lab) -> Iterator[State]:
    yield State(lab.far)


NEEDED[far_away] = needs.NAMESPACE


@contextmanager
def at_neon(lab: Lab) -> Iterator[State]:
    """As if the server were Neon's: by the host's name, which is not looked up."""
    own = {"hostaddr": "127.0.0.1", "sslmode": "require", "sslrootcert": None}
    yield State(lab.server, {"HOST": NEON, "OPTIONS": own})


@contextmanager
def two_hosts(lab: Lab) -> Iterator[State]:
    port = lab.server.port
    yield State(lab.server, {"HOST": "localhost,127.0.0.1", "PORT": f"{port},{port}"})


# -- the table --------------------------------------------------------------------------------

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
