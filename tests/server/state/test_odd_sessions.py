"""Sessions and cursors beyond plain statements: what the driver was told, and odd cursors."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import pytest
from django.db import Error

from django_resilient_pg.errors import SessionLost
from testproject.postgres import Server
from tests.faults.proxy import Proxy
from tests.server.scenarios import TABLE, TENANT, Stage
from tests.server.state.losing import PG3, Stages

pytestmark = pytest.mark.once_per_driver


def raises_or_has(stage: Stage, tenant: str) -> None:
    """Never another's rows: a session that may not have what this one had is no replacement."""
    try:
        ((found,),) = stage.run(TENANT)
    except SessionLost:
        return
    assert found == tenant


def test_a_scrolled_cursor_is_not_opened_again_at_its_start(stage_of: Stages) -> None:
    stage = stage_of()
    with stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT g FROM generate_series(0, 99) AS g")
        cursor.scroll(50)
        stage.kill()
        try:
            row = cursor.fetchone()
        except Error:
            return
    assert row == (50,)


@pytest.mark.psycopg3
@pytest.mark.parametrize(
    "sql", ["SELECT pg_advisory_lock(7)", "SELECT set_config('app.tenant', '7', false)"]
)
def test_what_is_streamed_is_noted_too(sql: str, stage_of: Stages) -> None:
    stage = stage_of()
    with stage.connection.cursor() as cursor:
        list(cursor.stream(sql))
    stage.kill()
    if "lock" in sql:
        with pytest.raises(Error):
            stage.run("SELECT 1")
    else:
        raises_or_has(stage, "7")


@pytest.mark.parametrize(
    "how",
    ["commit", pytest.param("transaction", marks=pytest.mark.psycopg3), "commit then error"],
)
def test_a_setting_that_the_driver_has_committed(how: str, stage_of: Stages) -> None:
    stage = stage_of()
    raw = stage.connection.connection
    with contextlib.suppress(ZeroDivisionError), stage.atomic():
        with raw.transaction() if how == "transaction" else contextlib.nullcontext():
            stage.run("SET app.tenant = '7'")
        if how != "transaction":
            raw.commit()
        if "error" in how:
            raise ZeroDivisionError
    assert stage.run(TENANT) == [("7",)]
    stage.kill()
    raises_or_has(stage, "7")


@pytest.mark.parametrize("midway", [False, True])
def test_what_was_set_on_the_drivers_object(midway: bool, stage_of: Stages) -> None:
    stage = stage_of()
    raw = stage.connection.connection
    if PG3:
        from psycopg import IsolationLevel

        raw.isolation_level = IsolationLevel.SERIALIZABLE
        raw.read_only = True
    else:
        extensions: Any = importlib.import_module("psycopg2.extensions")
        stage.connection.set_autocommit(False)
        raw.set_session(isolation_level=extensions.ISOLATION_LEVEL_SERIALIZABLE, readonly=True)
        stage.connection.set_autocommit(True)
    with stage.atomic():
        assert stage.run("SHOW transaction_isolation") == [("serializable",)]
        assert stage.run("SHOW transaction_read_only") == [("on",)]
    if not midway:
        stage.kill()
    with stage.killed_midway() if midway else contextlib.nullcontext(), stage.atomic():
        stage.run("SELECT pg_sleep(1)" if midway else "SELECT 1")
        assert stage.run("SHOW transaction_isolation") == [("serializable",)]
        assert stage.run("SHOW transaction_read_only") == [("on",)]


@pytest.mark.psycopg2
def test_executemany_that_failed_after_a_setting(stage_of: Stages) -> None:
    stage = stage_of()
    with pytest.raises(Error), stage.connection.cursor() as cursor:
        cursor.executemany(
            "SELECT set_config('app.tenant', %s, false), 1 / %s", [["7", 1], ["8", 0]]
        )
    assert stage.run(TENANT) == [("7",)]
    stage.kill()
    raises_or_has(stage, "7")


def test_several_statements_that_failed_after_a_setting(stage_of: Stages) -> None:
    stage = stage_of()
    with pytest.raises(Error):
        stage.run("SET app.tenant = '7'; COMMIT; SELECT 1/0")
    assert stage.run(TENANT) == [("7",)]
    stage.kill()
    raises_or_has(stage, "7")


def test_a_lock_taken_by_a_statement_that_failed(stage_of: Stages) -> None:
    stage = stage_of()
    with pytest.raises(Error):
        stage.run("SELECT pg_advisory_lock(g), 1 / (2 - g) FROM generate_series(1, 2) AS g")
    stage.kill()
    with pytest.raises(SessionLost):
        stage.run("SELECT 1")


@pytest.mark.psycopg3
def test_a_row_factory(stage_of: Stages) -> None:
    from psycopg.rows import dict_row

    stage = stage_of()
    with stage.connection.cursor() as cursor:
        cursor.cursor.row_factory = dict_row
        stage.kill()
        cursor.execute("SELECT 1 AS a")
        assert cursor.fetchone() == {"a": 1}


def test_commit_in_autocommit_is_no_sign_of_life(stage_of: Stages) -> None:
    stage = stage_of()
    connection: Any = stage.connection
    before = connection._link.heard_at
    connection.commit()
    assert connection._link.heard_at == before


def test_executemany_of_nothing_is_no_sign_of_life(stage_of: Stages) -> None:
    stage = stage_of()
    connection: Any = stage.connection
    before = connection._link.heard_at
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {TABLE} (value) VALUES (%s)", [])
    if not PG3:  # which sends a Sync
        assert connection._link.heard_at == before


@pytest.mark.psycopg3
def test_a_setting_that_the_driver_has_rolled_back(stage_of: Stages) -> None:
    stage = stage_of()
    with stage.atomic():
        stage.run("SELECT 1")
        raw: Any = stage.connection.connection
        with contextlib.suppress(ZeroDivisionError), raw.transaction():
            stage.run("SET app.tenant = '7'")
            raise ZeroDivisionError
    ((before,),) = stage.run(TENANT)
    stage.kill()
    raises_or_has(stage, before)


@pytest.mark.psycopg2
def test_the_connection_as_a_context_manager(stage_of: Stages) -> None:
    stage = stage_of()
    with stage.atomic(), stage.connection.connection:
        stage.run("SET app.tenant = '7'")
    assert stage.run(TENANT) == [("7",)]
    stage.kill()
    raises_or_has(stage, "7")


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SHOW transaction_read_only", None),
        ("SELECT current_setting('Transaction_Read_Only')", None),
        ("SELECT current_setting(%s)", ["transaction_read_only"]),
        ("SELECT current_setting(%(name)s)", {"name": "transaction_read_only"}),
    ],
)
def test_a_read_that_asks_whether_it_may_write(
    sql: str, params: Any, stage_of: Stages, server: Server
) -> None:
    """It would be told of the transaction that it is run again in."""
    with Proxy(server.port) as proxy:
        stage = stage_of(PORT=proxy.port)
        proxy.cut_at(1, "answer")
        with pytest.raises(Error) as caught:
            stage.run(sql, params)
    assert "whether its transaction is read-only" in caught.value.__notes__[-1]
