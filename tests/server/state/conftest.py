"""Fixtures of the tests of transactions and of what a session was set to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Server
from tests.engines import Connections, backend_pid
from tests.server.scenarios import Stage
from tests.server.state.losing import Stages
from tests.server.state.tenants import DATABASE, SCHEMA, Run, runner


@pytest.fixture
def manual(stage_of: Stages) -> Callable[[str], Stage]:
    """A stage on which transactions begin by themselves, none of them begun."""

    def make(off: str) -> Stage:
        if off == "set_autocommit":
            stage = stage_of()
            stage.connection.set_autocommit(False)
        else:
            stage = stage_of(AUTOCOMMIT=False)
            stage.connection.rollback()
        return stage

    return make


@pytest.fixture(scope="module")
def tenants(server: Server) -> Iterator[str]:
    """A database whose rows and schemas belong to tenants."""
    server.create_database(DATABASE)
    server.execute(";".join(SCHEMA), database=DATABASE)
    for role in ("clerk", "auditor"):
        server.execute(f"CREATE ROLE {role}")
        server.execute(f"GRANT {role} TO app")
    yield DATABASE
    server.drop_database(DATABASE)
    server.execute("DROP ROLE clerk, auditor")


@pytest.fixture
def connection(tenants: str, make_connection: Connections) -> BaseDatabaseWrapper:
    """A connection to it, in whose session a tenant is set."""
    return make_connection(database=tenants, CONN_MAX_AGE=None)


@pytest.fixture
def run(connection: BaseDatabaseWrapper) -> Run:
    """Run a statement on that connection, and return its rows."""
    return runner(connection)


@pytest.fixture
def kill_session(connection: BaseDatabaseWrapper, server: Server) -> Callable[[], None]:
    """Terminate the session of that connection."""
    return lambda: server.terminate(backend_pid(connection))
