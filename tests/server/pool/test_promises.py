"""``OPTIONS["pool"]``: every promise with a pooled connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import (
    OperationalError,
    transaction,
)

from django_resilient_pg.errors import SessionLost
from tests.engines import RESILIENT, STOCK, until
from tests.server.pool.pools import pool_of, requests, sized
from tests.server.scenarios import SURVIVED, TABLE, Stage, differs

pytestmark = pytest.mark.psycopg3


@pytest.fixture
def stage_of(stage_of: Callable[..., Stage]) -> Callable[..., Stage]:
    """As everywhere, with a connection of a pool that is full."""

    def make(engine: str = RESILIENT, **given: Any) -> Stage:
        stage = stage_of(engine, CONN_MAX_AGE=0, options=sized(2, timeout=5.0), **given)
        stats = pool_of(stage.connection).get_stats  # this one has the other connection
        until(lambda: stats()["pool_available"] == 1, "the pool is not full")
        return stage

    return make


@pytest.mark.parametrize("name", SURVIVED)
def test_the_application_does_not_notice(name: str, stage_of: Callable[..., Stage]) -> None:
    scenario, result, rows = SURVIVED[name]
    stage = stage_of()
    assert scenario(stage) == result
    assert stage.rows() == rows
    assert stage.run("SELECT 5") == [(5,)]
    stage.connection.close()
    statistics = pool_of(stage.connection).get_stats()
    assert statistics["pool_size"] == 2, "no place of the pool has leaked"
    assert len(requests(stage.connection, 2)) == 2


@pytest.mark.parametrize("name", SURVIVED)
def test_the_stock_engine_fails_under_the_same_fault(
    name: str, stage_of: Callable[..., Stage]
) -> None:
    assert differs(name, stage_of(STOCK))


def test_a_write_lost_midway_is_raised_and_the_next_statement_works(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    with pytest.raises(OperationalError) as caught, stage.killed_midway():
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)")
    assert "may already have been applied" in " ".join(caught.value.__notes__)
    assert len(stage.rows()) <= 1
    assert stage.run("SELECT 5") == [(5,)]


def test_a_transaction_lost_later_is_rolled_back_as_a_whole(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    with pytest.raises(OperationalError), transaction.atomic(using=stage.connection.alias):
        stage.insert("a")
        stage.kill()
        stage.insert("b")
    assert stage.rows() == []
    assert stage.run("SELECT 5") == [(5,)]


def test_what_cannot_be_replayed_pins_a_pooled_connection_too(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    stage.run("SELECT pg_advisory_lock(1)")
    stage.kill()
    with pytest.raises(SessionLost, match="pg_advisory_lock"):
        stage.run("SELECT 1")
    stage.connection.close()
    assert stage.run("SELECT 1") == [(1,)]


def test_what_was_set_is_set_again_on_another_of_the_pool(stage_of: Callable[..., Stage]) -> None:
    stage = stage_of()
    stage.run("SET search_path TO pg_catalog")
    stage.kill()
    assert stage.run("SHOW search_path") == [("pg_catalog",)]
