"""What a session holds that no other can be given: its loss is raised, and names it."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest
from django.db import Error, OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.errors import SessionLost
from testproject.postgres import Server
from tests.engines import Connections, backend_pid
from tests.server.state.tenants import DATABASE, Run, runner

pytestmark = pytest.mark.once_per_driver


# -- raised ----------------------------------------------------------------------------------------


PINS = [
    ("CREATE TEMP TABLE basket (x int)", "CREATE TEMP TABLE"),
    ("SELECT pg_advisory_lock(42)", "pg_advisory_lock"),
    ("LISTEN news", "LISTEN news"),
    ("PREPARE one AS SELECT 1", "PREPARE one"),
    ("DECLARE held CURSOR WITH HOLD FOR SELECT 1", "DECLARE held"),
    ("SELECT set_config('app.tenant', tenant, false) FROM public.secret", "set_config"),
    ("SELECT 1; SET app.tenant = '1'", "SET app.tenant"),
    ("DO $$ BEGIN PERFORM set_config('app.tenant', '1', false); END $$", "set_config"),
]


@pytest.mark.parametrize(("sql", "named"), PINS)
def test_what_cannot_be_made_again_is_raised_and_named(
    sql: str, named: str, run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    run("SET search_path TO t2, public")
    run(sql)
    kill_session()
    for _ in range(2):
        with pytest.raises(SessionLost, match=named):
            run("SELECT 1")
    connection.close()
    assert run("SELECT tenant FROM thing") == [("public",)], "clean"


LET_GO = [
    ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(%s)", [7]),
    ("SELECT pg_try_advisory_lock(7)", "SELECT pg_advisory_unlock_all()", None),
    ("LISTEN news", "UNLISTEN *", None),
    ("CREATE TEMP TABLE basket (x int)", "DISCARD ALL", None),
]


@pytest.mark.parametrize(("taken", "sql", "params"), LET_GO)
def test_what_was_let_go_of_does_not_pin(
    taken: str, sql: str, params: Any, run: Run, kill_session: Any
) -> None:
    for _ in range(2):
        run(taken)
        run(sql, params)
        kill_session()
        assert run("SELECT 5") == [(5,)]


def test_a_named_cursor_lets_go_of_nothing_before_its_rows_are_fetched(
    run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    run("SELECT pg_advisory_lock(7)")
    with transaction.atomic(using=connection.alias), connection.chunked_cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all()")
    assert run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(1,)]
    kill_session()
    with pytest.raises(SessionLost, match="pg_advisory_lock"):
        run("SELECT 5")


def test_what_ends_with_its_transaction_or_takes_something_away_leaves_nothing(
    run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        for sql in ["DECLARE c CURSOR FOR SELECT 1", "FETCH ALL FROM c", "CLOSE c"]:
            run(sql)
    for sql in ["CLOSE ALL", "UNLISTEN *", "DEALLOCATE ALL"]:
        run(sql)
    kill_session()
    assert run("SELECT 5") == [(5,)]


def test_it_stays_raised_after_a_lost_transaction(
    run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    run("CREATE TEMP TABLE thing (tenant text)")
    with pytest.raises(OperationalError), transaction.atomic(using=connection.alias):
        run("INSERT INTO thing VALUES ('mine')")
        kill_session()
        run("SELECT tenant FROM thing")
    with pytest.raises(SessionLost, match="CREATE TEMP TABLE"):
        run("SELECT tenant FROM thing")


def test_a_transaction_begun_by_hand_pins(run: Run, kill_session: Any) -> None:
    for sql in ["BEGIN", "SET app.tenant = '2'", "ROLLBACK"]:
        run(sql)
    kill_session()
    with pytest.raises(SessionLost, match=r"SET app\.tenant"):
        run("SELECT 1")


def test_without_replay_a_setting_pins(
    tenants: str, make_connection: Connections, server: Server
) -> None:
    connection = make_connection(database=tenants, replay_session=False)
    run = runner(connection)
    run("SET app.tenant = '2'")
    server.terminate(backend_pid(connection))
    with pytest.raises(SessionLost, match=r"SET app\.tenant"):
        run("SELECT 1")


def test_a_commit_of_unknown_outcome_pins(
    run: Run, connection: BaseDatabaseWrapper, server: Server
) -> None:
    run("CREATE TABLE IF NOT EXISTS t1.late (x int)")
    run(
        "CREATE OR REPLACE FUNCTION t1.slow() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END'"
    )
    run(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t1.late DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION t1.slow()"
    )
    try:
        with pytest.raises(Error), transaction.atomic(using=connection.alias):
            run("SET app.tenant = '2'")
            run("INSERT INTO t1.late VALUES (1)")
            pid = backend_pid(connection)
            threading.Timer(0.3, server.terminate, [pid]).start()
        with pytest.raises(SessionLost, match="whose COMMIT was lost"):
            run("SELECT 1")
    finally:
        server.execute("DROP TABLE t1.late", database=DATABASE)


# -- temporary tables ------------------------------------------------------------------------------


TEMP_PATHS: list[tuple[str, Any]] = [
    ("SET search_path TO pg_temp, public", None),
    ("set search_path = PG_TEMP, public", None),
    ("SET SCHEMA 'pg_temp'", None),
    ("SELECT set_config('search_path', 'pg_temp, public', false)", None),
    ("SELECT set_config('search_path', %s, false)", ["pg_temp, public"]),
]


@pytest.mark.parametrize(("sql", "params"), TEMP_PATHS)
def test_a_path_that_begins_with_temporary_tables_pins(
    sql: str, params: Any, run: Run, kill_session: Any
) -> None:
    run(sql, params)
    run("CREATE TABLE thing AS SELECT 'own' AS tenant")
    assert run("SELECT * FROM thing") == [("own",)]
    kill_session()
    with pytest.raises(SessionLost, match="pg_temp"):
        run("SELECT * FROM thing")


def test_a_path_of_one_transaction_leaves_its_tables(
    run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        run("SET LOCAL search_path TO pg_temp, public")
        run("CREATE TABLE own ()")
    kill_session()
    with pytest.raises(SessionLost, match="pg_temp"):
        run("SELECT * FROM own")


TEMPORARY = ["CREATE TEMP TABLE own ()", "SELECT 1 INTO TEMP own"]


@pytest.mark.parametrize("sql", TEMPORARY)
@pytest.mark.parametrize("how", ["rolled back", "to a savepoint", "failed"])
def test_a_temporary_table_that_was_taken_back_does_not_pin(
    sql: str, how: str, run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        run("SELECT 1")
        with suppress(KeyError, Error), transaction.atomic(using=connection.alias):
            run(sql)
            if how == "failed":
                run("SELECT 1/0")
            elif how == "to a savepoint":
                raise KeyError
        if how == "rolled back":
            transaction.set_rollback(True, using=connection.alias)
    kill_session()
    assert run("SELECT 5") == [(5,)]


@pytest.mark.parametrize("sql", TEMPORARY)
def test_a_temporary_table_that_was_committed_pins(
    sql: str, run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        run(sql)
    kill_session()
    with pytest.raises(SessionLost, match="TEMP"):
        run("SELECT 5")


def test_a_temporary_table_dropped_on_commit_does_not_pin(
    run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        run("CREATE TEMP TABLE own (x int)\nON  COMMIT DROP")
        run("INSERT INTO own VALUES (1)")
    kill_session()
    assert run("SELECT 5") == [(5,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pg_advisory_lock(7)",
        "CREATE TEMP TABLE own AS SELECT pg_try_advisory_lock(7)",
        "CREATE TEMP TABLE own (); SELECT pg_advisory_lock(7)",
        "CREATE TEMP TABLE own ON COMMIT DROP AS SELECT pg_try_advisory_lock(7)",
    ],
)
def test_a_lock_survives_a_rollback_and_pins(
    sql: str, run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        run(sql)
        transaction.set_rollback(True, using=connection.alias)
    assert run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(1,)]
    kill_session()
    with pytest.raises(SessionLost):
        run("SELECT 5")
