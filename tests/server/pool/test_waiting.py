"""Who waits for a connection of a pool, and for how long."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import (
    OperationalError,
    ProgrammingError,
    transaction,
)

from django_resilient_pg.errors import ServerDown
from testproject.postgres import Server
from tests.engines import PATIENCE, Connections, run, until
from tests.faults.proxy import Proxy
from tests.server.pool.pools import filled, requests, sized
from tests.server.test_connecting import answers

pytestmark = pytest.mark.psycopg3


def test_a_pool_that_is_used_up_is_waited_for_no_longer_than_the_budget(
    make_connection: Connections,
) -> None:
    connection = make_connection(options=sized(1), retry_deadline=1.0)
    run(connection, "SELECT 1")
    began = time.monotonic()
    ((outcome, seconds),) = requests(connection, 1)
    assert isinstance(outcome, OperationalError)
    assert "1 of at most 1 are in use" in str(outcome)
    assert "max_size" in str(outcome)
    assert 0.9 < seconds < PATIENCE / 2
    assert time.monotonic() - began < PATIENCE / 2


def test_a_timeout_the_user_has_set_is_his(make_connection: Connections) -> None:
    connection = make_connection(options=sized(1, timeout=0.3))
    run(connection, "SELECT 1")
    ((outcome, seconds),) = requests(connection, 1)
    assert isinstance(outcome, OperationalError)
    assert 0.2 < seconds < 5.0


def test_what_max_waiting_turns_away_is_not_tried_again(make_connection: Connections) -> None:
    connection = make_connection(options=sized(1, max_waiting=1), retry_deadline=2.0)
    run(connection, "SELECT 1")
    outcomes = requests(connection, 3)
    *turned_away, waited = sorted(outcomes, key=lambda outcome: outcome[1])
    assert ["requests waiting" in str(outcome) for outcome, _ in turned_away] == [True, True]
    assert "requests waiting" not in str(waited[0])


def test_a_connection_given_back_serves_who_waits(make_connection: Connections) -> None:
    connection = filled(make_connection(options=sized(1)))
    assert [outcome for outcome, _ in requests(connection, 10)] == [[(42,)]] * 10


def test_a_connection_closed_within_a_block_is_no_outage(make_connection: Connections) -> None:
    connection = filled(make_connection(options=sized(2), retry_deadline=60.0))
    began = time.monotonic()
    with (
        pytest.raises(ProgrammingError, match="in an atomic block"),
        transaction.atomic(using=connection.alias),
    ):
        connection.close()
        run(connection, "SELECT 1")
    assert time.monotonic() - began < PATIENCE


def test_a_wrong_password_is_said_at_once(make_connection: Connections) -> None:
    """The stock engine says "couldn't get a connection after 30.00 sec"."""
    connection = make_connection(options=sized(2))
    connection.settings_dict["PASSWORD"] = "a-wrong-secret"
    began = time.monotonic()
    with pytest.raises(OperationalError, match="password authentication failed"):
        run(connection, "SELECT 1")
    assert time.monotonic() - began < PATIENCE / 2


def test_a_server_that_is_down_is_given_up_in_time_and_recovers_by_itself(
    own_connections: Connections, own_server: Server
) -> None:
    connection = filled(own_connections(options=sized(2), retry_deadline=2.0))
    own_server.stop("fast")
    began = time.monotonic()
    with pytest.raises(OperationalError, match="refused") as caught:
        run(connection, "SELECT 1")
    assert time.monotonic() - began < 2.0 + PATIENCE / 2
    assert "retry_deadline (2 s) is used up" in " ".join(caught.value.__notes__)
    own_server.start()
    until(lambda: answers(connection), "it does not recover")


def test_in_a_long_outage_a_pool_keeps_nobody(
    own_connections: Connections, own_server: Server
) -> None:
    """Neither those who wait for their turn, nor the one who asks."""
    connection = filled(own_connections(options=sized(2), retry_deadline=1.0))
    own_server.stop("fast")
    with pytest.raises(OperationalError):
        run(connection, "SELECT 1")
    took: list[float] = []
    asked = 0
    while asked < 3:
        began = time.monotonic()
        with pytest.raises(OperationalError) as caught:
            run(connection, "SELECT 1")
        if not isinstance(caught.value, ServerDown):
            asked += 1
            took.append(time.monotonic() - began)
        assert "has been down since" in " ".join(caught.value.__notes__)
        time.sleep(0.05)
    assert min(took) < 0.1


def test_a_restart_is_waited_out_by_all_threads(
    own_connections: Connections, own_server: Server
) -> None:
    connection = filled(own_connections(options=sized(4)))
    own_server.stop("immediate")
    starter = threading.Timer(1.5, own_server.start)
    starter.start()
    outcomes = requests(connection, 8)
    starter.join()
    assert [outcome for outcome, _ in outcomes] == [[(42,)]] * 8


def test_connections_that_fell_silent_are_pinged_once_and_not_one_after_the_other(
    own_connections: Connections, own_server: Server
) -> None:
    """Eight connections into a path that forwards nothing any more: one ping of 1 s, not eight."""
    with Proxy(own_server.port) as proxy:
        connection = own_connections(
            options={**sized(8), "sslmode": "require", "hostaddr": "127.0.0.1"},
            PORT=str(proxy.port),
            ping_after=0.5,
            ping_timeout=1.0,
        )
        filled(connection)
        time.sleep(0.7)
        proxy.set_mode("deaf")
        threading.Timer(1.5, proxy.set_mode, ["pass"]).start()
        began = time.monotonic()
        assert run(connection, "SELECT 1") == [(1,)]
        assert time.monotonic() - began < 6.0
