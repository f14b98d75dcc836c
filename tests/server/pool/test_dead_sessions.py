"""Pools whose sessions have all been terminated, or that were closed."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest
from django.db import (
    OperationalError,
)

from testproject.postgres import Server
from tests.engines import PATIENCE, STOCK, Connections, backend_pid, run
from tests.server.pool.pools import filled, pool_of, requests, sized

pytestmark = pytest.mark.psycopg3


# -- pools whose sessions have all been ended ------------------------------------------------------


@pytest.mark.parametrize("size", [4, 8, 20])
def test_a_pool_whose_sessions_were_all_ended_is_right_at_once(
    size: int, make_connection: Connections, server: Server
) -> None:
    connection = filled(make_connection(options=sized(size)))

    def first_query() -> float:
        server.terminate_all()
        began = time.monotonic()
        assert run(connection, "SELECT 1") == [(1,)]
        took = time.monotonic() - began
        connection.close()
        pool_of(connection).wait(PATIENCE)
        return took

    # Once is enough: the machine may be busy with something else.
    assert any(first_query() < 0.2 for _ in range(10))
    server.terminate_all()
    outcomes = requests(connection, size)
    assert [outcome for outcome, _ in outcomes] == [[(42,)]] * size
    assert max(seconds for _, seconds in outcomes) < PATIENCE / 2


@pytest.mark.parametrize("size", [4, 8, 20])
def test_the_stock_engines_pool_is_not(
    size: int, make_connection: Connections, server: Server
) -> None:
    """With health checks it sleeps 0, 1, 2, 4 ... s after each dead connection that it meets.

    So a pool of 4 takes 7 s, and one of 8 fails after the default timeout of 30 s; here after 3.
    """
    connection = make_connection(STOCK, options=sized(size, timeout=3.0), CONN_HEALTH_CHECKS=True)
    filled(connection)
    server.terminate_all()
    with pytest.raises(OperationalError, match=r"couldn.t get a connection after 3\.00 sec"):
        run(connection, "SELECT 1")


def test_dead_connections_are_counted_announced_once_and_put_away_without_a_warning(
    make_connection: Connections, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    connection: Any = filled(make_connection(options=sized(4)))
    server.terminate_all()
    with caplog.at_level(logging.INFO):
        run(connection, "SELECT 1")
    assert connection.resilience.stats.lost == {"ADMINISTRATOR": 4}
    (line,) = caplog.records
    assert (line.name, line.levelno) == ("django_resilient_pg", logging.INFO)


def test_each_loss_is_announced_by_the_request_that_meets_with_it(
    make_connection: Connections, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Once its connection is there: what is collected while connecting is not kept."""
    connection: Any = filled(make_connection(options=sized(2)))
    for number in (1, 2, 3):
        run(connection, "SELECT 1")
        connection.close()
        pool_of(connection).wait(PATIENCE)
        server.terminate_all()
        with caplog.at_level(logging.INFO):
            run(connection, "SELECT 1")
        assert [record.name for record in caplog.records] == ["django_resilient_pg"] * number
        connection.close()


def test_a_loss_without_a_new_connection_is_announced_with_what_came_of_it(
    make_connection: Connections, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line, once nothing came in the place of the lost one."""
    connection: Any = filled(make_connection(options=sized(2)))
    run(connection, "SELECT 1")
    connection.close()
    server.execute("ALTER ROLE app NOLOGIN")
    try:
        server.terminate_all()
        with caplog.at_level(logging.INFO), pytest.raises(OperationalError):
            run(connection, "SELECT 1")
    finally:
        server.execute("ALTER ROLE app LOGIN")
    (line,) = [record for record in caplog.records if record.name == "django_resilient_pg"]
    assert line.levelno == logging.WARNING
    assert "Could not reconnect" in line.getMessage()


def test_looking_takes_no_round_trip(make_connection: Connections, server: Server) -> None:
    connection = filled(make_connection(options=sized(1)))
    asked = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'app'"
    run(connection, "SELECT 1")
    pid = backend_pid(connection)
    # The session reports to the statistics when it has been idle for a moment.
    before = _settled(server, asked)
    for _ in range(20):
        connection.close()
        connection.ensure_connection()
    assert backend_pid(connection) == pid
    # One for each would be 20. Some are not ours: autovacuum's transactions count as well.
    assert _settled(server, asked) - before < 15


def _settled(server: Server, sql: str) -> int:
    time.sleep(1.2)
    server.execute("SELECT pg_stat_clear_snapshot()")
    return int(server.execute(sql)[0][0])


# -- closed ----------------------------------------------------------------------------------------


def test_a_pool_that_was_closed_is_made_anew(make_connection: Connections) -> None:
    """On the stock engine it can never be used again; nor after a ``wait()`` that was too short."""
    connection: Any = filled(make_connection(options=sized(2)))
    first = pool_of(connection)
    first.close()
    began = time.monotonic()
    assert run(connection, "SELECT 1") == [(1,)]
    assert time.monotonic() - began < PATIENCE / 2
    assert pool_of(connection) is not first
    connection.close()
    for _ in range(2):
        connection.close_pool()
        assert connection.alias not in connection._connection_pools
    assert run(connection, "SELECT 1") == [(1,)]


def test_a_pool_closed_under_those_who_wait_is_made_anew_for_them(
    make_connection: Connections,
) -> None:
    connection: Any = make_connection(options=sized(1))
    run(connection, "SELECT 1")
    closer = threading.Timer(0.3, pool_of(connection).close)
    closer.start()
    assert [outcome for outcome, _ in requests(connection, 1)] == [[(42,)]]
    closer.join()
    assert run(connection, "SELECT 1") == [(1,)]
    connection.close()


def test_tracers_tell_a_pooled_connection_by_its_drivers_module(
    make_connection: Connections,
) -> None:
    """As ddtrace does: the first part of the module is the name of its spans ("psycopg.commit")."""
    pooled, alone = filled(make_connection(options=sized(1))), make_connection()
    for connection in (pooled, alone):
        connection.ensure_connection()
        assert type(connection.connection).__module__.partition(".")[0] == "psycopg"
