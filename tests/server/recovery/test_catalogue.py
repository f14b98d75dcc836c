"""What the catalogue says of PostgreSQL's own functions, which leave no trace in pg_depend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import Error

from django_resilient_pg.driver.choose import link_to
from django_resilient_pg.recovery import catalogue, questions
from django_resilient_pg.recovery.catalogue import why_may_write
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.faults.proxy import Proxy
from tests.server.recovery.writes_behind import GRANT, ROWS, WRITES, Stages
from tests.server.scenarios import DATABASE, TABLE, Stage

pytestmark = pytest.mark.once_per_driver
OWN = {
    "view": ("SELECT * FROM v", ["CREATE VIEW v AS SELECT pg_notify('a', 'b')::text"]),
    "view of a view": (
        "SELECT * FROM w",
        ["CREATE VIEW v AS SELECT nextval('numbers')", "CREATE VIEW w AS TABLE v"],
    ),
    "domain": (
        "SELECT 'x'::noted",
        ["CREATE DOMAIN noted AS text CHECK (set_config('a.b', VALUE, false) IS NOT NULL)"],
    ),
    "domain in a row": (
        """SELECT jsonb_populate_record(NULL::holders, '{"v": "x"}')""",
        [
            "CREATE DOMAIN noted AS text CHECK (set_config('a.b', VALUE, false) IS NOT NULL)",
            "CREATE TABLE holders (v noted)",
        ],
    ),
    "default of an argument": (
        "SELECT calm()",
        [
            "CREATE FUNCTION calm(n bigint DEFAULT nextval('numbers')) RETURNS bigint STABLE"
            " LANGUAGE sql AS 'SELECT $1'"
        ],
    ),
    "transition function": (
        f"SELECT told(v, false) FROM {ROWS}",
        ["CREATE AGGREGATE told(text, bool) (sfunc = set_config, stype = text, initcond = 'a.b')"],
    ),
    "operator": (
        "SELECT 1 <+> 2",
        ["CREATE OPERATOR <+> (leftarg = int, rightarg = int, function = pg_try_advisory_lock)"],
    ),
    "cast": (
        "SELECT 7::bigint::bool",
        ["CREATE CAST (bigint AS bool) WITH FUNCTION pg_try_advisory_lock(bigint)"],
    ),
    "policy": (
        "SELECT * FROM secured",
        [
            "CREATE TABLE secured (v text)",
            "ALTER TABLE secured ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY own ON secured USING (pg_try_advisory_lock(1))",
        ],
    ),
    "table that a string names": (
        "SELECT table_to_xml('v', false, false, '')",
        ["CREATE VIEW v AS SELECT pg_notify('a', 'b')::text"],
    ),
    "function that is not there": ("SELECT gone(1)", []),
}


@pytest.fixture
def set_up(server: Server, stage_of: Stages) -> Iterator[Callable[[list[str]], None]]:
    def run(made: list[str]) -> None:
        server.execute(";".join([*made, GRANT]), database=DATABASE)

    yield run
    server.execute("DROP CAST IF EXISTS (bigint AS bool)", database=DATABASE)  # is in no schema


def why(stage: Stage, *texts: str, over: bool = False) -> str:
    stage.connection.ensure_connection()
    return why_may_write(link_to(stage.connection.connection), texts, over=over)


@pytest.mark.parametrize("name", OWN)
def test_what_acts_is_found(
    name: str, set_up: Callable[[list[str]], None], stage_of: Stages
) -> None:
    sql, made = OWN[name]
    set_up(made)
    assert why(stage_of(), sql)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT nextval('a')", "it calls the volatile function nextval()"),
        ("SELECT * FROM v", "it calls the volatile function nextval() by way of v"),
        ("SELECT gone(1)", "it calls gone(), which the database does not know"),
    ],
)
def test_it_is_said_what_acts(
    sql: str, expected: str, set_up: Callable[[list[str]], None], stage_of: Stages
) -> None:
    set_up(["CREATE VIEW v AS SELECT nextval('numbers')"])
    assert why(stage_of(), "SELECT 1", sql, "SELECT 2") == expected


READ = {
    "materialized view": (
        "SELECT * FROM v",
        ["CREATE MATERIALIZED VIEW v AS SELECT nextval('numbers')"],
    ),
    "rule of INSERT": (
        "SELECT * FROM t",
        [
            "CREATE TABLE t (v text)",
            "CREATE RULE r AS ON INSERT TO t DO ALSO SELECT pg_notify('a', 'b')",
        ],
    ),
    "policy of INSERT": (
        "SELECT * FROM t",
        [
            "CREATE TABLE t (v text)",
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY p ON t FOR INSERT WITH CHECK (pg_try_advisory_lock(1))",
            "CREATE POLICY q ON t FOR SELECT USING (current_setting('a.b', true) IS NULL)",
        ],
    ),
    "column like a function": (
        "SELECT t.acts, acts FROM t",
        ["CREATE TABLE t (acts text)", WRITES],
    ),
    "trigger function": (
        "SELECT acts(1), t.acts FROM t",
        [
            "CREATE TABLE t (acts text)",
            "CREATE FUNCTION acts() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE FUNCTION acts(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'",
        ],
    ),
    "domain": (
        "SELECT 'x'::mail, ROW('x')::letter",
        [
            "CREATE DOMAIN mail AS text CHECK (VALUE ~ 'x')",
            "CREATE TYPE letter AS (recipient mail)",
        ],
    ),
    "view of PostgreSQL's own": ("SELECT * FROM pg_locks, pg_stat_activity, pg_settings", []),
    "information schema": ("SELECT * FROM information_schema.columns", []),
    "harmless": ("SELECT random(), clock_timestamp(), gen_random_uuid()", []),
    "view with what is harmless": (
        "SELECT * FROM v",
        ["CREATE VIEW v AS SELECT random(), clock_timestamp()"],
    ),
    "aggregates of PostgreSQL's own": (
        f"SELECT count(*), array_agg(v ORDER BY v), string_agg(v, ',') FROM {ROWS}",
        [],
    ),
    "sample": ("SELECT * FROM promise TABLESAMPLE bernoulli (10)", []),
    "enum": ("SELECT 'a'::mood", ["CREATE TYPE mood AS ENUM ('a')"]),
    "partitions": (
        "SELECT * FROM t",
        [
            "CREATE TABLE t (n int) PARTITION BY LIST (n)",
            "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
        ],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_only_reads_is_read_again(
    name: str, set_up: Callable[[list[str]], None], stage_of: Stages, proxy: Proxy
) -> None:
    sql, made = READ[name]
    set_up(made)
    stage = stage_of(PORT=proxy.port)
    stage.run(sql)
    proxy.cut_at(1, "answer")
    stage.run(sql)


def test_what_has_ended_with_its_transaction(stage_of: Stages) -> None:
    stage = stage_of()
    local = "SELECT set_config('a.b', 'c', true), pg_advisory_xact_lock(1)"
    assert why(stage, local)
    assert not why(stage, local, over=True)
    assert why(stage, local, "SELECT set_config('a.b', 'c', false)", over=True)
    assert why(stage, "SELECT pg_advisory_lock(1)", over=True)


class Counting:
    """A link that counts its questions."""

    def __init__(self, stage: Stage) -> None:
        stage.connection.ensure_connection()
        self._link = link_to(stage.connection.connection)
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def ask(self, *args: Any) -> Any:
        self.asked += 1
        return self._link.ask(*args)


def test_an_answer_is_kept_for_some_seconds_for_its_alias(
    set_up: Callable[[list[str]], None], stage_of: Stages
) -> None:
    set_up(["CREATE VIEW v AS SELECT 1 AS a"])
    link: Any = Counting(stage_of())
    plain, view, acts = "SELECT * FROM promise", "SELECT a FROM v", "SELECT nextval('numbers')"
    now = 100.0

    def ask(*texts: str, alias: str = "some") -> tuple[bool, int]:
        link.asked = 0
        return bool(why_may_write(link, texts, alias=alias, clock=lambda: now)), link.asked

    assert ask(plain) == (False, 1)
    assert ask(plain) == (False, 0)
    assert ask(plain, view) == (False, 2), "what leads further takes a second question"
    assert ask(view, plain) == (False, 0)
    assert ask(acts) == ask(plain, acts, alias="other") == (True, 1)
    assert ask(acts) == (True, 0)
    assert ask(plain, alias="other") == (False, 1), "of several it is not known which one acts"
    assert ask(plain, alias="") == ask(plain, alias="") == (False, 1)
    now += 10.1
    set_up(["CREATE OR REPLACE VIEW v AS SELECT nextval('numbers')::int AS a"])
    assert ask(view) == (True, 2)
    assert ask(plain) == (False, 1)


@pytest.mark.psycopg3
@pytest.mark.parametrize("binding", [False, True])
def test_the_question_does_not_depend_on_who_binds_parameters(
    binding: bool, set_up: Callable[[list[str]], None], stage_of: Stages
) -> None:
    set_up(["CREATE VIEW v AS SELECT nextval('numbers')"])
    stage = stage_of(options={"server_side_binding": binding})
    for _ in range(8):  # after five times the driver prepares a statement
        assert why(stage, "SELECT * FROM v")
        assert not why(stage, "SELECT now(), 1 + 2")


@pytest.mark.parametrize("refused", [False, True])
def test_a_transaction_that_is_open_elsewhere_outlives_the_question(
    refused: bool, server: Server, stage_of: Stages
) -> None:
    first, second = stage_of(), stage_of()
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        second.run(f"SELECT count(*) FROM {TABLE}")
        first.insert("own")
        if len(runs) == 1:
            first.kill()
        first.run("SELECT 1")

    who = "REVOKE SELECT ON pg_catalog.pg_proc FROM" if refused else "GRANT SELECT ON pg_proc TO"
    with second.atomic():
        second.insert("other")
        server.execute(f"{who} public", database=DATABASE)
        try:
            retry_atomic.run(work, using=first.connection.alias)
        except Error:
            assert refused
        finally:
            server.execute("GRANT SELECT ON pg_proc TO public", database=DATABASE)
        second.insert("another")
    assert runs == [1] * (1 if refused else 2)
    assert sorted(first.rows()) == ["another", "other", *([] if refused else ["own"])]


def test_a_transaction_that_set_for_itself_alone_is_replayed(stage_of: Stages) -> None:
    first, second = stage_of(), stage_of()
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        with second.atomic():
            second.run("SELECT set_config('app.tenant', '7', true)")
        first.insert("own")
        if len(runs) == 1:
            first.kill()
        first.run("SELECT 1")

    retry_atomic.run(work, using=first.connection.alias)
    assert len(runs) == 2


def test_nothing_is_asked_of_what_names_nothing(stage_of: Stages) -> None:
    stage = stage_of()
    stage.kill()  # what is asked would fail
    link = link_to(stage.connection.connection)
    assert why_may_write(link, ["SELECT 1", "SHOW search_path", "EXPLAIN SELECT f(x) FROM v"]) == ""


def test_more_than_can_be_looked_at(
    monkeypatch: pytest.MonkeyPatch, set_up: Callable[[list[str]], None], stage_of: Stages
) -> None:
    views = [f"CREATE VIEW v{n} AS SELECT * FROM v{n - 1}" for n in range(1, 9)]
    set_up(["CREATE VIEW v0 AS SELECT 1 AS a", *views])
    stage = stage_of()
    assert why(stage, "SELECT * FROM v8") == ""
    few = questions.QUESTION.replace(f"{questions.MOST}", "5")
    monkeypatch.setattr(catalogue, "QUESTION", few)
    assert "objects of the database belong to what it names" in why(stage, "SELECT * FROM v8")
