"""Texts that are easily misread: the server's reading of them is the one that counts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.db import Error, IntegrityError

from django_resilient_pg.errors import CommitOutcomeUnknown, SessionLost, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import Connections
from tests.faults.proxy import Proxy
from tests.server.scenarios import DATABASE, TABLE, TENANT, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]
# The look before COMMIT is left out right after an answer; then the loss is found by COMMIT itself.
TOLD = (TransactionLost, CommitOutcomeUnknown)
WRITES = f"""CREATE FUNCTION writes() RETURNS int VOLATILE LANGUAGE sql AS $$
    INSERT INTO {TABLE} (value) VALUES ('x') RETURNING 1 $$"""


@pytest.fixture
def stage(server: Server, stage_of: Stages) -> Stage:
    made = stage_of()
    for statement in (
        WRITES,
        *(f'CREATE TABLE "{name}" (n int); INSERT INTO "{name}" VALUES (0)' for name in TABLES),
        "CREATE TABLE weather_advisory (id int PRIMARY KEY)",
        "INSERT INTO weather_advisory VALUES (1)",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO app",
    ):
        server.execute(statement, database=DATABASE)
    return made


# -- writes ----------------------------------------------------------------------------------------

TABLES = ("skip", "nowait", "of")
UPDATES = {
    name: f"WITH x AS (UPDATE {name} SET n = n + 1 RETURNING n) SELECT n FROM x" for name in TABLES
}
TEXTS = {
    **UPDATES,
    "escaped name": "SELECT U&\"wr!0069tes\" UESCAPE '!' ()",
    "escaped analyze": 'EXPLAIN (U&"an\\0061lyze") INSERT INTO promise (value) VALUES (1)',
    "quoted analyze": 'EXPLAIN ("analyze") INSERT INTO promise (value) VALUES (1)',
}


def written(stage: Stage) -> list[Any]:
    counts = [stage.server.execute(f'SELECT n FROM "{name}"', database=DATABASE) for name in TABLES]
    return [*stage.rows(), *(count for ((count,),) in counts if count)]


@pytest.mark.parametrize("text", TEXTS)
def test_a_write_is_not_lost_silently(text: str, stage: Stage) -> None:
    with pytest.raises(TOLD), stage.atomic():
        stage.run(TEXTS[text])
        stage.kill()
    assert written(stage) == []


@pytest.mark.parametrize("text", TEXTS)
def test_a_write_is_not_done_twice(text: str, stage: Stage, make_connection: Connections) -> None:
    other = Stage(stage.server, make_connection(database=DATABASE), DATABASE)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        other.run(TEXTS[text])
        stage.run("SELECT 1")
        stage.kill()
        stage.run("SELECT 1")

    with pytest.raises(Error):
        retry_atomic.run(work, using=stage.connection.alias)
    assert len(runs) == len(written(stage)) == 1


# -- reads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        f"EXPLAIN (FORMAT JSON) SELECT * FROM {TABLE}",
        f"EXPLAIN (FORMAT TEXT, COSTS off) SELECT * FROM {TABLE}",
        f"EXPLAIN (VERBOSE) DELETE FROM {TABLE}",
        "SELECT a FROM unnest(ARRAY[1, 2]) t(a)",
        "SELECT a, n FROM unnest(ARRAY[1, 2]) WITH ORDINALITY t(a, n)",
        "SELECT a FROM (VALUES (1), (2)) AS v(a)",
        "SELECT a FROM (VALUES (1), (2)) v (a)",
        "WITH v (a, b) AS (VALUES (1, 2)) SELECT a FROM v",
        "SELECT 3 OPERATOR(pg_catalog.+) 4",
        "SELECT 'x'::character varying(10)",
        "SELECT now() AT TIME ZONE ('UTC') > now() AT TIME ZONE ('UTC')",
        "SELECT CAST(1 AS numeric(3, 1))",
        "SELECT * FROM xmltable('/a' PASSING (XMLPARSE(CONTENT '<a>1</a>')) COLUMNS a int PATH '.')"
        " x",
    ],
)
def test_a_read_is_read_again(sql: str, stage_of: Stages, proxy: Proxy) -> None:
    stage = stage_of(PORT=proxy.port)
    before = stage.run(sql)
    proxy.cut_at(1, "answer")
    assert stage.run(sql) == before


def test_what_a_query_set_explains_is_read_again(stage_of: Stages, proxy: Proxy) -> None:
    from testproject.shop.models import Customer

    stage = stage_of(PORT=proxy.port)
    stage.run("CREATE TABLE shop_customer (id bigint, name text, email text)")
    found = Customer.objects.using(stage.connection.alias).filter(name="x")
    proxy.cut_at(1, "answer")
    assert '"Plan"' in found.explain(format="json").replace("'", '"')


# -- sessions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT U&\"set!005fconfig\" UESCAPE '!' ('app.tenant', '7', false)",
        "SELECT U&\"set\\005fconfig\"('app.tenant', '7', false)",
        "SET U&\"app\".U&\"t!0065nant\" UESCAPE '!' = '7'",
    ],
)
def test_a_setting_by_an_escaped_name_is_kept_or_raised(sql: str, stage: Stage) -> None:
    with suppress(Error):  # not every one of these is a setting for the server
        stage.run(sql)
    told = stage.run(TENANT)
    stage.kill()
    try:
        assert stage.run(TENANT) == told
    except SessionLost:
        return


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("local.tenant", "SET local.tenant = '7'"),
        ("local.tenant", "SET LOCAL . tenant TO '7'"),
        ("local$1.tenant", "SET local$1.tenant = '7'"),
        ("local\u00e9.tenant", "SET local\u00e9.tenant = '7'"),
        ("names$1.tenant", "SET names$1.tenant = '7'"),
        ("transaction.tenant", "SET transaction.tenant = '7'"),
        ("names.tenant", "SET names.tenant = '7'"),
        ("role.tenant", "SET role .tenant = '7'"),
        ("app.\u212aey", "SET app.\u212aey = '7'"),
        ("app.\u212aey", "SELECT set_config('app.\u212aey', '7', false)"),
    ],
)
def test_a_setting_whose_name_begins_like_another_one(name: str, sql: str, stage: Stage) -> None:
    told = f"SELECT current_setting('{name}', true), current_setting('app.key', true), current_user"
    stage.run("SET ROLE app")
    stage.run(sql)
    stage.run("SET client_encoding = 'UTF8'")
    stage.run("SET app.key = '8'")
    assert stage.run(told) == [("7", "8", "app")]
    stage.kill()
    assert stage.run(told) == [("7", "8", "app")]
    assert stage.run("SHOW client_encoding") == [("UTF8",)]


def test_a_setting_behind_a_backslash_is_kept_or_raised(stage: Stage) -> None:
    stage.run("SET escape_string_warning = off")
    stage.run("SET standard_conforming_strings = off")
    stage.run(r"SELECT 'it\'s', set_config('app.tenant', '7', false), '\''")
    assert stage.run(TENANT) == [("7",)]
    stage.kill()
    with pytest.raises(SessionLost):
        stage.run(TENANT)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO weather_advisory VALUES (1)",
        "INSERT INTO weather_advisory SELECT 1 AS pg_advisory_lock",
        "UPDATE weather_advisory SET id = id / 0 WHERE 'set_config(1)' <> 'pg_advisory_lock(1)'",
        "SELECT 1 / 0 FROM weather_advisory; UPDATE skip SET n = 1",
    ],
)
def test_a_statement_that_failed_pins_by_what_it_calls(sql: str, stage: Stage) -> None:
    with pytest.raises(Error):
        stage.run(sql)
    stage.kill()
    assert stage.run("SELECT 5") == [(5,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pg_advisory_lock(7), 1 / 0",
        "SELECT PG_Advisory_Lock /* it */ (7, 7), 1 / (2 - g) FROM generate_series(1, 2) AS g",
        "DO $$ BEGIN PERFORM pg_advisory_lock(7); RAISE 'no'; END $$",
        "SELECT 1; COMMIT; SET app.tenant = '7'; COMMIT; SELECT 1 / 0",
    ],
)
def test_a_statement_that_failed_pins_where_it_may_have_left_something(
    sql: str, stage: Stage
) -> None:
    with pytest.raises(Error):
        stage.run(sql)
    stage.kill()
    with pytest.raises(SessionLost):
        stage.run("SELECT 5")


def test_an_integrity_error_of_the_orm_leaves_nothing(stage: Stage) -> None:
    with pytest.raises(IntegrityError), stage.atomic():
        stage.run("INSERT INTO weather_advisory (id) VALUES (%s)", [1])
    stage.kill()
    assert stage.run("SELECT 5") == [(5,)]
