"""Fixtures of the tests of what is run again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Server
from tests.engines import RESILIENT, Connections
from tests.server.replay.once import TABLE


@pytest.fixture
def table(server: Server) -> Iterator[None]:
    """The table, empty."""
    server.execute(f"CREATE TABLE {TABLE} (value text)", database="app")
    server.execute(f"GRANT ALL ON {TABLE} TO app", database="app")
    yield
    server.execute(f"DROP TABLE {TABLE}", database="app")


@pytest.fixture
def db(make_connection: Connections) -> BaseDatabaseWrapper:
    """The alias under test."""
    return make_connection(RESILIENT, alias="first", CONN_MAX_AGE=60)


@pytest.fixture
def other(make_connection: Connections) -> BaseDatabaseWrapper:
    """Another alias of this engine on the same database."""
    return make_connection(RESILIENT, alias="second", CONN_MAX_AGE=60)
