"""What ``retry_atomic`` meets on other aliases: what took effect there is not done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import STOCK, Connections, run
from tests.server.replay.once import ALIASES, TABLE, Kill, insert, lose, lose_now, rows

pytestmark = pytest.mark.usefixtures("table")


# -- other aliases ---------------------------------------------------------------------------------


def write(other: BaseDatabaseWrapper) -> None:
    insert(other, "elsewhere")


def write_in_transaction(other: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=other.alias):
        insert(other, "elsewhere")


def write_with_retry(other: BaseDatabaseWrapper) -> None:
    retry_atomic.run(lambda: insert(other, "elsewhere"), using=other.alias)


def write_in_hook(other: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=other.alias):
        transaction.on_commit(lambda: insert(other, "elsewhere"), using=other.alias)


def write_in_a_function(other: BaseDatabaseWrapper) -> None:
    run(other, "SELECT insert_once('elsewhere')")


@pytest.fixture
def function(server: Server) -> Iterator[None]:
    server.execute(
        "CREATE FUNCTION insert_once(text) RETURNS void LANGUAGE sql"
        f" AS $$ INSERT INTO {TABLE} VALUES ($1) $$",
        database="app",
    )
    yield
    server.execute("DROP FUNCTION insert_once", database="app")


@pytest.mark.parametrize(
    "effect",
    [write, write_in_transaction, write_with_retry, write_in_hook, write_in_a_function],
)
@pytest.mark.parametrize("lost", ALIASES)
def test_what_took_effect_elsewhere_is_not_done_twice(
    effect: Callable[[BaseDatabaseWrapper], None],
    lost: str,
    function: None,
    db: BaseDatabaseWrapper,
    other: BaseDatabaseWrapper,
    server: Server,
    kill: Kill,
) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(db, "own")
        effect(other)
        if lost == db.alias:
            kill(db)
            run(db, "SELECT 1")
        else:
            lose(other, kill)

    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=db.alias)
    assert (len(runs), rows(server)) == (1, ["elsewhere"])
    assert "The transaction was not retried: " in caught.value.__notes__[-1]


@pytest.mark.parametrize("lost", ALIASES)
def test_reads_elsewhere_do_not_keep_it_from_running_again(
    lost: str, db: BaseDatabaseWrapper, other: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(db, "own")
        run(other, f"SELECT lower(value) FROM {TABLE}")
        if len(runs) == 1:
            lose(connections[lost], kill) if lost != db.alias else kill(db)
        run(db, "SELECT 1")

    retry_atomic.run(work, using=db.alias)
    assert (len(runs), rows(server)) == (2, ["own"])


def test_a_database_of_another_engine_counts_as_written(
    db: BaseDatabaseWrapper, make_connection: Connections, server: Server, kill: Kill
) -> None:
    foreign = make_connection(STOCK, alias="second")

    def work() -> None:
        insert(db, "own")
        insert(foreign, "elsewhere")
        kill(db)
        run(db, "SELECT 1")

    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=db.alias)
    assert rows(server) == ["elsewhere"]
    assert '"second", whose engine does not count' in caught.value.__notes__[-1]


# -- transactions of others, and of the driver -----------------------------------------------------


def test_what_is_written_in_a_transaction_that_is_open_elsewhere_is_not_written_twice(
    db: BaseDatabaseWrapper, other: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        insert(other, "elsewhere")
        insert(db, "here")
        if len(runs) == 1:
            lose_now(db, kill)

    with transaction.atomic(using=other.alias):
        insert(other, "elsewhere")  # the same text before does not hide it
        with pytest.raises(Error) as caught:
            retry_atomic.run(work, using=db.alias)
    assert rows(server) == ["elsewhere", "elsewhere"]
    assert 'the transaction that is open on "second"' in caught.value.__notes__[-1]


def test_what_is_read_in_a_transaction_that_is_open_elsewhere_is_read_again(
    db: BaseDatabaseWrapper, other: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        run(other, f"SELECT value FROM {TABLE}")
        insert(db, "here")
        if len(runs) == 1:
            lose_now(db, kill)

    with transaction.atomic(using=other.alias):
        insert(other, "elsewhere")
        retry_atomic.run(work, using=db.alias)
    assert rows(server) == ["elsewhere", "here"]


def test_both_lost_runs_again(
    db: BaseDatabaseWrapper, other: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    """As at a restart of the server: what was read elsewhere is asked on a new connection."""
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        run(other, f"SELECT lower(value) FROM {TABLE}")
        insert(db, "once")
        if len(runs) == 1:
            kill(other)
            lose_now(db, kill)

    retry_atomic.run(work, using=db.alias)
    assert (rows(server), runs) == (["once"], ["work", "work"])


def test_a_connection_of_another_engine_that_was_only_looked_at_was_not_used(
    db: BaseDatabaseWrapper, make_connection: Connections, server: Server, kill: Kill
) -> None:
    alias = make_connection(STOCK).alias
    del connections[alias]
    runs: list[str] = []

    def work() -> None:
        runs.append(connections[alias].vendor)
        insert(db, "once")
        if len(runs) == 1:
            lose_now(db, kill)

    retry_atomic.run(work, using=db.alias)
    assert (rows(server), len(runs)) == (["once"], 2)


def test_a_hook_registered_in_a_transaction_that_stays_open_runs_once(
    db: BaseDatabaseWrapper, other: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    ran: list[str] = []

    def work() -> None:
        transaction.on_commit(lambda: ran.append("mine"), using=other.alias)
        insert(db, "here")
        lose_now(db, kill)

    with transaction.atomic(using=other.alias):
        run(other, "SELECT 1")
        transaction.on_commit(lambda: ran.append("before"), using=other.alias)
        with pytest.raises(Error) as caught:
            retry_atomic.run(work, using=db.alias)
    assert ran == ["before", "mine"]
    assert "it has registered on_commit hooks" in caught.value.__notes__[-1]
