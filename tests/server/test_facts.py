"""Facts of a real server: each path seen for what it is, each refusal survived."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.driver.choose import link_to
from django_resilient_pg.facts import Facts, Path, SocketOptions, gather_from, socket_options
from testproject.postgres import Server
from tests.engines import STOCK, Connections

pytestmark = pytest.mark.once_per_driver

DATABASE = "facts"


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """A database to revoke and create things in."""
    server.create_database(DATABASE)
    yield DATABASE
    server.drop_database(DATABASE)


def ask(connection: BaseDatabaseWrapper) -> Facts:
    """Open a connection of whichever engine and gather its facts."""
    connection.ensure_connection()
    found = gather_from(link_to(connection.connection), connection.settings_dict)
    assert found is not None
    return found


class Relay:
    """A TCP proxy in front of a server, which may change what the server sends at login."""

    def __init__(self, port: int, change: Callable[[bytes], bytes] = bytes) -> None:
        self._target, self._change = port, change
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Relay:
        self._start(self._accept)
        return self

    def __exit__(self, *exception: object) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, run: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=run, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                self._start(self._copy, client, server, bytes)
                self._start(self._copy, server, client, self._change)

    def _copy(
        self, one: socket.socket, other: socket.socket, change: Callable[[bytes], bytes]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(change(data))
            other.shutdown(socket.SHUT_WR)


def renumbered(data: bytes) -> bytes:
    """Put another process id into BackendKeyData, as a pooler does (plain text, protocol 3.0)."""
    head = b"K\x00\x00\x00\x0c"
    before, found, after = data.partition(head)
    return before + head + (77_777_777).to_bytes(4, "big") + after[4:] if found else data


@pytest.mark.parametrize("engine", [None, STOCK])
def test_direct(server: Server, make_connection: Connections, engine: str | None) -> None:
    connection = make_connection(engine) if engine else make_connection()
    found = ask(connection)
    assert found.path is Path.DIRECT
    assert f"to 127.0.0.1:{server.port}" in found.path_evidence
    assert found.refusal == ""
    assert found.server_version // 10_000 == int(server.version)
    assert (found.in_recovery, found.read_only) == (False, False)
    assert found.provider is None
    assert found.client == found.socket.local
    assert found.server == found.socket.peer
    assert found.socket.host == server.host
    assert found.socket.port == server.port
    assert found.socket.tls is True
    assert found.idle_session_timeout is None
    assert found.tcp_keepalives_count is not None


@pytest.mark.psycopg2
def test_what_psycopg2_tells_of_tls(resilient: BaseDatabaseWrapper) -> None:
    link = ask(resilient).socket
    assert link.tls_version == "TLSv1.3"
    assert link.cipher is not None
    assert link.cipher.startswith("TLS_")


def test_the_engine_gathers_by_itself(resilient: Any) -> None:
    found: Facts = resilient.resilience.facts
    assert found.path is Path.DIRECT
    assert found.socket.keepalives == SocketOptions(True, 20.0, 5.0, 3, 30.0)


def test_without_the_engine_no_keepalives_that_help(stock: BaseDatabaseWrapper) -> None:
    found = ask(stock).socket.keepalives
    assert found is not None
    assert found.keepalives_idle == 7200.0
    assert found.user_timeout == 0.0


def test_in_plain_text(make_connection: Connections) -> None:
    found = ask(make_connection(options={"sslmode": "disable"}))
    assert (found.socket.tls, found.socket.tls_version) == (False, None)


def test_unix_socket(server: Server, make_connection: Connections) -> None:
    found = ask(make_connection(HOST=server.socket_dir))
    assert found.path is Path.UNIX_SOCKET
    assert found.client is None
    assert found.socket.unix
    assert found.socket.keepalives == SocketOptions(False, None, None, None, None)


def test_tcp_proxy(server: Server, make_connection: Connections) -> None:
    with Relay(server.port) as relay:
        connection = make_connection(PORT=str(relay.port))
        found = ask(connection)
        connection.close()
    assert found.path is Path.NAT_OR_PROXY
    assert f"this socket is {found.socket.local}" in found.path_evidence
    assert found.socket.tls is True


def test_pooler(server: Server, make_connection: Connections) -> None:
    with Relay(server.port, renumbered) as relay:
        connection = make_connection(PORT=str(relay.port), options={"sslmode": "disable"})
        found = ask(connection)
        connection.close()
    assert found.path is Path.POOLER
    assert "77777777 was named at login" in found.path_evidence


def test_settings_of_the_role_in_the_database(
    server: Server, database: str, make_connection: Connections
) -> None:
    settings = {
        "idle_session_timeout": "90s",
        "idle_in_transaction_session_timeout": "2min",
        "statement_timeout": "1500",
        "tcp_keepalives_idle": "120",
        "tcp_user_timeout": "45000",
        "default_transaction_read_only": "on",
    }
    if int(server.version) >= 17:
        settings["transaction_timeout"] = "1h"
    for name, value in settings.items():
        server.execute(f"ALTER ROLE app IN DATABASE {database} SET {name} = '{value}'")
    found = ask(make_connection(database=database))
    assert found.idle_session_timeout == 90.0
    assert found.idle_in_transaction_session_timeout == 120.0
    assert found.statement_timeout == 1.5
    assert found.tcp_keepalives_idle == 120.0
    assert found.tcp_user_timeout == 45.0
    assert found.read_only is True
    assert found.transaction_timeout == (3600.0 if int(server.version) >= 17 else None)


def test_idle_session_timeout_becomes_the_limit(own_server: Server) -> None:
    made = Connections(own_server)
    own_server.configure(idle_session_timeout="3s")
    connection: Any = made(CONN_MAX_AGE=None)
    connection.ensure_connection()
    found = connection.resilience.limits
    made.close()
    assert found.idle.seconds == found.age == 1.5
    assert found.idle.source == "idle_session_timeout of the server (3 s)"


def test_a_refused_question_costs_nothing(
    server: Server, database: str, make_connection: Connections
) -> None:
    server.execute(
        "REVOKE EXECUTE ON FUNCTION pg_catalog.inet_client_addr() FROM PUBLIC", database=database
    )
    connection: Any = make_connection(alias="refused", database=database)
    connection.ensure_connection()
    found: Facts = connection.resilience.facts
    assert found.path is Path.UNKNOWN
    assert found.refusal == "permission denied for function inet_client_addr"
    assert found.refusal_code == "42501"
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("autocommit", [True, False])
def test_closed_catalogues_cost_the_provider_only(
    server: Server, database: str, make_connection: Connections, autocommit: bool
) -> None:
    server.execute("REVOKE ALL ON pg_settings, pg_proc FROM PUBLIC", database=database)
    connection: Any = make_connection(database=database, AUTOCOMMIT=autocommit)
    connection.ensure_connection()
    found: Facts = connection.resilience.facts
    assert (found.path, found.refusal) == (Path.DIRECT, "")
    assert found.server_version // 10_000 == int(server.version)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_aurora_by_its_functions_in_a_schema_closed_to_us(
    server: Server, database: str, make_connection: Connections
) -> None:
    for statement in (
        "CREATE SCHEMA closed",
        "CREATE FUNCTION closed.aurora_version() RETURNS text LANGUAGE sql AS $$ SELECT '1' $$",
    ):
        server.execute(statement, database=database)
    provider = ask(make_connection(database=database)).provider
    assert provider is not None
    assert provider.name == "Aurora PostgreSQL"


def test_a_connection_lost_meanwhile_tells_nothing(
    server: Server, resilient: Any, kill: Callable[[BaseDatabaseWrapper], int]
) -> None:
    link = link_to(resilient.connection)
    kill(resilient)
    assert gather_from(link, resilient.settings_dict) is None


def test_libpqs_descriptor_is_left_open(resilient: BaseDatabaseWrapper) -> None:
    link = link_to(resilient.connection)
    for _ in range(3):
        assert socket_options(link.fd) is not None
        ask(resilient)
    with resilient.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
