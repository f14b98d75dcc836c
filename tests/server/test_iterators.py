"""Server-side cursors (``iterator()``) beside other statements, and COPY: kept, or told of."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections.abc import Callable
from functools import partial

import pytest
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.errors import TransactionLost
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import STOCK, Connections, ask, backend_pid, until

pytestmark = pytest.mark.once_per_driver

ROWS = "SELECT g FROM generate_series(1, 5000) AS g"


def read(connection: BaseDatabaseWrapper, pauses: list[float]) -> int:
    """Fetch 100 rows before each pause, run another statement, and fetch the rest."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(ROWS)
        rows = 0
        for pause in pauses:
            rows += len(cursor.fetchmany(100))
            time.sleep(pause)
        ask(connection)
        return rows + len(cursor.fetchall())


Read = Callable[[BaseDatabaseWrapper], int]
LOOPS: dict[str, Read] = {
    "one long pause": lambda connection: read(connection, [0.8]),
    "many short ones": lambda connection: read(connection, [0.2] * 6),
}


# -- a connection that lives ------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("engine", ["", STOCK])
def test_rows_that_have_arrived_outlive_an_idle_limit(
    batch: int, engine: str, make_connection: Connections, server: Server
) -> None:
    """Their connection is replaced for its limit, but lives."""
    connection = make_connection(*([engine] if engine else []), CONN_MAX_AGE=None, idle_timeout=0.5)
    with connection.cursor() as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 4) AS g")
        before, rows = backend_pid(connection), 0
        while found := cursor.fetchmany(batch):
            rows += len(found)
            time.sleep(0.55)
            ask(connection)
    assert rows == 4
    assert (backend_pid(connection) == before) is bool(engine)
    del cursor
    count = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {before}"
    until(lambda: bool(engine) or server.execute(count) == [(0,)], "it was left open")


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("engine", ["", STOCK])
def test_an_open_cursor_outweighs_an_idle_limit(
    loop: Read, engine: str, make_connection: Connections
) -> None:
    connection = make_connection(*([engine] if engine else []), CONN_MAX_AGE=None, idle_timeout=1.0)
    ask(connection)
    before = backend_pid(connection)
    assert loop(connection) == 5000
    assert backend_pid(connection) == before


@pytest.mark.parametrize("engine", ["", STOCK])
def test_a_loop_that_fetches_is_not_idle_for_the_servers_own_limit(
    engine: str, make_connection: Connections, server: Server
) -> None:
    server.execute("ALTER ROLE app SET idle_session_timeout = '2s'")
    try:
        connection = make_connection(*([engine] if engine else []), CONN_MAX_AGE=None)
        assert read(connection, [0.3] * 8) == 5000
    finally:
        server.execute("ALTER ROLE app RESET idle_session_timeout")


def test_the_limit_counts_again_when_the_cursor_is_closed(make_connection: Connections) -> None:
    connection = make_connection(CONN_MAX_AGE=None, idle_timeout=1.0)
    assert read(connection, [0.1]) == 5000
    before = backend_pid(connection)
    time.sleep(0.7)
    ask(connection)
    assert backend_pid(connection) != before


def test_no_limit_is_learned_from_a_loop_that_fetched(make_connection: Connections) -> None:
    connection = make_connection(CONN_MAX_AGE=None)
    with connection.chunked_cursor() as cursor:
        cursor.execute(ROWS)
        for _ in range(11):
            cursor.fetchmany(100)
            time.sleep(0.5)
        with socket.socket(fileno=os.dup(connection._link.fd)) as own:  # type: ignore[attr-defined]
            own.shutdown(socket.SHUT_RDWR)
        ask(connection)
    assert connection.resilience.limits.idle.seconds == float("inf")  # type: ignore[attr-defined]


def copy_slowly(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        if hasattr(connection.connection, "pgconn"):
            with cursor.copy("COPY (SELECT 1 FROM pg_sleep(0.8)) TO STDOUT") as copy:
                assert b"".join(bytes(part) for part in copy) == b"1\n"
        else:
            cursor.copy_expert("COPY (SELECT 1 FROM pg_sleep(0.8)) TO STDOUT", io.StringIO())


def test_a_connection_that_copied_was_not_idle(make_connection: Connections) -> None:
    connection = make_connection(CONN_MAX_AGE=None, idle_timeout=1.0)
    ask(connection)
    before = backend_pid(connection)
    copy_slowly(connection)
    ask(connection)
    assert backend_pid(connection) == before


@pytest.mark.psycopg3
def test_a_connection_that_streamed_was_not_idle(make_connection: Connections) -> None:
    connection = make_connection(CONN_MAX_AGE=None, idle_timeout=1.0)
    ask(connection)
    before = backend_pid(connection)
    with connection.cursor() as cursor:
        assert list(cursor.stream("SELECT 1 FROM pg_sleep(0.8)")) == [(1,)]
    ask(connection)
    assert backend_pid(connection) == before


def test_a_connection_that_rolled_back_was_heard(make_connection: Connections) -> None:
    connection = make_connection(CONN_MAX_AGE=None, idle_timeout=1.0)
    with transaction.atomic(using=connection.alias):
        ask(connection)
        before = backend_pid(connection)
        time.sleep(0.8)
        transaction.set_rollback(True, using=connection.alias)
    ask(connection)
    assert backend_pid(connection) == before


# -- a connection that another statement has replaced -------------------------------------------


def test_rows_were_delivered_and_another_statement_was_healed(
    make_connection: Connections, server: Server
) -> None:
    connection = make_connection(CONN_MAX_AGE=None)
    with pytest.raises(Error) as caught, connection.chunked_cursor() as cursor:
        cursor.execute(ROWS)
        assert len(cursor.fetchmany(100)) == 100
        server.terminate(backend_pid(connection))
        ask(connection)
        healed = backend_pid(connection)
        cursor.fetchmany(100)
    assert "100 rows" in caught.value.__notes__[0]
    assert caught.value.connection_lost  # type: ignore[attr-defined]
    ask(connection)
    assert backend_pid(connection) == healed


def test_no_row_was_delivered_and_another_statement_was_healed(
    make_connection: Connections, server: Server
) -> None:
    connection = make_connection(CONN_MAX_AGE=None)
    with connection.chunked_cursor() as cursor:
        cursor.execute(ROWS)
        server.terminate(backend_pid(connection))
        ask(connection)
        healed = backend_pid(connection)
        with pytest.raises(Error) as caught:
            cursor.fetchmany(100)
    assert "another statement has got a new connection" in caught.value.__notes__[0]
    assert backend_pid(connection) == healed


def test_what_counts_is_not_read_again(make_connection: Connections, server: Server) -> None:
    """The server has run all of it when the cursor was opened, whatever became of the fetch."""
    server.execute("CREATE SEQUENCE opened; GRANT ALL ON SEQUENCE opened TO app", database="app")
    connection = make_connection(CONN_MAX_AGE=None)
    try:
        with pytest.raises(Error) as caught, connection.chunked_cursor() as cursor:
            cursor.execute("SELECT nextval('opened')")
            connection.connection.close()  # the driver will not even send the fetch
            cursor.fetchmany(100)
        assert "nextval" in caught.value.__notes__[0]
        assert server.execute("SELECT last_value FROM opened", database="app") == [(1,)]
        assert ask(connection, "SELECT 5") == 5
    finally:
        server.execute("DROP SEQUENCE opened", database="app")


def test_its_transaction_was_lost_and_left(make_connection: Connections, server: Server) -> None:
    connection = make_connection(CONN_MAX_AGE=None)
    with connection.chunked_cursor() as cursor:
        with pytest.raises(Error), transaction.atomic(using=connection.alias):
            cursor = connection.chunked_cursor()
            cursor.execute(ROWS)
            server.terminate(backend_pid(connection))
            ask(connection)
        ask(connection)
        healed = backend_pid(connection)
        with pytest.raises(Error) as caught:
            cursor.fetchmany(100)
    assert "its transaction" in caught.value.__notes__[0]
    assert backend_pid(connection) == healed


def test_who_closes_a_connection_gets_what_the_stock_engine_gives(
    make_connection: Connections,
) -> None:
    said = []
    for engine in (STOCK, None):
        connection = make_connection(*([engine] if engine else []))
        with pytest.raises(Error) as caught, connection.chunked_cursor() as cursor:
            cursor.execute(ROWS)
            connection.close()
            cursor.fetchmany(100)
        said.append((type(caught.value), str(caught.value), hasattr(caught.value, "__notes__")))
        connections[connection.alias].close()
    assert said[0] == said[1]


# -- its end is cut ------------------------------------------------------------------------------


def cut_at_the_end(connection: BaseDatabaseWrapper, kill: Callable[[], object], end: str) -> None:
    """Read a server-side cursor whose session ends before its last FETCH, or before CLOSE."""
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 10) AS g")
        assert len(cursor.fetchmany(10)) == 10
        if end == "FETCH":
            kill()
            cursor.fetchmany(10)
        else:
            assert cursor.fetchmany(10) == []
            kill()


@pytest.mark.parametrize("end", ["FETCH", "CLOSE"])
def test_a_transaction_runs_again_whose_cursor_is_lost_at_its_end(
    end: str, make_connection: Connections, server: Server
) -> None:
    connection = make_connection(CONN_MAX_AGE=None)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE own (x int) ON COMMIT DROP")
        kill = partial(server.terminate, backend_pid(connection))
        cut_at_the_end(connection, kill if len(runs) == 1 else int, end)

    retry_atomic.run(work, using=connection.alias)
    assert len(runs) == 2
    assert sum(connection.resilience.stats.lost.values()) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("atomic", [False, True])
def test_a_cursor_that_is_lost_at_its_last_fetch_says_so(
    atomic: bool, make_connection: Connections, server: Server
) -> None:
    connection = make_connection(CONN_MAX_AGE=None)
    ask(connection)
    kill = partial(server.terminate, backend_pid(connection))
    block = transaction.atomic(using=connection.alias) if atomic else contextlib.nullcontext()
    with pytest.raises(Error) as caught, block:
        cut_at_the_end(connection, kill, "FETCH")
    assert " lost after " in caught.value.__notes__[0]
    assert caught.value.connection_lost  # type: ignore[attr-defined]
    assert sum(connection.resilience.stats.lost.values()) == 1  # type: ignore[attr-defined]
    assert ask(connection, "SELECT 5") == 5


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("managed", [False, True])
def test_nothing_is_missing_when_a_cursor_is_lost_at_its_close(
    managed: bool, atomic: bool, make_connection: Connections, server: Server
) -> None:
    """All rows are here; a transaction that only read has nothing to lose."""
    connection = make_connection(CONN_MAX_AGE=None)
    ask(connection)
    kill = partial(server.terminate, backend_pid(connection))
    block = transaction.atomic(using=connection.alias) if atomic else contextlib.nullcontext()
    with block:
        if managed:
            cut_at_the_end(connection, kill, "CLOSE")
        else:  # as QuerySet.iterator() does it
            cursor = connection.chunked_cursor()
            cursor.execute("SELECT g FROM generate_series(1, 10) AS g")
            assert len(cursor.fetchmany(100)) == 10
            kill()
            cursor.close()
    assert sum(connection.resilience.stats.lost.values()) == 1  # type: ignore[attr-defined]
    assert ask(connection, "SELECT 5") == 5


def test_a_transaction_is_missing_when_a_cursor_is_lost_at_its_close(
    make_connection: Connections, server: Server
) -> None:
    connection = make_connection(CONN_MAX_AGE=None)
    with pytest.raises(TransactionLost) as caught, transaction.atomic(using=connection.alias):
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE own (x int) ON COMMIT DROP")
        cut_at_the_end(connection, partial(server.terminate, backend_pid(connection)), "CLOSE")
        ask(connection)
    assert caught.value.transaction_lost
    assert ask(connection, "SELECT 5") == 5
