"""Set-ups that are broken: servers, proxies and certificates, and what an alias meets there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from testproject.postgres import Server
from tests import needs
from tests.engines import STOCK, Connections
from tests.faults import namespace
from tests.faults.haproxy import HAProxy
from tests.faults.pgbouncer import PgBouncer
from tests.faults.proxy import Mode, Proxy
from tests.server.impostors import Impostor
from tests.server.tls import TlsServer, client_certificate

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
