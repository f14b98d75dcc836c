"""Fixtures of the server tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines import Connections
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
