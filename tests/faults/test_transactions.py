"""A transaction that is lost before its COMMIT, or that only read, whose COMMIT changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import Error, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.errors import CommitOutcomeUnknown, ServerDown, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import RESILIENT, Connections, until
from tests.faults.commits import TABLE, insert, rows
from tests.faults.proxy import Proxy


@pytest.mark.parametrize("using", ["function", "decorator"])
def test_a_transaction_lost_in_the_middle_runs_again(
    using: str,
    make_connection: Connections,
    server: Server,
    table: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    connection = make_connection(RESILIENT)
    runs: list[int] = []

    def work() -> str:
        runs.append(1)
        insert(connection, "a")
        if len(runs) == 1:
            kill(connection)
        insert(connection, "b")
        return "done"

    if using == "function":
        assert retry_atomic.run(work, using=connection.alias) == "done"
    else:
        assert retry_atomic(using=connection.alias)(work)() == "done"
    assert len(runs) == 2
    assert rows(server) == ["a", "b"]


def test_conflicts_run_again(make_connection: Connections, server: Server, table: None) -> None:
    """SQLSTATE 40001: the server says itself that the transaction may be run again."""
    connection = make_connection(RESILIENT)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(connection, "a")
        if len(runs) < 3:
            with connection.cursor() as cursor:
                cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'c' USING ERRCODE = '40001'; END $$")

    retry_atomic.run(work, using=connection.alias)
    assert (len(runs), rows(server)) == (3, ["a"])
    runs.clear()
    with pytest.raises(Error):
        retry_atomic.run(work, using=connection.alias, conflicts=False)
    assert (len(runs), rows(server)) == (1, ["a"])


def test_it_gives_up_after_its_retries_with_the_last_error(
    make_connection: Connections,
    server: Server,
    table: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    connection = make_connection(RESILIENT)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(connection, "a")
        kill(connection)
        insert(connection, "b")

    with pytest.raises(Error):
        retry_atomic.run(work, using=connection.alias, retries=2)
    assert len(runs) == 3
    assert rows(server) == []


def test_it_refuses_to_nest(make_connection: Connections) -> None:
    connection = make_connection(RESILIENT)
    with transaction.atomic(using=connection.alias), pytest.raises(RuntimeError, match="outermost"):
        retry_atomic.run(lambda: None, using=connection.alias)


LOCAL = [
    "SET LOCAL app.tenant = '7'",
    "SELECT set_config('app.tenant', '7', true)",
    "SELECT pg_catalog.set_config('app.tenant', '7', true)",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
]


@contextmanager
def reading(connection: BaseDatabaseWrapper, first: str) -> Iterator[None]:
    """In a transaction that only reads, and whose hook runs."""
    hooks: list[int] = []
    with transaction.atomic(using=connection.alias):
        transaction.on_commit(lambda: hooks.append(1), using=connection.alias)
        with connection.cursor() as cursor:
            cursor.execute(first)
            cursor.execute("SELECT 1")
        yield
    assert hooks == [1]


@pytest.mark.parametrize("first", ["SELECT count(*) FROM pg_class", *LOCAL])
@pytest.mark.parametrize("given", [{}, {"commit_outcome": True}])
def test_a_transaction_that_only_read_is_not_reported_as_unknown(
    first: str, given: dict[str, Any], make_connection: Connections, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port, **given)
    with reading(connection, first):
        proxy.cut_at(2 if given else 1, "before")  # the id is asked for before
    assert sum(connection.resilience.stats.lost.values()) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", ["SELECT count(*) FROM pg_class", *LOCAL])
def test_a_transaction_that_only_read_has_nothing_to_lose(
    first: str, make_connection: Connections, kill: Callable[[BaseDatabaseWrapper], int]
) -> None:
    connection = make_connection(RESILIENT)
    with reading(connection, first):
        kill(connection)


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_only_read_by_its_text_is_lost_where_nobody_can_be_asked(
    by_hand: bool, own_server: Server, own_connections: Connections
) -> None:
    """Only the catalogues know whether what it named writes by itself."""
    connection = own_connections(RESILIENT, retry_deadline=0.5)
    hooks: list[int] = []

    def work() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not by_hand:
            transaction.on_commit(lambda: hooks.append(1), using=connection.alias)
        own_server.stop()

    with pytest.raises(TransactionLost):
        if by_hand:
            connection.set_autocommit(False)
            work()
            connection.commit()
        else:
            with transaction.atomic(using=connection.alias):
                work()
    connection.close()
    own_server.start()
    until(lambda: answers(connection), "no answer")  # whoever comes before the next attempt is due
    assert hooks == []


def answers(connection: BaseDatabaseWrapper) -> bool:
    """Whether the server is known to be back."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except ServerDown:
        return False
    return True


@pytest.mark.parametrize(
    "text", ["NOTIFY news, 'x'", "SELECT pg_notify('news', 'x')", "SELECT wake()"]
)
def test_a_notification_alone_is_not_taken_for_sent(
    make_connection: Connections, server: Server, proxy: Proxy, text: str
) -> None:
    """It has no transaction id until COMMIT has begun, and so nobody can tell."""
    wake = "LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('news', 'x'); END $$"
    server.execute(f"CREATE OR REPLACE FUNCTION wake() RETURNS void {wake}", database="app")
    connection = make_connection(RESILIENT, PORT=proxy.port)

    def work() -> None:
        with connection.cursor() as cursor:
            cursor.execute(text)
        proxy.cut_at(2, "before")  # 1 asks for the transaction's id, 2 is COMMIT

    with pytest.raises(CommitOutcomeUnknown):
        retry_atomic.run(work, using=connection.alias)


@pytest.mark.parametrize(
    "text",
    [
        f"SELECT lower(value) FROM {TABLE}",
        "SET LOCAL work_mem = '8MB'",
    ],
)
def test_what_had_no_effect_succeeds_whatever_became_of_its_commit(
    make_connection: Connections, table: None, proxy: Proxy, text: str
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port)

    def work() -> None:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute(text)
        # What has run something asks for the transaction's id before COMMIT.
        proxy.cut_at(2 if text.startswith("SELECT") else 1, "before")

    retry_atomic.run(work, using=connection.alias)
    assert sum(connection.resilience.stats.lost.values()) == 1  # type: ignore[attr-defined]


def test_a_swallowed_loss_runs_again_as_well(
    make_connection: Connections,
    server: Server,
    table: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    connection = make_connection(RESILIENT)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(connection, "a")
        if len(runs) == 1:
            kill(connection)
            try:
                insert(connection, "b")
            except Error:
                return
        insert(connection, "b")

    retry_atomic.run(work, using=connection.alias)
    assert (len(runs), rows(server)) == (2, ["a", "b"])


def test_without_retry_the_loss_of_a_writing_transaction_is_certain(
    make_connection: Connections,
    server: Server,
    table: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    connection = make_connection(RESILIENT)
    with pytest.raises(TransactionLost), transaction.atomic(using=connection.alias):
        insert(connection, "a")
        kill(connection)
    assert rows(server) == []
