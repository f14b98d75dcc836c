"""Transactions beyond plain statements: the driver's own means, hooks, text and copy."""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import Error, transaction

from django_resilient_pg import signals
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT, Connections, backend_pid, copy_in
from tests.server.scenarios import TABLE, Stage
from tests.server.state.losing import Stages

pytestmark = pytest.mark.once_per_driver
ANY_ERROR = Exception


def known_lost(stage: Stage) -> None:
    """End the session and let the driver find out without an error."""
    stage.kill()
    assert not stage.connection.is_usable()


@pytest.mark.parametrize("composed", [False, True])
def test_composed_several_statements_first_in_atomic(composed: bool, stage_of: Stages) -> None:
    sql: Any = importlib.import_module(f"{DRIVER}.sql")
    stage = stage_of()
    text: Any = f"INSERT INTO {TABLE} (value) SELECT current_user; COMMIT; SELECT pg_sleep(1)"
    if composed:
        text = sql.SQL(
            "INSERT INTO {} (value) SELECT current_user; COMMIT; SELECT pg_sleep(1)"
        ).format(sql.Identifier(TABLE))
    with contextlib.suppress(Error), stage.killed_midway(), stage.atomic():
        stage.run(text)
    assert len(stage.rows()) == 1, stage.rows()


def test_hooks_of_a_lost_transaction_do_not_run(stage_of: Stages) -> None:
    stage = stage_of()
    connection, ran = stage.connection, []
    connection.set_autocommit(False)
    with pytest.raises(Error):
        try:
            with stage.atomic():
                stage.insert("a")
                connection.on_commit(lambda: ran.append("a"))
            connection.commit()
            with stage.atomic():
                stage.insert("b")
                connection.on_commit(lambda: ran.append("b"))
                stage.kill()
                stage.insert("c")
            connection.commit()
        finally:
            connection.set_autocommit(True)
    assert stage.rows() == ["a"]
    assert "b" not in ran


def test_hooks_of_a_transaction_lost_after_a_rollback_do_not_run(stage_of: Stages) -> None:
    stage = stage_of()
    connection, ran = stage.connection, list[str]()
    connection.set_autocommit(False)
    for value in ("a", "b"):
        with stage.atomic():
            stage.insert(value)
            connection.on_commit(partial(ran.append, value))
        if value == "a":
            connection.commit()
            connection.rollback()  # Django forgets its hooks
    known_lost(stage)
    connection.set_autocommit(True)
    assert (stage.rows(), ran) == (["a"], [])


def test_a_write_under_the_drivers_autocommit_is_not_first_in_a_transaction(
    stage_of: Stages,
) -> None:
    stage = stage_of()
    with contextlib.suppress(Error), stage.killed_midway(), stage.atomic():
        stage.connection.connection.autocommit = True
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)")
        pytest.fail("was run again")


def test_the_drivers_autocommit_is_kept(stage_of: Stages) -> None:
    stage = stage_of()
    raw = stage.connection.connection
    raw.autocommit = False
    stage.kill()
    with contextlib.suppress(Error):
        stage.run("SELECT 1")
        stage.insert("x")
        stage.connection.connection.rollback()
    assert stage.rows() == []


@pytest.mark.parametrize("name", ["copy", "copy_expert"])
def test_asking_for_copy_touches_nothing(name: str, stage_of: Stages) -> None:
    stage = stage_of()
    with stage.atomic(), stage.connection.cursor() as cursor:
        hasattr(cursor, name)
        with stage.killed_midway():
            cursor.execute(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)")
    assert stage.rows() == ["x"]


def test_executemany_of_nothing_leaves_a_transaction_untouched(stage_of: Stages) -> None:
    stage = stage_of()
    with stage.killed_midway(), stage.atomic(), stage.connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {TABLE} (value) VALUES (%s)", [])
        cursor.execute(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)")
    assert stage.rows() == ["x"]


def test_executemany_of_nothing_does_not_split(stage_of: Stages, server: Server) -> None:
    stage = stage_of()
    attempts = []

    def work() -> None:
        attempts.append(1)
        with stage.connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {TABLE} (value) VALUES (%s)", [])
            cursor.execute(f"INSERT INTO {TABLE} (value) VALUES ('x')")
            if len(attempts) == 1:
                stage.kill()
            cursor.execute(f"INSERT INTO {TABLE} (value) VALUES ('y')")

    retry_atomic.run(work, using=stage.connection.alias)
    assert stage.rows() == ["x", "y"]


def test_a_ping_does_not_begin_a_transaction(stage_of: Stages) -> None:
    stage = stage_of(ping_after=0.05)
    with stage.killed_midway(), stage.atomic():
        time.sleep(0.3)
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)")
    assert stage.rows() == ["x"]


def test_after_a_copy_lost_in_a_transaction_by_hand_nothing_runs_outside_of_it(
    stage_of: Stages,
) -> None:
    stage = stage_of()
    with stage.connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"INSERT INTO {TABLE} (value) VALUES ('a')")
        stage.kill()
        with pytest.raises(ANY_ERROR):
            copy_in(cursor, f"COPY {TABLE} (value) FROM STDIN", "c\n")
        with contextlib.suppress(Error):
            cursor.execute(f"INSERT INTO {TABLE} (value) VALUES ('b')")
    assert stage.rows() == []


def test_what_the_driver_has_committed_is_not_done_again(
    stage_of: Stages,
) -> None:
    stage, other = stage_of(), stage_of()
    calls = []

    def work() -> None:
        calls.append(1)
        with other.atomic():
            other.insert("a")
            other.connection.connection.commit()
            with stage.killed_midway() if len(calls) == 1 else contextlib.nullcontext():
                stage.run("SELECT 1")
                stage.run("SELECT pg_sleep(1)" if len(calls) == 1 else "SELECT 2")

    with contextlib.suppress(Error):
        retry_atomic.run(work, using=stage.connection.alias)
    assert len(stage.rows()) == 1


def test_committed_by_the_driver_then_lost_in_copy(stage_of: Stages) -> None:
    stage = stage_of()
    calls = []

    def work() -> None:
        calls.append(1)
        stage.insert("a")
        stage.connection.connection.commit()
        if len(calls) == 1:
            known_lost(stage)
        stage.run("SELECT 2")

    with contextlib.suppress(Error):
        retry_atomic.run(work, using=stage.connection.alias)
    assert stage.rows() == ["a"]


@pytest.mark.psycopg3
@pytest.mark.parametrize("second", ["SELECT 1", f"INSERT INTO {TABLE} (value) VALUES ('b')"])
def test_pipeline(second: str, stage_of: Stages) -> None:
    stage = stage_of()
    failed = None
    try:
        with stage.connection.connection.pipeline(), stage.connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {TABLE} (value) VALUES ('a')")
            stage.kill()
            cursor.execute(second)
    except Exception as error:
        failed = error
    assert failed is not None or "a" in stage.rows()
    if "INSERT" in second and failed is not None:
        assert "b" not in stage.rows()
    assert stage.run("SELECT 5") == [(5,)]


@pytest.mark.parametrize("during", [False, True])
def test_a_second_commit_does_not_succeed(during: bool, stage_of: Stages) -> None:
    stage = stage_of()
    connection: Any = stage.connection
    connection.set_autocommit(False)
    try:
        stage.insert("a")
        stage.kill()
        if during:
            connection._link.peek = lambda _: ()
        with pytest.raises(Error):
            connection.commit()
        with pytest.raises(Error):
            connection.commit()
    finally:
        connection.rollback()
        connection.set_autocommit(True)


def test_clean_savepoints(stage_of: Stages) -> None:
    stage = stage_of()
    connection: Any = stage.connection
    with stage.killed_midway(), stage.atomic():
        one = connection.savepoint()
        two = connection.savepoint()
        connection.clean_savepoints()
        again = connection.savepoint()
        assert again == one
        connection.savepoint_rollback(again)
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)")
        connection.savepoint_commit(two)
    assert stage.rows() == ["x"]


def test_a_failed_transaction_by_hand(stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    stage.insert("a")
    with pytest.raises(Error):
        stage.run("SELECT 1/0")
    stage.kill()
    with contextlib.suppress(Error):
        stage.run("SELECT 1")
    with contextlib.suppress(Error):
        stage.insert("b")
    assert stage.rows() == []


def test_a_connection_without_a_database(stage_of: Stages) -> None:
    stage = stage_of()

    def work() -> None:
        with stage.connection._nodb_cursor() as cursor:
            cursor.execute("SELECT 1")
        stage.run("SELECT 1")
        with stage.killed_midway():
            stage.run("SELECT pg_sleep(1)")

    with pytest.raises(Error):
        retry_atomic.run(work, using=stage.connection.alias, retries=1)


def test_doubled(own_server: Server, own_connections: Connections) -> None:
    """A session ended while it waits for a standby has committed."""
    own_server.create_database("doubled")
    own_server.execute("CREATE TABLE t (x text)", database="doubled")
    own_server.execute("GRANT ALL ON t TO app", database="doubled")
    connection = own_connections(RESILIENT, database="doubled", CONN_MAX_AGE=None)
    connection.ensure_connection()
    own_server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    own_server.execute("SELECT pg_reload_conf()")
    time.sleep(0.3)
    pid = backend_pid(connection)

    def watch() -> None:
        for _ in range(500):
            if own_server.execute(
                f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'"
            ):
                own_server.execute(f"SELECT pg_terminate_backend({pid})")
                break
            time.sleep(0.01)
        time.sleep(0.5)
        own_server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        own_server.execute("SELECT pg_reload_conf()")

    thread = threading.Thread(target=watch)
    thread.start()
    with contextlib.suppress(Error), transaction.atomic(using=connection.alias):
        connection.connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO t VALUES ('x')")
    thread.join()
    assert own_server.execute("SELECT x FROM t", database="doubled") == [("x",)]


@pytest.mark.psycopg2
def test_a_parameter_that_is_text(stage_of: Stages) -> None:
    extensions: Any = importlib.import_module("psycopg2.extensions")
    stage = stage_of()
    with contextlib.suppress(Error), stage.killed_midway(), stage.atomic():
        stage.run(
            f"INSERT INTO {TABLE} (value) SELECT %s",
            [extensions.AsIs("current_user; COMMIT; SELECT pg_sleep(1)")],
        )
    assert len(stage.rows()) == 1


def test_a_lost_transaction_that_was_left_says_nothing_of_the_next(stage_of: Stages) -> None:
    stage = stage_of()
    connection = stage.connection
    connection.set_autocommit(False)
    stage.insert("a")
    connection.connection.commit()
    stage.insert("b")
    known_lost(stage)
    connection.set_autocommit(True)
    connection.set_autocommit(False)
    with stage.killed_midway():
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)")
    connection.commit()
    connection.set_autocommit(True)
    assert stage.rows() == ["a", "x"]


def lost_while_idle(stage: Stage) -> None:
    stage.kill()
    stage.insert("own")


def lost_in_a_read(stage: Stage) -> None:
    with stage.killed_midway():
        stage.run("SELECT 1, pg_sleep(1)")


def lost_before_a_first_statement(stage: Stage) -> None:
    with stage.atomic():
        stage.kill()
        stage.insert("own")


def lost_before_a_later_statement(stage: Stage) -> None:
    with pytest.raises(Error), stage.atomic():
        stage.insert("own")
        stage.kill()
        stage.insert("own")


def lost_before_commit(stage: Stage) -> None:
    with stage.atomic():
        stage.kill()


@pytest.mark.parametrize(
    ("lose", "rows"),
    [
        (lost_while_idle, ["log", "own"]),
        (lost_in_a_read, ["log"]),
        (lost_before_a_first_statement, ["own", "log"]),
        (lost_before_a_later_statement, ["log"]),
        (lost_before_commit, ["log"]),
    ],
)
def test_a_receiver_of_connection_lost_that_writes_on_the_same_alias(
    lose: Callable[[Stage], None], rows: list[str], stage_of: Stages
) -> None:
    """A loss is told once, and only when the transaction is over."""
    stage = stage_of()
    connection: Any = stage.connection
    told: list[str] = []

    def log(connection: Any, record: Any, **_: Any) -> None:
        if connection is stage.connection:
            told.append(record.reason.name)
            stage.insert("log")

    signals.connection_lost.connect(log)
    try:
        lose(stage)
    finally:
        signals.connection_lost.disconnect(log)
    assert len(told) == 1
    assert connection.resilience.stats.lost == {told[0]: 1}
    assert stage.rows() == rows
    assert stage.run("SELECT 5") == [(5,)]
