"""Failover with ``OPTIONS["pool"]``: nothing in the pool leads back to the old primary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import Error

from tests.engines import NUMBERS, RESILIENT, STOCK, Connections, run
from tests.faults.cluster import Replicated
from tests.faults.test_failover import DOES, WAYS, values

pytestmark = pytest.mark.psycopg3

SIZE = 4


@pytest.fixture
def connect(pair: Replicated) -> Iterator[Any]:
    """Make a full pool that knows both hosts."""
    made = Connections(pair.first)

    def make(engine: str = RESILIENT) -> Any:
        pool = {"min_size": SIZE, "max_size": SIZE, "timeout": 5.0}
        options = {"target_session_attrs": "read-write", "pool": pool}
        database = pair.database(engine=engine, options=options, CONN_MAX_AGE=0)
        connection: Any = made.register(f"pooled-{next(NUMBERS)}", database)
        run(connection, "SELECT 1")
        connection.close()
        connection.pool.wait(10)
        return connection

    yield make
    made.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("does", DOES)
def test_what_comes_after_the_failover_finds_the_new_primary(
    pair: Replicated, connect: Any, way: str, does: str
) -> None:
    connection, stock = connect(), connect(STOCK)
    WAYS[way](pair)
    DOES[does](connection, "x")
    assert values(pair) == {"read": [], "write": ["x"], "transaction": ["x", "x"]}[does]
    with pytest.raises(Error):
        DOES[does](stock, "stock")


@pytest.mark.parametrize("does", ["write", "transaction"])
def test_an_old_primary_that_is_fenced_and_still_answers_is_left_at_once(
    pair: Replicated, connect: Any, does: str
) -> None:
    """All of the pool lead to it; each would refuse the write again."""
    connection, stock = connect(), connect(STOCK)
    pair.first.configure(synchronous_standby_names=None, default_transaction_read_only="on")
    pair.promote()
    DOES[does](connection, "x")
    assert values(pair) == {"write": ["x"], "transaction": ["x", "x"]}[does]
    with pytest.raises(Error):
        DOES[does](stock, "stock")
