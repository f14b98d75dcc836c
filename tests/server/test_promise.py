"""The table of the promise (design section 1), under both engines and the same fault."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DataError, Error, OperationalError, connections, transaction

from django_resilient_pg.errors import CommitOutcomeUnknown, SessionLost, TransactionLost
from testproject.postgres import Server
from tests.engines import STOCK, copy_in
from tests.server.scenarios import DATABASE, SURVIVED, TABLE, Stage, differs


@pytest.mark.parametrize("name", SURVIVED)
def test_the_application_does_not_notice(name: str, stage_of: Callable[..., Stage]) -> None:
    scenario, result, rows = SURVIVED[name]
    stage = stage_of()
    assert scenario(stage) == result
    assert stage.rows() == rows
    assert stage.connection.get_autocommit()
    assert stage.run("SELECT 5") == [(5,)], "the connection works afterwards"


@pytest.mark.parametrize("name", SURVIVED)
def test_the_stock_engine_fails_under_the_same_fault(
    name: str, stage_of: Callable[..., Stage]
) -> None:
    """Seen failing: otherwise the test above would prove nothing."""
    assert differs(name, stage_of(STOCK))


# -- what must never be run again ---------------------------------------------------------------

LOST_MIDWAY = [
    f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)",
    "SELECT slow_insert('x')",
    "SELECT nextval('numbers') FROM pg_sleep(1)",
    "SELECT pg_notify('news', 'x') FROM pg_sleep(1)",
    f"WITH i AS (INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1) RETURNING 1)"
    " SELECT * FROM i",
    f"SELECT * FROM pg_sleep(1), {TABLE} FOR UPDATE",
    f"SELECT pg_sleep(1); INSERT INTO {TABLE} (value) VALUES ('x')",
    "CALL slow_procedure()",
    f"DO $$ BEGIN PERFORM pg_sleep(1); INSERT INTO {TABLE} (value) VALUES ('x'); END $$",
    "SELECT pg_sleep(1), no_such_function()",
    "CREATE TABLE made AS SELECT 1 FROM pg_sleep(1)",
]


@pytest.mark.parametrize("sql", LOST_MIDWAY)
def test_what_may_have_taken_effect_is_raised_and_never_run_again(
    sql: str, stage_of: Callable[..., Stage], server: Server
) -> None:
    stage = stage_of()
    if "no_such_function" in sql:
        sql = "SELECT lying_insert('x'), pg_sleep(1), nextval('numbers')"
    before = server.execute("SELECT last_value, is_called FROM numbers", database=DATABASE)
    with pytest.raises(Error) as caught, stage.killed_midway():
        stage.run(sql)
    notes = " ".join(caught.value.__notes__)
    assert "not retried" in notes
    assert f'"{stage.connection.alias}"' in notes
    assert len(stage.rows()) <= 1
    advanced = server.execute("SELECT last_value, is_called FROM numbers", database=DATABASE)
    assert (advanced[0][0] - before[0][0]) <= 1
    assert stage.run("SELECT 5") == [(5,)], "the next statement works"


def test_a_lost_write_says_that_its_outcome_is_unknown(stage_of: Callable[..., Stage]) -> None:
    stage = stage_of()
    with pytest.raises(OperationalError) as caught, stage.killed_midway():
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)")
    assert "may already have been applied" in caught.value.__notes__[0]
    assert len(stage.rows()) <= 1


def test_a_read_whose_function_notifies_is_heard_once_at_most(
    stage_of: Callable[..., Stage],
) -> None:
    """BEGIN READ ONLY lets pg_notify through: only the pg_proc check keeps it from doubling."""
    stage, listener = stage_of(), stage_of(STOCK)
    listener.run("LISTEN news")
    with pytest.raises(Error), stage.killed_midway():
        stage.run("SELECT pg_notify('news', 'x') FROM pg_sleep(1)")
    listener.run("SELECT 1")
    raw = listener.connection.connection
    heard = raw.notifies if isinstance(getattr(raw, "notifies", None), list) else None
    if heard is None:
        heard = list(raw.notifies(timeout=0.2))
    assert len(heard) == 0


# -- transactions -----------------------------------------------------------------------------


def test_a_read_in_a_transaction_that_has_written_is_raised(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    pid = stage.pid()
    with pytest.raises(Error) as caught, stage.atomic():
        stage.insert("a")
        stage.server.terminate(pid)
        stage.run("SELECT 1")
    assert "retry the whole transaction" in caught.value.__notes__[0]
    assert stage.rows() == [], "nothing half-committed"
    assert stage.run("SELECT 5") == [(5,)]


def test_after_a_swallowed_error_nothing_runs_outside_the_transaction(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    pid = stage.pid()
    with pytest.raises(TransactionLost), stage.atomic():
        stage.insert("a")
        stage.server.terminate(pid)
        with pytest.raises(Error):
            stage.insert("b")
        for _ in range(3):
            with pytest.raises(Error):
                stage.insert("c")
    assert stage.rows() == []
    stage.insert("after")
    assert stage.rows() == ["after"]


def test_swallowed_in_an_inner_block_the_outer_one_commits_nothing(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    pid = stage.pid()
    hooks: list[int] = []
    with pytest.raises(TransactionLost), stage.atomic():
        transaction.on_commit(lambda: hooks.append(1), using=stage.connection.alias)
        stage.insert("a")
        with pytest.raises(Error), stage.atomic():
            stage.server.terminate(pid)
            stage.insert("b")
        with pytest.raises(Error):
            stage.insert("c")
    assert stage.rows() == []
    assert hooks == []
    assert stage.run("SELECT 5") == [(5,)]


@pytest.mark.parametrize("go_on", [False, True])
def test_a_failed_transaction_is_not_taken_for_an_untouched_one(
    go_on: bool, stage_of: Callable[..., Stage]
) -> None:
    """Lost during ROLLBACK TO SAVEPOINT: what came before the savepoint is gone as well."""
    stage = stage_of()
    pid = stage.pid()

    def work() -> None:
        with stage.atomic():
            stage.insert("before")
            try:
                with stage.atomic():
                    try:
                        stage.run("SELECT 1 / 0")
                    finally:
                        stage.server.terminate(pid)
            except DataError:
                if go_on:
                    stage.insert("after")

    with pytest.raises(TransactionLost):
        work()
    assert stage.rows() == []
    assert stage.run("SELECT 5") == [(5,)]


def test_a_transaction_lost_before_commit_is_reported_as_lost(
    stage_of: Callable[..., Stage],
) -> None:
    """The socket says so before COMMIT is sent: certain, not "unknown"."""
    stage = stage_of()
    pid = stage.pid()
    with pytest.raises(TransactionLost, match="nothing of it has taken effect"), stage.atomic():
        stage.insert("a")
        stage.server.terminate(pid)
    assert stage.rows() == []
    assert stage.run("SELECT 5") == [(5,)]


def test_a_transaction_lost_during_commit_is_unknown(stage_of: Callable[..., Stage]) -> None:
    stage = stage_of()
    stage.server.execute(
        f"""
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {TABLE}
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
        """,
        database=DATABASE,
    )
    with pytest.raises(CommitOutcomeUnknown), stage.killed_midway(), stage.atomic():
        stage.insert("a")
    assert len(stage.rows()) <= 1
    assert stage.run("SELECT 5") == [(5,)]


def test_an_empty_transaction_has_nothing_to_lose(stage_of: Callable[..., Stage]) -> None:
    stage = stage_of()
    pid = stage.pid()
    hooks: list[int] = []
    with stage.atomic():
        transaction.on_commit(lambda: hooks.append(1), using=stage.connection.alias)
        with stage.atomic():
            pass
        stage.server.terminate(pid)
    assert hooks == [1]
    assert stage.run("SELECT 5") == [(5,)]


def test_a_manual_transaction_stays_manual(stage_of: Callable[..., Stage]) -> None:
    stage = stage_of()
    connection = stage.connection
    connection.set_autocommit(False)
    stage.insert("a")
    stage.server.terminate_all(DATABASE)
    with pytest.raises(Error):
        stage.insert("b")
    with pytest.raises(Error):
        stage.insert("c")
    connection.rollback()
    stage.insert("d")
    assert not connection.get_autocommit()
    assert stage.rows() == []
    connection.commit()
    connection.set_autocommit(True)
    assert stage.rows() == ["d"]


def test_a_generator_of_parameters_is_not_gone_through_twice(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()

    def values() -> Iterator[list[str]]:
        yield ["a"]
        stage.server.terminate_all(DATABASE)
        yield ["b"]

    parameters: Any = values()
    with pytest.raises(Error), stage.atomic(), stage.connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {TABLE} (value) VALUES (%s)", parameters)
    assert stage.rows() == []


def test_a_text_that_the_server_reads_otherwise_is_not_run_again(
    stage_of: Callable[..., Stage],
) -> None:
    """Several statements, because here a backslash escapes a quote."""
    stage = stage_of()
    stage.run("SET standard_conforming_strings = off")
    stage.run("SET escape_string_warning = off")
    sql = f"SELECT pg_sleep(1), '\\' , ' ; COMMIT; INSERT INTO {TABLE} (value) VALUES (1); -- '"
    with pytest.raises(Error), stage.killed_midway():
        stage.run(sql)
    assert stage.rows() == []


# -- session state ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SET search_path TO pg_catalog", "SET search_path"),
        ("SELECT set_config('app.tenant', 'x', false)", "set_config"),
        ("LISTEN news", "LISTEN news"),
        ("CREATE TEMPORARY TABLE mine (x int)", "CREATE TEMPORARY TABLE"),
        ("SELECT pg_advisory_lock(1)", "pg_advisory_lock"),
        ("PREPARE q AS SELECT 1", "PREPARE q"),
    ],
)
@pytest.mark.parametrize("midway", [False, True])
def test_a_connection_with_session_state_is_never_replaced_under_the_application(
    sql: str, named: str, midway: bool, stage_of: Callable[..., Stage]
) -> None:
    stage = stage_of(replay_session=False)  # with it: state/test_session_settings.py
    stage.run(sql)
    if midway:
        with pytest.raises(Error) as caught, stage.killed_midway():
            stage.run("SELECT pg_sleep(1)")
        assert named in caught.value.__notes__[0]
    else:
        stage.kill()
    for _ in range(2):
        with pytest.raises(SessionLost, match=named):
            stage.run("SELECT 1")
    stage.connection.close()
    assert stage.run("SELECT 5") == [(5,)], "clean after Django's own boundary"


def test_djangos_own_boundary_starts_clean(stage_of: Callable[..., Stage]) -> None:
    stage = stage_of()
    stage.run("LISTEN news")
    stage.kill()
    with pytest.raises(SessionLost):
        stage.run("SELECT 1")
    stage.connection.close_if_unusable_or_obsolete()
    assert stage.run("SELECT 5") == [(5,)]


def test_state_that_ends_with_its_transaction_does_not_pin(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    with stage.atomic():
        stage.run("SET LOCAL statement_timeout = '5s'")
        stage.run("SELECT set_config('app.tenant', 'x', true)")
        stage.run("SELECT pg_advisory_xact_lock(1)")
    stage.kill()
    assert stage.run("SELECT 5") == [(5,)]


def test_a_transaction_the_application_began_by_hand_is_not_continued(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    pid = stage.pid()
    stage.run("BEGIN")
    stage.insert("a")
    stage.server.terminate(pid)
    with pytest.raises(Error):
        stage.insert("b")
    with pytest.raises(Error):
        stage.insert("c")
    assert stage.rows() == []


@pytest.mark.parametrize("closed", [True, False])
def test_a_block_ended_by_text_says_nothing_of_the_next(
    closed: bool, stage_of: Callable[..., Stage]
) -> None:
    """Whether it is closed or lost: what comes after is a transaction like any other."""
    stage = stage_of()
    slowly = f"INSERT INTO {TABLE} (value) SELECT %s FROM pg_sleep(1)"
    with contextlib.suppress(OperationalError), stage.atomic():
        stage.run("COMMIT")
        if closed:
            stage.connection.close()
        else:
            with stage.killed_midway():
                stage.run(slowly, ["lost"])
    stage.connection.set_autocommit(False)
    with stage.killed_midway():
        stage.run(slowly, ["a"])
    stage.connection.commit()
    stage.connection.set_autocommit(True)
    assert stage.rows() == ["a"]


# -- cursors ----------------------------------------------------------------------------------


def test_a_server_side_cursor_says_how_many_rows_were_delivered(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    seen = 0
    with pytest.raises(Error) as caught, stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 5000) AS g")
        for _ in iter(lambda: cursor.fetchmany(100), []):
            seen += 100
            if seen == 300:
                stage.server.terminate_all(DATABASE)
    assert seen == 300
    assert "300 rows" in caught.value.__notes__[0]
    assert stage.run("SELECT 5") == [(5,)]


@pytest.mark.parametrize("debug", [False, True])
def test_copy_looks_before_it_sends(debug: bool, stage_of: Callable[..., Stage]) -> None:
    stage = stage_of()
    stage.connection.force_debug_cursor = debug
    with stage.connection.cursor() as cursor:
        stage.kill()
        copy_in(cursor, f"COPY {TABLE} (value) FROM STDIN", "a\n")
    assert stage.rows() == ["a"]


def test_execute_wrappers_and_the_query_log_see_one_statement(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    stage.connection.force_debug_cursor = True
    seen: list[str] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    stage.connection.queries_log.clear()
    with stage.connection.execute_wrapper(wrapper), stage.killed_midway():
        stage.run("SELECT 1, pg_sleep(1)")
    assert [sql for sql in seen if "pg_sleep" in sql] == ["SELECT 1, pg_sleep(1)"]
    logged = [entry["sql"] for entry in stage.connection.queries_log]
    assert len([sql for sql in logged if sql == "SELECT 1, pg_sleep(1)"]) == 1


def test_a_statement_interrupted_by_a_signal_gives_the_connection_up(
    stage_of: Callable[..., Stage],
) -> None:
    """Celery's soft time limit raises in the middle of a query (psycopg 3 then stays busy)."""
    import signal

    class SoftTimeLimit(Exception):
        pass

    def on_alarm(*_: Any) -> None:
        raise SoftTimeLimit

    stage = stage_of()
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(SoftTimeLimit):
            stage.run("SELECT pg_sleep(2)")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stage.run("SELECT 5") == [(5,)]


def test_threads_each_survive(stage_of: Callable[..., Stage], server: Server) -> None:
    stage = stage_of()
    alias = stage.connection.alias
    failures: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                with connections[alias].cursor() as cursor:
                    cursor.execute("SELECT 1")
                time.sleep(0.005)
        except BaseException as error:
            failures.append(error)
        finally:
            connections[alias].close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        time.sleep(0.1)
        server.terminate_all(DATABASE)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
