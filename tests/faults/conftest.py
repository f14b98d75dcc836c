"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from testproject.postgres import Server
from tests.engines import Connections, values_table
from tests.faults.cluster import Replicated
from tests.faults.commits import TABLE
from tests.faults.namespace import Namespace
from tests.faults.proxy import Proxy


@pytest.fixture
def make_proxy(server: Server) -> Iterator[Callable[..., Proxy]]:
    """Make proxies before ``server``; arguments as those of :class:`tests.faults.proxy.Proxy`."""
    with ExitStack() as stack:

        def make(port: int | None = None, **options: Any) -> Proxy:
            return stack.enter_context(Proxy(port or server.port, **options))

        yield make


@pytest.fixture
def proxy(make_proxy: Callable[..., Proxy]) -> Proxy:
    """A proxy before ``server``: connect with ``make_connection(PORT=proxy.port)``."""
    return make_proxy()


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A network namespace, shared by the tests of a module."""
    with Namespace() as made:
        yield made


@pytest.fixture(scope="module")
def far_server(namespace: Namespace) -> Iterator[Server]:
    """A PostgreSQL in the namespace: ``namespace.fault(far_server.port)`` cuts the way to it."""
    with namespace.server() as running:
        yield running


@pytest.fixture
def make_far_connection(far_server: Server) -> Iterator[Connections]:
    """Make connections to ``far_server``, as ``make_connection`` does to ``server``."""
    made = Connections(far_server)
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[Replicated]:
    """A primary, and a standby that has every commit; both have the empty table "entry"."""
    with Replicated() as made:
        table = "CREATE TABLE entry (id bigserial PRIMARY KEY, value text)"
        made.first.execute(table, database="app")
        made.first.execute("GRANT ALL ON entry, entry_id_seq TO app", database="app")
        made.wait_replayed()
        yield made


@pytest.fixture
def table(server: Server) -> Iterator[None]:
    """The table of the tests of COMMIT, empty."""
    with values_table(server, TABLE):
        yield
