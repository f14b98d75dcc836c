"""A session that ends while COMMIT waits for a synchronous standby.

The server has committed, warns that the standby may not know, and the client sees the end of the
connection: no row may be written twice, no hook run twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.errors import CommitOutcomeUnknown
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections, backend_pid, values
from tests.faults.proxy import Proxy

TABLE = "standby"
ROUNDS = 5


@pytest.fixture(scope="module")
def waiting_server() -> Iterator[Server]:
    """Its COMMITs wait for a standby that does not exist."""
    with Server() as server:
        server.execute(f"CREATE TABLE {TABLE} (value text)", database="app")
        server.execute(f"GRANT ALL ON {TABLE} TO app", database="app")
        server.configure(synchronous_standby_names="nobody")
        yield server


@pytest.fixture
def made(waiting_server: Server) -> Iterator[Connections]:
    with closing(Connections(waiting_server)) as made:
        yield made
    waiting_server.execute(f"SET synchronous_commit = local; TRUNCATE {TABLE}", database="app")


def rows(server: Server) -> list[str]:
    return values(server, TABLE)


def insert(connection: BaseDatabaseWrapper, value: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {TABLE} (value) VALUES (%s)", [value])


@contextmanager
def in_commit(
    server: Server, connection: BaseDatabaseWrapper, fault: Callable[[int], object]
) -> Iterator[None]:
    """Call ``fault`` with the session's process id as soon as its COMMIT waits for the standby."""
    connection.ensure_connection()
    pid = backend_pid(connection)
    happened: list[int] = []

    def watch() -> None:
        deadline = time.monotonic() + 10
        waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
        while time.monotonic() < deadline:
            if server.execute(waits, [pid]):
                fault(pid)
                happened.append(pid)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch, name="in_commit")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert happened, "COMMIT was never seen to wait"


@pytest.mark.parametrize("via", ["retry_atomic", "commit_outcome"])
def test_what_was_committed_counts_as_committed_once(
    via: str, made: Connections, waiting_server: Server
) -> None:
    given: dict[str, Any] = {} if via == "retry_atomic" else {"commit_outcome": True}
    connection = made(RESILIENT, **given)
    runs: list[int] = []
    hooks: list[int] = []

    def work(number: int) -> None:
        runs.append(number)
        insert(connection, f"{number}")
        transaction.on_commit(lambda: hooks.append(number), using=connection.alias)

    for number in range(ROUNDS):
        with in_commit(waiting_server, connection, waiting_server.terminate):
            if via == "retry_atomic":
                retry_atomic.run(partial(work, number), using=connection.alias)
            else:
                with transaction.atomic(using=connection.alias):
                    work(number)
    assert rows(waiting_server) == [f"{number}" for number in range(ROUNDS)]
    assert runs == hooks == list(range(ROUNDS))
    assert "The transaction has already committed locally" in waiting_server.log_text()


def test_a_session_that_waits_on_after_its_client_has_gone_is_ended_and_counts_too(
    made: Connections, waiting_server: Server
) -> None:
    """The wire is cut, the session does not notice: its transaction is in progress until then."""
    runs: list[int] = []
    hooks: list[int] = []
    with Proxy(waiting_server.port) as proxy:
        connection = made(RESILIENT, PORT=proxy.port)

        def work() -> None:
            runs.append(1)
            insert(connection, "once")
            transaction.on_commit(lambda: hooks.append(1), using=connection.alias)

        with in_commit(waiting_server, connection, lambda pid: proxy.cut("reset")):
            retry_atomic.run(work, using=connection.alias)
    assert (runs, hooks, rows(waiting_server)) == ([1], [1], ["once"])


def test_plain_atomic_says_that_it_does_not_know(made: Connections, waiting_server: Server) -> None:
    connection = made(RESILIENT)
    hooks: list[int] = []
    with (
        in_commit(waiting_server, connection, waiting_server.terminate),
        pytest.raises(CommitOutcomeUnknown),
        transaction.atomic(using=connection.alias),
    ):
        insert(connection, "x")
        transaction.on_commit(lambda: hooks.append(1), using=connection.alias)
    assert (rows(waiting_server), hooks) == (["x"], [])


def test_with_the_stock_engine_running_it_again_writes_it_twice(
    made: Connections, waiting_server: Server
) -> None:
    """Its error says nothing of the COMMIT: who does not run it again loses the hook instead."""
    connection = made(STOCK)
    hooks: list[int] = []

    def work() -> None:
        with transaction.atomic(using=connection.alias):
            insert(connection, "x")
            transaction.on_commit(lambda: hooks.append(1), using=connection.alias)

    with (
        in_commit(waiting_server, connection, waiting_server.terminate),
        pytest.raises(OperationalError) as caught,
    ):
        work()
    assert "COMMIT" not in str(caught.value)
    assert (rows(waiting_server), hooks) == (["x"], [])
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = local")
    work()
    assert rows(waiting_server) == ["x", "x"]
