"""Fixtures of the server tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testproject.postgres import Server
from tests.engines import RESILIENT, Connections
from tests.faults.proxy import Proxy
from tests.server.scenarios import DATABASE, Stage, lay_out
from tests.server.tls import TlsServer


@pytest.fixture(scope="module")
def running_tls_server() -> Iterator[TlsServer]:
    """A server of the module's own; use ``tls_server``."""
    with TlsServer() as server:
        yield server


@pytest.fixture
def tls_server(running_tls_server: TlsServer) -> Iterator[TlsServer]:
    """A server whose TLS, access rules and settings may be broken: they are put right again."""
    with running_tls_server.broken():
        yield running_tls_server


@pytest.fixture
def tls_connections(tls_server: TlsServer) -> Iterator[Connections]:
    """Make connections to ``tls_server``, as ``make_connection`` does to ``server``."""
    connections = Connections(tls_server)
    yield connections
    connections.close()


@pytest.fixture(scope="module")
def database(server: Server) -> Iterator[str]:
    """The database of the scenarios; use ``stage_of``."""
    server.create_database(DATABASE)
    yield DATABASE
    server.drop_database(DATABASE)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy before ``server`` that can cut its stream: ``stage_of(PORT=proxy.port)``."""
    with Proxy(server.port) as running:
        yield running


@pytest.fixture
def stage_of(server: Server, database: str, make_connection: Connections) -> Callable[..., Stage]:
    """Make a stage with a fresh connection under an alias of its own."""
    lay_out(server, database)

    def make(engine: str = RESILIENT, **given: Any) -> Stage:
        given = {"CONN_MAX_AGE": None, **given}
        connection = make_connection(engine, database=database, **given)
        stage = Stage(server, connection, database)
        stage.run("SELECT 1")
        return stage

    return make
