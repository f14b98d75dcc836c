"""What does more than its text shows at first sight is neither lost silently nor done twice."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import Error, transaction

from django_resilient_pg.errors import CommitOutcomeUnknown, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests import needs
from tests.engines import RESILIENT, STOCK, Connections
from tests.faults.proxy import Proxy
from tests.server.scenarios import DATABASE, TABLE, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]
WRITES = f"(v text) RETURNS int VOLATILE LANGUAGE sql AS $$ INSERT INTO {TABLE} (value) VALUES (v)"
ROWS = f"""(v text) RETURNS SETOF record VOLATILE LANGUAGE plpgsql
    AS $$ BEGIN RETURN QUERY INSERT INTO {TABLE} (value) VALUES (v) RETURNING id; END $$"""
TELLS = """(v text) RETURNS record VOLATILE LANGUAGE plpgsql
    AS $$ DECLARE r record; BEGIN PERFORM pg_notify('news', v); SELECT 1 INTO r; RETURN r; END $$"""


@pytest.fixture
def function(server: Server, stage_of: Stages) -> Callable[..., None]:
    """Make a function in the database of the stages; by default one that writes its argument."""

    def make(name: str, rest: str = f"{WRITES} RETURNING 1 $$") -> None:
        server.execute(f"CREATE FUNCTION {name}{rest}", database=DATABASE)

    return make


def assert_not_lost_silently(stage: Stage, sql: str, params: Any = None) -> None:
    with pytest.raises(TransactionLost), stage.atomic():
        stage.run(sql, params)
        stage.kill()
    assert stage.rows() == []


def assert_not_done_twice(first: Stage, second: Stage, sql: str, params: Any = None) -> None:
    """It is committed on one alias; then the transaction of another one is lost."""
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        second.run(sql, params)
        first.insert("own")
        first.kill()
        first.run("SELECT 1")

    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=first.connection.alias)
    assert (len(runs), first.rows()) == (1, ["x"])
    assert "The transaction was not retried: " in caught.value.__notes__[-1]


# -- functions that do not look like one -----------------------------------------------------------

RECORDS = pytest.mark.parametrize("alias", ["AS (id bigint)", "AS t (id bigint)", "t (id bigint)"])


@RECORDS
def test_a_function_of_records_is_not_lost_silently(
    alias: str, stage_of: Stages, function: Callable[..., None]
) -> None:
    function("rows_of", ROWS)
    assert_not_lost_silently(stage_of(), f"SELECT * FROM rows_of('x') {alias}")


@RECORDS
def test_a_function_of_records_is_not_done_twice(
    alias: str, stage_of: Stages, function: Callable[..., None]
) -> None:
    function("rows_of", ROWS)
    assert_not_done_twice(stage_of(), stage_of(), f"SELECT * FROM rows_of('x') {alias}")


def test_a_function_of_records_is_not_read_again(
    stage_of: Stages, function: Callable[..., None], proxy: Proxy
) -> None:
    """BEGIN READ ONLY would let its NOTIFY through."""
    function("tell", TELLS)
    stage = stage_of(PORT=proxy.port)
    proxy.cut_at(1, "answer")
    with pytest.raises(Error) as caught:
        stage.run("SELECT * FROM tell('x') AS (id int)")
    assert "it calls the volatile function tell()" in caught.value.__notes__[-1]


@pytest.mark.parametrize("name", ["filter", '"order"', '"check"', "ordinary"])
def test_a_function_named_like_a_keyword(
    name: str, stage_of: Stages, function: Callable[..., None]
) -> None:
    function(name)
    assert_not_lost_silently(stage_of(), f"SELECT {name}('x')")


def test_a_function_named_like_one_that_sets(
    stage_of: Stages, function: Callable[..., None]
) -> None:
    rest = WRITES.replace("(v text)", "(v text, number int, fast bool)")
    function("set_config", f"{rest} RETURNING 1 $$")
    assert_not_lost_silently(stage_of(), "SELECT set_config('x', 7, true)")


OFF = ("SET escape_string_warning = off", "SET standard_conforming_strings = off")
ESCAPED = r"SELECT 'it\'s', writes('x')"


@pytest.mark.parametrize("by", ["session", "transaction", "options"])
def test_a_call_behind_a_backslash_is_not_lost_silently(
    by: str, stage_of: Stages, function: Callable[..., None]
) -> None:
    function("writes")
    off = " ".join(f"-c {setting[4:].replace(' ', '')}" for setting in OFF)
    stage = stage_of(options={"options": off} if by == "options" else {})
    for setting in OFF if by == "session" else ():
        stage.run(setting)
    with pytest.raises(TransactionLost), stage.atomic():
        for setting in OFF if by == "transaction" else ():
            stage.run(setting.replace("SET", "SET LOCAL"))
        stage.run(ESCAPED)
        stage.kill()
    assert stage.rows() == []


def without_standard_strings(stage: Stage, function: Callable[..., None]) -> Stage:
    """A session whose backslashes escape, and a function to hide behind one."""
    function("tell", TELLS)
    for setting in OFF:
        stage.run(setting)
    return stage


def test_a_call_behind_a_backslash_is_not_taken_for_committed(
    stage_of: Stages, function: Callable[..., None], proxy: Proxy
) -> None:
    """A notification leaves a transaction without an id."""
    stage = without_standard_strings(stage_of(PORT=proxy.port), function)

    def work() -> None:
        stage.run(r"SELECT 'it\'s', tell('x')")
        proxy.cut_at(2, "before")  # 1 asks for the transaction's id, 2 is COMMIT

    with pytest.raises(CommitOutcomeUnknown):
        retry_atomic.run(work, using=stage.connection.alias)


def test_a_call_behind_a_backslash_is_not_read_again(
    stage_of: Stages, function: Callable[..., None], proxy: Proxy
) -> None:
    stage = without_standard_strings(stage_of(PORT=proxy.port), function)
    proxy.cut_at(1, "answer")
    with pytest.raises(Error) as caught:
        stage.run(r"SELECT 'it\'s', tell('x')")
    assert "may have committed already" in caught.value.__notes__[-1]


def test_a_call_behind_a_backslash_is_not_done_twice(
    stage_of: Stages, function: Callable[..., None]
) -> None:
    function("writes")
    first, second = stage_of(), stage_of()
    for setting in OFF:
        second.run(setting)
    assert_not_done_twice(first, second, ESCAPED)


def test_a_backslash_that_is_one_is_read(stage_of: Stages) -> None:
    stage = stage_of()
    with stage.atomic():
        assert stage.run(r"SELECT 'it\', 1") == [("it\\", 1)]
        stage.kill()


@pytest.mark.psycopg2
@pytest.mark.parametrize("shape", ["list", "dict", "rows", "dicts", "iterator", "array"])
def test_a_parameter_that_is_text_is_not_lost_silently(
    shape: str, stage_of: Stages, function: Callable[..., None]
) -> None:
    function("writes")
    stage, text = stage_of(), as_is("writes('x')")
    rows: Any = iter([[text]])
    with pytest.raises(TransactionLost), stage.atomic(), stage.connection.cursor() as cursor:
        if shape == "rows":
            cursor.executemany("SELECT * FROM %s", [[text]])
        elif shape == "iterator":
            cursor.executemany("SELECT * FROM %s", rows)
        elif shape == "dicts":
            cursor.executemany("SELECT * FROM %(what)s", [{"what": text}])
        elif shape == "dict":
            cursor.execute("SELECT * FROM %(what)s", {"what": text})
        else:
            cursor.execute("SELECT %s", [text if shape == "list" else [text]])
        stage.kill()
    assert stage.rows() == []


@pytest.mark.psycopg2
def test_a_parameter_that_is_text_is_not_done_twice(
    stage_of: Stages, function: Callable[..., None]
) -> None:
    function("writes")
    params = [as_is("writes('x')")]
    assert_not_done_twice(stage_of(), stage_of(), "SELECT * FROM %s", params)


@pytest.mark.psycopg2
def test_a_transaction_with_a_parameter_that_is_text_runs_again(stage_of: Stages) -> None:
    stage = stage_of()
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        stage.run("INSERT INTO %s (value) VALUES (%s)", [as_is(TABLE), "x"])
        if len(runs) == 1:
            stage.kill()
        stage.run("SELECT 1")

    retry_atomic.run(work, using=stage.connection.alias)
    assert (len(runs), stage.rows()) == (2, ["x"])


def as_is(text: str) -> Any:
    return importlib.import_module("psycopg2.extensions").AsIs(text)


# -- transactions that set_autocommit() has not begun ----------------------------------------------


# psycopg2 does not commit in its autocommit, whatever a text has begun.
COMMITTED = pytest.mark.parametrize(
    "begin", [pytest.param("text", marks=pytest.mark.psycopg3), "driver"]
)


@pytest.mark.parametrize("begin", ["text", "driver"])
@pytest.mark.parametrize("noticed", [False, True])
def test_a_transaction_by_hand_is_not_lost_silently(
    begin: str, noticed: bool, stage_of: Stages
) -> None:
    stage = stage_of()
    _begin(stage, begin)
    stage.insert("x")
    assert stage.connection.is_usable()
    stage.kill()
    assert not (noticed and stage.connection.is_usable())
    time.sleep(0.01)  # the look before COMMIT is left out right after an answer
    with pytest.raises(TransactionLost):
        transaction.commit(using=stage.connection.alias)
    assert stage.rows() == []


@COMMITTED
def test_a_transaction_by_hand_is_not_taken_for_committed(
    begin: str, stage_of: Stages, proxy: Proxy
) -> None:
    stage = stage_of(PORT=proxy.port)
    _begin(stage, begin)
    stage.insert("x")
    proxy.cut_at(1, "before")
    with pytest.raises(CommitOutcomeUnknown):
        transaction.commit(using=stage.connection.alias)


@COMMITTED
def test_a_transaction_by_hand_is_committed(begin: str, stage_of: Stages) -> None:
    stage = stage_of()
    _begin(stage, begin)
    stage.insert("x")
    transaction.commit(using=stage.connection.alias)
    assert stage.rows() == ["x"]


def _begin(stage: Stage, how: str) -> None:
    if how == "text":
        stage.run("BEGIN")
    else:
        stage.connection.connection.autocommit = False


# -- tables that are elsewhere ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_server() -> Iterator[Server]:
    """One that has postgres_fdw: no wheel brings it."""
    with Server(pg_bin=needs.postgres_with("postgres_fdw")) as running:
        running.create_database("remote")
        running.execute("CREATE TABLE ledger (value text)", database="remote")
        running.execute("GRANT ALL ON ledger TO app", database="remote")
        for statement in (
            "CREATE EXTENSION postgres_fdw",
            f"""CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw
                OPTIONS (host '{running.host}', port '{running.port}', dbname 'remote')""",
            f"""CREATE USER MAPPING FOR app SERVER far
                OPTIONS (user 'app', password '{running.password}')""",
            "CREATE FOREIGN TABLE ledger (value text) SERVER far",
            "GRANT ALL ON ledger TO app",
        ):
            running.execute(statement, database="app")
        yield running


@pytest.mark.parametrize("via", ["retry_atomic", "option", "plain", "stock"])
def test_what_went_through_a_foreign_table_is_not_lost_silently(
    via: str, full_server: Server
) -> None:
    """Such a transaction has no id of its own."""
    full_server.execute("TRUNCATE ledger", database="remote")
    full_server.execute("INSERT INTO ledger VALUES ('open')", database="remote")
    engine = STOCK if via == "stock" else RESILIENT
    given: dict[str, Any] = {"commit_outcome": True} if via == "option" else {}
    made = Connections(full_server)
    with Proxy(full_server.port) as proxy:
        connection = made(engine, PORT=proxy.port, **given)

        def work() -> None:
            with connection.cursor() as cursor:
                cursor.execute("UPDATE ledger SET value = 'paid'")
            # 1 asks for the transaction's id, where it is asked for
            proxy.cut_at(2 if via in {"retry_atomic", "option"} else 1, "before")

        with pytest.raises(Error) as caught:
            if via == "retry_atomic":
                retry_atomic.run(work, using=connection.alias)
            else:
                with transaction.atomic(using=connection.alias):
                    work()
        made.close()
    assert isinstance(caught.value, CommitOutcomeUnknown) or via == "stock"
    assert full_server.execute("SELECT value FROM ledger", database="remote") == [("open",)]


def test_functions_that_nobody_may_look_up(stage_of: Stages, server: Server) -> None:
    """The loss is what the application hears of, not the question that was refused after it."""
    stage = stage_of()
    server.execute("REVOKE SELECT ON pg_catalog.pg_proc FROM public", database=DATABASE)
    try:
        with pytest.raises(Error) as caught, stage.killed_midway():
            stage.run("SELECT current_schemas(true), pg_sleep(1)")
    finally:
        server.execute("GRANT SELECT ON pg_catalog.pg_proc TO public", database=DATABASE)
    assert "permission denied" not in str(caught.value)
    note = caught.value.__notes__[-1]
    assert "the server does not tell which functions it calls (permission denied" in note
    assert stage.run("SELECT 5") == [(5,)]
