"""COMMIT on a wire that is cut: before the server sees it, after it, and before its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import pytest
from django.db import Error, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_resilient_pg.errors import CommitOutcomeUnknown, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT, STOCK, Connections, backend_pid, until
from tests.faults.commits import TABLE, in_commit, insert, rows, slow_commit
from tests.faults.proxy import Point, Proxy


def assert_rows(server: Server, count: int) -> None:
    """A COMMIT that has been sent may still be under way."""
    until(lambda: len(rows(server)) >= count, f"less than {count} rows")
    assert len(rows(server)) == count


@pytest.mark.parametrize("via", ["retry_atomic", "option"])
def test_the_server_is_asked_what_became_of_a_commit(
    via: str, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    """The answer to COMMIT never arrives; the row is there; nothing is done twice."""
    given: dict[str, Any] = {} if via == "retry_atomic" else {"commit_outcome": True}
    connection = make_connection(RESILIENT, PORT=proxy.port, **given)
    hooks: list[str] = []

    def work() -> None:
        insert(connection, "once")
        transaction.on_commit(lambda: hooks.append("once"), using=connection.alias)

    slow_commit(server)
    connection.ensure_connection()
    with in_commit(server, backend_pid(connection), partial(proxy.cut, "reset")):
        if via == "retry_atomic":
            retry_atomic.run(work, using=connection.alias)
        else:
            with transaction.atomic(using=connection.alias):
                work()
    assert rows(server) == ["once"]
    assert hooks == ["once"]


@pytest.mark.campaign
@pytest.mark.parametrize("point", ["before", "after", "answer"])
def test_two_hundred_commits_cut_leave_one_row_and_one_hook_each(
    point: Point, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port)
    hooks: list[str] = []

    def work(token: str, runs: list[int]) -> None:
        runs.append(1)
        insert(connection, token)
        transaction.on_commit(lambda: hooks.append(token), using=connection.alias)
        if len(runs) == 1:
            proxy.cut_at(2, point)  # 1 asks for the transaction's id, 2 is COMMIT

    tokens = [f"{number:03}" for number in range(200)]
    for token in tokens:
        runs: list[int] = []
        retry_atomic.run(partial(work, token, runs), using=connection.alias)
        assert len(runs) == (2 if point == "before" else 1)
    assert rows(server) == tokens
    assert hooks == tokens
    assert sum(connection.resilience.stats.lost.values()) >= 200  # type: ignore[attr-defined]


@pytest.mark.parametrize("point", ["before", "after", "answer"])
def test_plain_atomic_never_claims_to_know(
    point: Point, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port)
    for number in range(10):
        with pytest.raises(CommitOutcomeUnknown), transaction.atomic(using=connection.alias):
            insert(connection, f"{number}")
            proxy.cut_at(1, point)
    assert_rows(server, 0 if point == "before" else 10)


@pytest.mark.parametrize("point", ["before", "after", "answer"])
def test_the_stock_engine_raises_alike_whether_it_committed_or_not(
    point: Point, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    """Which is why retry loops around it write rows twice."""
    connection = make_connection(STOCK, PORT=proxy.port)
    with pytest.raises(Error) as caught, transaction.atomic(using=connection.alias):
        insert(connection, "x")
        proxy.cut_at(1, point)
    assert not isinstance(caught.value, CommitOutcomeUnknown)
    assert_rows(server, 0 if point == "before" else 1)


def test_a_lost_commit_that_was_rolled_back_runs_again(
    make_connection: Connections, server: Server, table: None
) -> None:
    """Killed in COMMIT's triggers: aborted, says the server, and retry_atomic does it again."""
    connection = make_connection(RESILIENT)
    slow_commit(server)
    connection.ensure_connection()
    pid = backend_pid(connection)
    runs: list[int] = []
    hooks: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(connection, "once")
        transaction.on_commit(lambda: hooks.append(1), using=connection.alias)

    with in_commit(server, pid, partial(server.terminate, pid)):
        retry_atomic.run(work, using=connection.alias)
    assert len(runs) == 2
    assert rows(server) == ["once"]
    assert hooks == [1]


def test_plain_atomic_says_that_the_outcome_is_unknown(
    make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port)
    slow_commit(server)
    connection.ensure_connection()
    cut = in_commit(server, backend_pid(connection), partial(proxy.cut, "reset"))
    with cut, pytest.raises(CommitOutcomeUnknown), transaction.atomic(using=connection.alias):
        insert(connection, "x")
    assert len(rows(server)) <= 1


@pytest.fixture
def without_ids(server: Server) -> Iterator[str]:
    """A database that gives no transaction its id, as some that speak the protocol do not."""
    server.create_database("without_ids")
    server.execute(
        "CREATE OR REPLACE FUNCTION pg_catalog.pg_current_xact_id_if_assigned()"
        " RETURNS xid8 STABLE LANGUAGE sql AS 'SELECT NULL::xid8'",
        database="without_ids",
    )
    server.execute(f"CREATE TABLE {TABLE} (value text)", database="without_ids")
    server.execute(f"GRANT ALL ON {TABLE} TO app", database="without_ids")
    yield "without_ids"
    server.drop_database("without_ids")


@pytest.mark.parametrize(
    "text",
    [
        f"INSERT INTO {TABLE} (value) VALUES ('x')",
        f"UPDATE {TABLE} SET value = lower(value) WHERE value = 'nobody'",
    ],
)
def test_that_no_id_was_given_out_does_not_prove_that_nothing_was_written(
    text: str, without_ids: str, make_connection: Connections, server: Server, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, database=without_ids, PORT=proxy.port)
    hooks: list[int] = []

    def work() -> None:
        with connection.cursor() as cursor:
            cursor.execute(text)
        transaction.on_commit(lambda: hooks.append(1), using=connection.alias)
        proxy.cut_at(2, "before")  # 1 asks for the transaction's id, 2 is COMMIT

    with pytest.raises(CommitOutcomeUnknown):
        retry_atomic.run(work, using=connection.alias)
    assert hooks == []
    assert server.execute(f"SELECT count(*) FROM {TABLE}", database=without_ids) == [(0,)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@pytest.mark.parametrize("kind", ["read", "write"])
def test_the_question_is_asked_again_if_its_connection_dies_too(
    kind: str, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    """As under a load whose sessions are ended all the time."""
    connection = make_connection(RESILIENT, PORT=proxy.port)
    hooks: list[int] = []
    killed: list[int] = []

    def kill_the_first(connection: BaseDatabaseWrapper, **_: Any) -> None:
        if not killed:
            killed.append(backend_pid(connection))
            server.terminate(*killed)

    def work() -> None:
        if kind == "write":
            insert(connection, "once")
        else:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_class")
        transaction.on_commit(lambda: hooks.append(1), using=connection.alias)
        proxy.cut_at(2 if kind == "write" else 1, "answer")

    connection.ensure_connection()
    connection_created.connect(kill_the_first)
    try:
        if kind == "write":
            retry_atomic.run(work, using=connection.alias)
        else:
            with transaction.atomic(using=connection.alias):
                work()
    finally:
        connection_created.disconnect(kill_the_first)
    assert killed
    assert hooks == [1]
    assert rows(server) == (["once"] if kind == "write" else [])


ROWS = ["dict_row", "namedtuple_row"] if DRIVER == "psycopg" else []
CURSORS = ["NamedTupleCursor", "RealDictCursor"] if DRIVER == "psycopg2" else []


@contextmanager
def rows_of_another_kind(name: str) -> Iterator[dict[str, Any]]:
    """Connections whose rows are no plain tuples; the value is their OPTIONS."""
    if name in CURSORS:
        yield {"cursor_factory": getattr(import_module("psycopg2.extras"), name)}
        return

    def give(connection: BaseDatabaseWrapper, **_: object) -> None:
        connection.connection.row_factory = getattr(import_module("psycopg.rows"), name)

    connection_created.connect(give)
    try:
        yield {}
    finally:
        connection_created.disconnect(give)


@pytest.mark.parametrize("point", ["before", "answer"])
@pytest.mark.parametrize("name", [*ROWS, *CURSORS])
def test_the_engine_asks_for_tuples_whatever_the_application_has(
    name: str,
    point: Point,
    make_connection: Connections,
    server: Server,
    table: None,
    proxy: Proxy,
) -> None:
    runs: list[int] = []
    with rows_of_another_kind(name) as options:
        connection = make_connection(RESILIENT, PORT=proxy.port, options=options)

        def work() -> None:
            runs.append(1)
            insert(connection, f"{len(runs)}")
            if len(runs) == 2:
                proxy.cut_at(2, point)  # 1 asks for the transaction's id, 2 is COMMIT

        for _ in range(2):
            retry_atomic.run(work, using=connection.alias)
    assert rows(server) == (["1", "3"] if point == "before" else ["1", "2"])


def test_what_follows_a_text_that_ended_the_transaction_is_not_done_twice(
    make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    """psycopg2 believes itself in a transaction still: what follows takes effect at once."""
    connection = make_connection(RESILIENT, PORT=proxy.port)
    with pytest.raises(Error), transaction.atomic(using=connection.alias):
        insert(connection, "a")
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
            proxy.cut_at(1 if DRIVER == "psycopg2" else 2, "answer")
            cursor.execute(f"INSERT INTO {TABLE} (value) VALUES ('b')")
    assert rows(server).count("b") == (1 if DRIVER == "psycopg2" else 0)


def test_what_is_said_of_a_loss_after_a_text_has_committed(
    make_connection: Connections,
    server: Server,
    table: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    connection = make_connection(RESILIENT)
    with pytest.raises(TransactionLost, match="COMMIT as text") as caught:  # noqa: SIM117
        with transaction.atomic(using=connection.alias):
            for sql in ("COMMIT", "BEGIN")[: 1 + (DRIVER == "psycopg2")]:
                with connection.cursor() as cursor:
                    cursor.execute(sql)
            insert(connection, "a")
            kill(connection)
    assert not caught.value.transaction_lost
    assert rows(server) == []
