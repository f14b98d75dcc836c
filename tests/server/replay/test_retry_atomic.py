"""What ``retry_atomic`` and ``atomic()`` must not do again, and must not lose silently."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import Error, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_resilient_pg.errors import CommitOutcomeUnknown, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import RESILIENT, Connections, backend_pid, run
from tests.server.replay.once import TABLE, Kill, insert, lose, lose_now, post, rows

pytestmark = pytest.mark.usefixtures("table")


def insert_raw(connection: BaseDatabaseWrapper, value: str) -> None:
    """Past Django's cursors."""
    connection.connection.cursor().execute(f"INSERT INTO {TABLE} VALUES ('{value}')")


# -- while connecting ------------------------------------------------------------------------------


def test_what_a_receiver_commits_on_a_new_connection_is_not_the_functions(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[int] = []

    def set_up(connection: BaseDatabaseWrapper, **_: object) -> None:
        with transaction.atomic(using=connection.alias):
            run(connection, "SET app.tenant = '7'")

    def work() -> None:
        runs.append(1)
        insert(db, "a")
        if len(runs) == 1:
            kill(db)
        insert(db, "b")

    connection_created.connect(set_up)
    try:
        retry_atomic.run(work, using=db.alias)
    finally:
        connection_created.disconnect(set_up)
    assert rows(server) == ["a", "b"]
    assert len(runs) == 2


# -- transactions ended as text --------------------------------------------------------------------


ENDS = {
    "commit": ["COMMIT"],
    "end": ["/* by hand */ END"],
    "chain": ["COMMIT AND CHAIN"],
    "several": ["COMMIT; BEGIN"],
    "prepare": ["PREPARE TRANSACTION 'by hand'"],
}


@pytest.fixture(params=[pytest.param(sql, id=name) for name, sql in ENDS.items()])
def ends(request: pytest.FixtureRequest) -> list[str]:
    sql: list[str] = request.param
    return sql


@pytest.fixture(scope="module")
def two_phase_server() -> Iterator[Server]:
    """A server that allows PREPARE TRANSACTION, with the table."""
    with Server(settings={"max_prepared_transactions": "5"}) as running:
        running.execute(f"CREATE TABLE {TABLE} (value text)", database="app")
        running.execute(f"GRANT ALL ON {TABLE} TO app", database="app")
        yield running


@pytest.fixture
def two_phases(two_phase_server: Server) -> Iterator[BaseDatabaseWrapper]:
    """A connection to that server."""
    made = Connections(two_phase_server)
    yield made(RESILIENT, alias="first", CONN_MAX_AGE=60)
    made.close()


@pytest.mark.parametrize("via", ["retry_atomic", "request"])
def test_what_was_committed_as_text_is_not_done_twice(
    via: str, ends: list[str], two_phases: BaseDatabaseWrapper, two_phase_server: Server
) -> None:
    db, runs = two_phases, []

    def work() -> None:
        runs.append(1)
        insert(db, "x")
        for sql in ends:
            run(db, sql)
        if two_phase_server.execute("SELECT 1 FROM pg_prepared_xacts"):
            two_phase_server.execute("COMMIT PREPARED 'by hand'", database="app")
        run(db, "SELECT 1")
        if len(runs) == 1:
            two_phase_server.terminate(backend_pid(db))
            run(db, "SELECT 1")
            insert(db, "y")
            two_phase_server.terminate(backend_pid(db))
            run(db, "SELECT 1")

    # More than once: what is known of a text is remembered.
    for _ in range(2):
        runs.clear()
        two_phase_server.execute(f"TRUNCATE {TABLE}", database="app")
        if via == "request":

            def do() -> None:
                with transaction.atomic(using=db.alias):
                    work()

            assert post(do) == 500
        else:
            with pytest.raises(Error) as caught:
                retry_atomic.run(work, using=db.alias)
            assert not getattr(caught.value, "transaction_lost", False)
        assert len(runs) == 1
        assert rows(two_phase_server).count("x") == 1
        assert rows(two_phase_server).count("y") <= 1
        db.close()


# -- statements past Django's cursors --------------------------------------------------------------


def test_a_raw_statement_before_the_first_one_is_not_lost_silently(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    with pytest.raises(Error), transaction.atomic(using=db.alias):
        db.ensure_connection()
        insert_raw(db, "raw")
        kill(db)
        insert(db, "second")
    assert rows(server) == []


def test_a_transaction_of_nothing_but_raw_statements_is_not_lost_silently(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    hooks: list[int] = []
    with pytest.raises(TransactionLost), transaction.atomic(using=db.alias):
        db.ensure_connection()
        insert_raw(db, "raw")
        transaction.on_commit(lambda: hooks.append(1), using=db.alias)
        kill(db)
    assert (rows(server), hooks) == ([], [])


def test_a_nested_block_in_which_nothing_ran_is_no_raw_statement(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    """It has opened the transaction, and left it untouched."""
    with transaction.atomic(using=db.alias):
        with transaction.atomic(using=db.alias):
            pass
        kill(db)
        insert(db, "first")
    assert rows(server) == ["first"]


def test_a_raw_commit_counts_in_a_unit_of_work(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    def do() -> None:
        with transaction.atomic(using=db.alias):
            db.ensure_connection()
            insert_raw(db, "raw")
        lose(db, kill)

    assert post(do) == 500
    assert rows(server) == ["raw"]


# -- autocommit off --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["set_autocommit", "settings"])
def test_it_refuses_while_autocommit_is_off(
    how: str, make_connection: Connections, server: Server
) -> None:
    if how == "settings":
        db = make_connection(RESILIENT, AUTOCOMMIT=False)
    else:
        db = make_connection(RESILIENT)
        transaction.set_autocommit(False, using=db.alias)
    with pytest.raises(RuntimeError, match="while autocommit is off"):
        retry_atomic.run(lambda: insert(db, "x"), using=db.alias)
    assert not db.in_atomic_block
    assert rows(server) == []


# -- transactions of others, and of the driver -----------------------------------------------------


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_the_driver_itself_has_committed_is_not_done_again(
    db: BaseDatabaseWrapper, server: Server, kill: Kill, goes_on: bool
) -> None:
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        insert(db, "committed by the driver")
        db.connection.commit()
        run(db, "SELECT 1")
        if goes_on:
            run(db, f"SELECT value FROM {TABLE}")
        if len(runs) == 1:
            lose_now(db, kill)

    with pytest.raises(Error):
        retry_atomic.run(work, using=db.alias)
    assert (rows(server), runs) == (["committed by the driver"], ["work"])


@pytest.mark.psycopg3
def test_what_the_drivers_own_transaction_has_committed_is_not_done_again(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        with db.connection.transaction():
            insert(db, "committed by the driver")
        run(db, "SELECT 1")
        if len(runs) == 1:
            lose_now(db, kill)

    with pytest.raises(Error):
        retry_atomic.run(work, using=db.alias)
    assert (rows(server), runs) == (["committed by the driver"], ["work"])


def test_a_first_statement_that_the_driver_refuses_leaves_the_transaction_as_it_was(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        with db.cursor() as cursor, pytest.raises((Error, TypeError, IndexError)):
            cursor.execute("SELECT %s, %s", [1])
        with transaction.atomic(using=db.alias):
            insert(db, "once")
        if len(runs) == 1:
            lose_now(db, kill)

    retry_atomic.run(work, using=db.alias)
    assert (rows(server), runs) == (["once"], ["work", "work"])


def test_an_error_that_was_there_before_is_none_of_its_own(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    """As in an except block that makes good for a loss."""
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        raise ValueError

    try:
        lose(db, kill)
    except Error:
        with pytest.raises(ValueError):  # noqa: PT011
            retry_atomic.run(work, using=db.alias)
    assert runs == ["work"]


@pytest.mark.parametrize("inside", [True, False])
def test_an_unknown_outcome_that_was_there_before_forbids_nothing(
    inside: bool, db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    def work() -> None:
        insert(db, "redone")
        if not gone:
            gone.append(kill(db))
            insert(db, "never")

    gone: list[int] = []
    try:
        raise CommitOutcomeUnknown("unknown", alias=db.alias)
    except CommitOutcomeUnknown:
        if inside:
            retry_atomic.run(work, using=db.alias)
    if not inside:
        retry_atomic.run(work, using=db.alias)
    assert (rows(server), len(gone)) == (["redone"], 1)
