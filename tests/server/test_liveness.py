"""Looking at a connection: what is death, what is not, and how long looking may take."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.driver.choose import link_to
from testproject.postgres import Server
from tests.engines import DRIVER, PATIENCE, Connections, backend_pid, run

pytestmark = pytest.mark.once_per_driver


def received(connection: BaseDatabaseWrapper) -> list[str]:
    """The notifications the application finds, by its driver's own means."""
    raw = connection.connection
    if DRIVER == "psycopg2":
        raw.poll()
        return [notify.payload for notify in raw.notifies]
    return [notify.payload for notify in raw.notifies(timeout=0.5, stop_after=1)]


def test_a_pending_notification_is_not_death_and_is_not_lost(
    resilient: BaseDatabaseWrapper, server: Server
) -> None:
    run(resilient, "LISTEN news")
    pid = backend_pid(resilient)
    server.execute("NOTIFY news, 'hello'", database="app")
    time.sleep(0.1)
    resilient._look()  # type: ignore[attr-defined]
    assert backend_pid(resilient) == pid
    assert received(resilient) == ["hello"]
    server.execute("NOTIFY news, 'again'", database="app")
    time.sleep(0.1)
    assert run(resilient, "SELECT 1") == [(1,)]
    assert received(resilient)[-1] == "again"


def test_a_pending_parameter_status_is_not_death(
    own_connections: Connections, own_server: Server
) -> None:
    connection = own_connections()
    run(connection, "SELECT 1")
    pid = backend_pid(connection)
    own_server.configure(IntervalStyle="iso_8601")
    time.sleep(0.1)
    assert run(connection, "SELECT 1") == [(1,)]
    assert backend_pid(connection) == pid
    assert connection.connection.info.parameter_status("IntervalStyle") == "iso_8601"


def test_looking_names_the_servers_reason(
    resilient: BaseDatabaseWrapper, kill: Callable[[BaseDatabaseWrapper], int]
) -> None:
    """The FATAL that ended the session is in the input; psycopg2's exceptions hide it."""
    kill(resilient)
    assert run(resilient, "SELECT 1") == [(1,)]
    assert resilient.resilience.stats.lost["ADMINISTRATOR"] >= 1  # type: ignore[attr-defined]


def test_a_ping_ends_in_time_though_the_server_is_frozen(
    own_connections: Connections, own_server: Server
) -> None:
    """A stopped process below a live kernel: TCP acknowledges, nobody answers."""
    connection = own_connections()
    run(connection, "SELECT 1")
    link = link_to(connection.connection)
    assert link.ping(2.0)
    own_server.pause()
    try:
        began = time.monotonic()
        assert not link.ping(0.5)
        took = time.monotonic() - began
    finally:
        own_server.resume()
    assert 0.4 < took < PATIENCE


_FROZEN: list[Server] = []


def resume(alias: str) -> dict[str, str]:
    """The option ``credentials``: another connection is made, so the ping has failed."""
    _FROZEN[0].resume()
    return {"password": _FROZEN[0].password}


def test_a_frozen_session_is_replaced_after_the_ping(
    own_connections: Connections, own_server: Server
) -> None:
    """Idle for longer than ping_after: the ping fails, the read is answered by a new session."""
    _FROZEN[:] = [own_server]
    way = f"{resume.__module__}.{resume.__name__}"
    connection = own_connections(ping_after=0.2, ping_timeout=0.3, credentials=way)
    run(connection, "SELECT 1")
    pid = backend_pid(connection)
    time.sleep(0.3)
    own_server.pause()
    try:
        assert run(connection, "SELECT 3") == [(3,)]
    finally:
        own_server.resume()
    assert backend_pid(connection) != pid


def test_an_idle_connection_that_answers_is_kept(make_connection: Connections) -> None:
    connection = make_connection(ping_after=0.05, ping_timeout=1)
    run(connection, "SELECT 1")
    pid = backend_pid(connection)
    time.sleep(0.2)
    assert run(connection, "SELECT 1") == [(1,)]
    assert backend_pid(connection) == pid


def test_a_connection_idle_past_its_limit_is_replaced_before_use(
    make_connection: Connections,
) -> None:
    """Without any request signal, and without a loss being counted."""
    connection = make_connection(idle_timeout=0.4, CONN_MAX_AGE=None)
    run(connection, "SELECT 1")
    pid = backend_pid(connection)
    time.sleep(0.3)
    before = dict(connection.resilience.stats.lost)  # type: ignore[attr-defined]
    assert run(connection, "SELECT 1") == [(1,)]
    assert backend_pid(connection) != pid
    assert dict(connection.resilience.stats.lost) == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("rolled_back", [False, True])
def test_a_block_that_sends_nothing_is_no_sign_of_life(
    rolled_back: bool, make_connection: Connections
) -> None:
    """ATOMIC_REQUESTS with views that need no database: the connection is idle all the same."""
    connection = make_connection(idle_timeout=0.8, CONN_MAX_AGE=None)
    run(connection, "SELECT 1")
    pid = backend_pid(connection)
    for _ in range(4):
        time.sleep(0.2)
        with transaction.atomic(using=connection.alias):
            transaction.set_rollback(rolled_back, using=connection.alias)
    assert run(connection, "SELECT 1") == [(1,)]
    assert backend_pid(connection) != pid


@pytest.mark.parametrize(
    ("made", "asked", "kept"),
    [
        ("SET application_name TO mine", "SHOW application_name", False),
        ("CREATE TEMPORARY TABLE mine AS SELECT 'mine'", "SELECT * FROM mine", True),
    ],
    ids=["replayed", "pinned"],
)
def test_session_state_outlives_an_idle_limit(
    make_connection: Connections, made: str, asked: str, kept: bool
) -> None:
    """What can be replayed goes over to the new connection; for the rest the old one is kept."""
    connection = make_connection(idle_timeout=0.4, CONN_MAX_AGE=None)
    run(connection, made)
    pid = backend_pid(connection)
    time.sleep(0.3)
    assert run(connection, asked) == [("mine",)]
    assert (backend_pid(connection) == pid) is kept


def test_a_shared_connection_is_not_looked_into(
    resilient: BaseDatabaseWrapper, server: Server
) -> None:
    """Reading the other thread's answer away would leave it waiting for ever."""
    resilient.inc_thread_sharing()
    try:
        answers: list[Any] = []
        thread = threading.Thread(
            target=lambda: answers.append(run(resilient, "SELECT 1, pg_sleep(0.5)"))
        )
        thread.start()
        while thread.is_alive():
            resilient._look()  # type: ignore[attr-defined]
            time.sleep(0.01)
        thread.join()
        assert [row[0] for row in answers[0]] == [1]
    finally:
        resilient.dec_thread_sharing()


def test_health_checks_cost_no_round_trip(make_connection: Connections, server: Server) -> None:
    """CONN_HEALTH_CHECKS looks instead of SELECT 1, and still finds a dead connection."""
    connection = make_connection(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    run(connection, "SELECT 1")
    pid = backend_pid(connection)
    connection.close_if_unusable_or_obsolete()
    assert connection.is_usable()
    last = "SELECT query FROM pg_stat_activity WHERE pid = %s"
    run(connection, "SELECT 'the last one'")
    connection.close_if_unusable_or_obsolete()
    assert connection.is_usable()
    assert server.execute(last, [pid]) == [("SELECT 'the last one'",)]
    server.terminate(pid)
    assert not connection.is_usable()


@pytest.mark.slow
def test_the_idle_timeout_of_the_server_is_found_and_kept(
    own_connections: Connections, own_server: Server
) -> None:
    """idle_session_timeout = 3s, requests 0.5 to 4 s apart: no loss."""
    own_server.configure(idle_session_timeout="3s")
    connection = own_connections(CONN_MAX_AGE=600, CONN_HEALTH_CHECKS=True)
    assert run(connection, "SELECT 1") == [(1,)]
    limits = connection.resilience.limits  # type: ignore[attr-defined]
    assert limits.age is not None
    assert limits.age < 3.0
    for pause in [0.5, 1.0, 1.4, 1.6, 2.0, 2.5, 2.9, 3.1, 3.5, 4.0]:
        connections[connection.alias].close_if_unusable_or_obsolete()
        assert run(connection, "SELECT 1") == [(1,)]
        time.sleep(pause)
    assert dict(connection.resilience.stats.lost) == {}  # type: ignore[attr-defined]


# -- NOTIFY ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("handled", [False, True])
def test_a_notify_that_comes_with_the_ping_is_delivered(
    handled: bool, make_connection: Connections, server: Server
) -> None:
    connection: Any = make_connection(ping_after=0.05, ping_timeout=5)
    run(connection, "LISTEN news")
    raw: Any = connection.connection
    heard: list[Any] = []
    if handled and DRIVER == "psycopg":
        raw.add_notify_handler(heard.append)
    pid = backend_pid(connection)
    time.sleep(0.1)
    os.kill(pid, signal.SIGSTOP)
    going_on = threading.Timer(0.3, os.kill, [pid, signal.SIGCONT])
    try:
        server.execute("NOTIFY news, 'for you'", database="app")
        going_on.start()
        assert connection.is_usable()
    finally:
        going_on.join()
    assert backend_pid(connection) == pid
    # Without asking the socket again: nothing more comes of it.
    if DRIVER == "psycopg2":
        heard = raw.notifies
    elif not handled:
        heard = list(raw.notifies(timeout=0))
    assert [one.payload for one in heard] == ["for you"]
