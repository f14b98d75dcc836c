"""What a session holds, what pins it, and what knowing so costs a healthy statement."""

from __future__ import annotations

import enum
import uuid
from typing import Any

import pytest

from django_resilient_pg.sql import memory, session_effects
from django_resilient_pg.sql.memory import HARMLESS
from django_resilient_pg.sql.statements import Statement, analyse
from django_resilient_pg.state import session
from django_resilient_pg.state.session import Session, Where

TENANT = uuid.UUID(int=7)


@pytest.fixture(autouse=True)
def forget() -> None:
    HARMLESS.clear()
    memory.forget()


def noted(*statements: object, where: Where = Where.AUTOCOMMIT) -> Session:
    made = Session()
    for one in statements:
        sql, params = one if isinstance(one, tuple) else (one, None)
        made.note(sql, params, where)
    return made


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        b"SELECT 1",
        "/* tag */ select 1",
        "CREATE TABLE t ()",
        "SELECT ';'",
        "DISCARD PLANS",
        "CLOSE c",
        "UNLISTEN news",
        "DEALLOCATE ALL",
        "DECLARE c NO SCROLL CURSOR FOR SELECT 1",
        "SELECT temperature FROM advisory_board",
    ],
)
def test_an_ordinary_statement_is_remembered_as_harmless(sql: object) -> None:
    assert not noted(sql).holds
    assert len(HARMLESS) == 1


@pytest.mark.parametrize("sql", ["SET LOCAL a.b = 1", " set transaction read only"])
def test_what_a_transaction_is_set_to_is_seen_each_time(sql: str) -> None:
    assert not noted(sql, where=Where.TRANSACTION).holds
    assert not HARMLESS


def test_savepoints_are_not_remembered() -> None:
    """Each has a name of its own: they would only push out what is worth knowing."""
    noted('SAVEPOINT "s1_x1"')
    assert not HARMLESS


@pytest.mark.parametrize("sql", ["END", " end", "/* x */ ROLLBACK", "SELECT 1; ABORT", "\nCOMMIT"])
def test_transaction_control_is_never_taken_for_harmless(sql: str) -> None:
    """Seen where nothing was pending, it may come where something is."""
    assert not noted(sql).holds
    assert not HARMLESS
    made = noted("SET a.b = 1", sql, where=Where.TRANSACTION)
    assert made.pinned_by == "SET a.b in a transaction ended by hand"


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST", 10)
    noted(*[f"SELECT {number}" for number in range(25)], "SELECT '" + "x" * 10_000 + "'")
    assert len(HARMLESS) <= 10


# -- what is done again ---------------------------------------------------------------------------

SETTINGS = [
    ("SET search_path TO a, public", None, "search_path"),
    ("set session Search_Path = a", None, "search_path"),
    ("SET SCHEMA 'a'", None, "search_path"),
    ('SET "App".tenant = %s', ["5"], "app.tenant"),
    ("/* who */ SET app.tenant TO 'it''s; x' ;", None, "app.tenant"),
    ("SET TIME ZONE 'UTC'", None, "timezone"),
    ("SET TimeZone TO DEFAULT", None, "timezone"),
    ("RESET TIME ZONE", None, "timezone"),
    ("SET NAMES 'UTF8'", None, "client_encoding"),
    ("SET ROLE clerk", None, "role"),
    ("SET role TO clerk", None, "role"),
    ("SET ROLE NONE", None, "role"),
    ("RESET ROLE", None, "role"),
    ("SET SESSION AUTHORIZATION clerk", None, "session_authorization"),
    ("RESET SESSION AUTHORIZATION", None, "session_authorization"),
    ("RESET app.tenant", None, "app.tenant"),
    ("RESET ALL", None, "reset all"),
    ("DISCARD ALL", None, "discard all"),
    (b"SET app.tenant = 1", None, "app.tenant"),
]


@pytest.mark.parametrize(("sql", "params", "name"), SETTINGS)
def test_a_setting_is_kept_as_it_was_sent(sql: object, params: object, name: str) -> None:
    made = noted((sql, params))
    assert made.pinned_by == ""
    assert list(made.settings) == [name]
    kept = made.settings[name]
    assert kept.sql == sql
    assert kept.params == (tuple(params) if isinstance(params, list) else params)
    assert not HARMLESS


CONFIGS = [
    ("SELECT set_config('app.tenant', '5', false)", None, ("app.tenant", "5")),
    ("SELECT set_config('app.tenant', %s, false)", ["5"], ("app.tenant", "5")),
    ("SELECT set_config(%s, %s, %s)", ["App.Tenant", "5", False], ("app.tenant", "5")),
    ("select pg_catalog.set_config('a.b', %(t)s::text, FALSE) AS x;", {"t": 5}, ("a.b", "5")),
    ("SELECT set_config('a.b', %s::text, 'f')", [TENANT], ("a.b", str(TENANT))),
    ("SELECT set_config('a.b', NULL, false) -- gone", None, ("a.b", None)),
    ("SELECT set_config('a.b', 'it''s, true)', false)", None, ("a.b", "it's, true)")),
]


@pytest.mark.parametrize(("sql", "params", "expected"), CONFIGS)
def test_set_config_is_kept_with_the_values_of_its_parameters(
    sql: str, params: object, expected: tuple[str, str | None]
) -> None:
    made = noted((sql, params))
    assert made.pinned_by == ""
    assert [one.params for one in made.settings.values()] == [expected]


def test_several_set_configs_in_one_statement() -> None:
    sql = "SELECT set_config('a.b', %s, false), set_config('a.c', %s, true), set_config(%s, %s, %s)"
    made = noted((sql, ["1", "2", "a.d", "3", False]))
    assert [one.params for one in made.settings.values()] == [("a.b", "1"), ("a.d", "3")]


def test_parameters_are_copied() -> None:
    params = ["1"]
    made = Session()
    made.note("SET app.tenant = %s", params)
    params[0] = "2"
    assert made.settings["app.tenant"].params == ("1",)


def test_the_last_value_of_a_name_holds_at_its_place() -> None:
    made = noted("SET a.b = 1", "SET search_path = x", "SELECT set_config('a.b', '2', false)")
    assert [one.words for one in made.settings.values()] == ["SET search_path", "set_config a.b"]


def test_reset_all_leaves_the_role() -> None:
    made = noted("SET ROLE a", "SET a.b = 1", "RESET ALL", "SET a.c = 1")
    assert list(made.settings) == ["role", "reset all", "a.c"]


def test_discard_all_leaves_nothing_but_itself() -> None:
    made = noted("SET ROLE a", "SET a.b = 1", "DISCARD ALL", "RESET ALL")
    assert list(made.settings) == ["discard all", "reset all"]


def test_a_new_session_user_has_no_role() -> None:
    made = noted("SET ROLE a", "SET SESSION AUTHORIZATION b")
    assert list(made.settings) == ["session_authorization"]


# -- what pins ------------------------------------------------------------------------------------


class Tenant(str, enum.Enum):  # noqa: UP042  its str() is "Tenant.FIFTH", drivers send "5"
    FIFTH = "5"


PINS = [
    ("SELECT set_config('a.b', %s, false)", [Tenant.FIFTH]),
    ("SELECT /* %s */ set_config('a.b', %s, false)", ["1", "2"]),
    ("LISTEN news", None),
    ("CREATE TEMP TABLE t (x int)", None),
    ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", None),
    ("CREATE TABLE pg_temp.t (x int)", None),
    ("SELECT 1 AS x INTO TEMP t", None),
    ("SELECT pg_advisory_lock(1)", None),
    ("PREPARE p AS SELECT 1", None),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", None),
    ("DECLARE c CURSOR FOR SELECT pg_advisory_lock(7)", None),
    ("CLOSE c; LISTEN news", None),
    ("SET seed = 0.5", None),
    ("SELECT setseed(0.5)", None),
    ("SET a.b = 1; SET a.c = 2", None),
    ("SELECT 1; SET a.b = 2", None),
    ("SELECT 1; LISTEN x", None),
    (r"SET a.b = 'x\'", None),
    ("SET a.b = %s", [object()]),
    ("SET a.b = %s", iter(["1"])),
    ("SELECT set_config('a.b', name, false) FROM tenants", None),
    ("SELECT set_config('a.b', 'x' || 'y', false)", None),
    ("SELECT set_config('a.b', %s, false)", [1.5]),
    ("SELECT set_config('a.b', %s, %s)", ["1", "off"]),
    ("SELECT set_config('a.b', %s, false)", None),
    ("SELECT 1, set_config('a.b', '1', false)", None),
    ("WITH x AS (SELECT set_config('a.b', '1', false)) SELECT * FROM x", None),
    ("""SELECT "set_config"('a.b', '1', false)""", None),
    ("UPDATE pg_settings SET setting = 'x' WHERE name = 'a.b'", None),
    ("DO $$ BEGIN SET a.b = 1; END $$", None),
    (["SELECT 1"], None),
]


@pytest.mark.parametrize(("sql", "params"), PINS)
def test_what_cannot_be_done_again_pins(sql: object, params: object) -> None:
    made = noted((sql, params))
    assert made.pinned_by
    assert not made.settings
    assert not HARMLESS


@pytest.mark.parametrize("replays", [True, False])
@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SET a.b=s3cret", None),
        ("SET a.b = 's3cret'", None),
        ("SET a.b = %s", ["s3cret"]),
        ("SET a.b=s3cret; SET a.c=s3cret", None),
        ("SELECT set_config('a.b', 's3cret', false)", None),
    ],
)
def test_a_value_is_never_shown(sql: str, params: object, replays: bool) -> None:
    made = Session()
    made.note(sql, params, replays=replays)
    assert made.holds
    assert "s3cret" not in f"{made.pinned_by} {made.settings}"


def test_the_first_statement_that_pins_is_named() -> None:
    made = noted("SELECT 1", "SET a.b = 1", "LISTEN b", "CREATE TEMP TABLE t ()", "SELECT 2")
    assert made.pinned_by == "LISTEN b"


def test_too_many_settings_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_MOST_SETTINGS", 3)
    made = noted(*[f"SET a.x{number} = 1" for number in range(4)])
    assert made.pinned_by == "more than 3 settings"


def test_what_is_set_inside_a_transaction_of_the_applications_own_pins() -> None:
    assert noted("SET a.b = 1", where=Where.UNCLEAR).pinned_by == "SET a.b"


def test_without_replay_settings_pin() -> None:
    made = Session()
    made.note("SET a.b = 1", replays=False)
    assert made.pinned_by == "SET a.b"


@pytest.mark.parametrize("name", ["template_id", "temperature", "attempts", "temporal"])
def test_a_long_text_that_is_not_remembered_is_not_read_each_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bulk_create() of many rows: seen by one word that it holds nothing of note."""
    read: list[str] = []

    def counted(text: str) -> Statement:
        read.append(text)
        return analyse(text)

    monkeypatch.setattr(session_effects, "analyse", counted)
    rows = ", ".join(["(%s, %s)"] * 1000)
    assert not noted(f'INSERT INTO "item" ("{name}", "b") VALUES {rows}').holds
    assert not read


@pytest.mark.parametrize(
    "words", ["temp t", "TEMPORARY t", "pg_temp.t", '"pg_temp".t', "pg_temp_3.t"]
)
def test_a_temporary_table_in_a_long_text_is_seen(words: str) -> None:
    assert noted(f"SELECT {'1, ' * 4000} 1 INTO {words}").pinned_by


# -- what ends a pin ------------------------------------------------------------------------------

LOCK, TRY = "SELECT pg_advisory_lock(%s)", "SELECT pg_try_advisory_lock(%s)"
UNLOCK = "SELECT pg_advisory_unlock(%s)"
ENDED: list[list[Any]] = [
    ["LISTEN a", 'listen "B"', "UNLISTEN *"],
    ["LISTEN a", "DISCARD ALL"],
    ["CREATE TEMP TABLE upload (x int)", "DISCARD ALL"],
    ["PREPARE p AS SELECT 1", "LISTEN a", (LOCK, [1]), "DISCARD ALL"],
    ["SET a.b = 1; SET a.c = 2", "discard all;"],
    [("SET a.b = %s", [object()]), "DISCARD ALL"],
    ["SET search_path = pg_temp, public", "DISCARD ALL"],
    ["SELECT pg_advisory_lock(id) FROM t", "SELECT pg_advisory_unlock_all()"],
    [(LOCK, [1]), (TRY, [2]), "/* x */ SELECT pg_catalog.pg_advisory_unlock_all() AS x;"],
    ["SELECT pg_advisory_lock(7)", "select pg_advisory_unlock ( 7 ) as done"],
    [(LOCK, [7]), "SELECT pg_advisory_unlock(7)"],
    [(LOCK, [-7]), "SELECT pg_advisory_unlock(-7::bigint)"],
    [("SELECT pg_advisory_lock(%(a)s, 8)", {"a": 7}), ("SELECT pg_advisory_unlock(7, %s)", (8,))],
    ["SELECT pg_advisory_lock_shared(7)", "SELECT pg_advisory_unlock_shared(7)"],
    [(LOCK, [7]), (TRY, [7]), (UNLOCK, [7]), (UNLOCK, [7])],
    [(LOCK, [7]), (LOCK, [8]), (UNLOCK, [7]), (UNLOCK, [8])],
    [(UNLOCK, [7])],
    ["SELECT pg_advisory_unlock_all()"],
    ["UNLISTEN *"],
]


@pytest.mark.parametrize("statements", ENDED)
def test_what_was_let_go_of_does_not_pin(statements: list[Any]) -> None:
    for _ in range(2):  # nothing of it is taken for harmless the second time
        assert not noted(*statements).pinned_by


STAYS: list[list[Any]] = [
    ["LISTEN a; LISTEN b", "UNLISTEN *"],
    ["LISTEN a", "CREATE TEMP TABLE t ()", "UNLISTEN *"],
    ["LISTEN a", "SELECT pg_advisory_unlock_all()"],
    ["LISTEN a", "SELECT 1; DISCARD ALL"],
    ["CREATE TEMP TABLE t ()", "DROP TABLE t"],
    ["LOAD 'auto_explain'", "DISCARD ALL"],
    ["SELECT setseed(0.5)", "DISCARD ALL"],
    ["SELECT 1; SET seed = 0.5", "DISCARD ALL"],
    ["DO $$ BEGIN LOAD 'x'; END $$", "DISCARD ALL"],
    ["SELECT set_config(name, '0.5', false) FROM t", "DISCARD ALL"],
    [(LOCK, [7]), (UNLOCK, [8])],
    [(LOCK, [7]), (LOCK, [7]), (UNLOCK, [7])],
    [(LOCK, [7]), "SELECT pg_advisory_unlock_shared(7)"],
    [(LOCK, [7]), "SELECT pg_advisory_unlock(7, 7)"],
    [(LOCK, ["7"]), (UNLOCK, ["7"])],
    [(LOCK, [True]), (UNLOCK, [True])],
    [(LOCK, [7]), ("/* %s */ SELECT pg_advisory_unlock(%s)", [7, 8])],
    [(LOCK, [7]), (UNLOCK, iter([7]))],
    [(LOCK, [7]), ("SELECT pg_advisory_unlock(%(A)s)", {"A": 8, "a": 7})],
    [(LOCK, [7]), ("SELECT pg_advisory_unlock(%s) FROM t WHERE false", [7])],
    [(LOCK, [7]), "SELECT 'SELECT pg_advisory_unlock_all()'"],
    ["SELECT pg_advisory_lock(7) FROM t", (UNLOCK, [7])],
    ["SELECT pg_advisory_lock(7), setseed(0.5)", "SELECT pg_advisory_unlock_all()"],
    ["DO $$ SELECT pg_advisory_lock(7) $$", "SELECT pg_advisory_unlock_all()"],
    ["CREATE TEMP TABLE t AS SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock_all()"],
]


@pytest.mark.parametrize("statements", STAYS)
def test_what_may_be_left_goes_on_pinning(statements: list[Any]) -> None:
    assert noted(*statements).pinned_by


@pytest.mark.parametrize(
    ("taken", "left", "where", "stays"),
    [
        ("LISTEN a", "UNLISTEN *", Where.TRANSACTION, True),
        ("LISTEN a", "UNLISTEN *", Where.UNCLEAR, True),
        ("LISTEN a", "DISCARD ALL", Where.TRANSACTION, True),
        ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(7)", Where.TRANSACTION, False),
        ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(7)", Where.UNCLEAR, True),
        ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock_all()", Where.TRANSACTION, False),
        ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock_all()", Where.UNCLEAR, True),
    ],
)
def test_where_it_is_let_go_of_counts(taken: str, left: str, where: Where, stays: bool) -> None:
    """A LISTEN is over with COMMIT, a lock at once; what is to come yet is not certain."""
    made = noted(taken)
    made.note(left, None, where)
    assert bool(made.pinned_by) is stays


def test_locks_that_were_taken_unclearly_are_not_counted() -> None:
    made = noted("SELECT pg_advisory_lock(7)", where=Where.UNCLEAR)
    made.note("SELECT pg_advisory_unlock(7)")
    assert made.pinned_by
    made.note("SELECT pg_advisory_unlock_all()")
    assert not made.pinned_by


def test_locks_without_end_are_counted_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_MOST_SETTINGS", 3)
    numbers = range(5)
    made = noted(*[(LOCK, [number]) for number in numbers])
    assert len(made._pins) == 4
    for number in numbers:
        made.note(UNLOCK, [number])
    assert made.pinned_by


def test_what_still_pins_is_named() -> None:
    assert noted("LISTEN a", "PREPARE p AS SELECT 1", "UNLISTEN *").pinned_by == "PREPARE p"


# -- transactions ---------------------------------------------------------------------------------


def test_what_a_transaction_set_holds_when_it_is_committed() -> None:
    made = noted("SET a.b = 1", where=Where.TRANSACTION)
    assert not made.settings
    made.committed()
    assert list(made.settings) == ["a.b"]


def test_what_a_transaction_set_is_gone_when_it_is_rolled_back() -> None:
    made = noted("SET a.b = 1", where=Where.TRANSACTION)
    made.rolled_back()
    assert not made.holds


def test_rolling_back_to_a_savepoint_takes_back_what_came_after() -> None:
    made = noted("SET a.b = 1", where=Where.TRANSACTION)
    made.savepoint("s1")
    made.note("SET a.c = 1", None, Where.TRANSACTION)
    made.rolled_back_to("s1")
    made.note("SET a.d = 1", None, Where.TRANSACTION)
    made.committed()
    assert list(made.settings) == ["a.b", "a.d"]


def test_a_savepoint_from_before_the_first_setting() -> None:
    made = noted("SET a.b = 1", where=Where.TRANSACTION)
    made.rolled_back_to("earlier")
    assert not made.pending


def test_a_transaction_ended_by_hand_pins() -> None:
    made = noted("SET a.b = 1", "ROLLBACK TO SAVEPOINT x", where=Where.TRANSACTION)
    assert made.pinned_by == "SET a.b in a transaction ended by hand"


@pytest.mark.parametrize("sql", ["create temp table t ()", "select 1 into temp t"])
def test_a_temporary_table_pins_once_it_is_committed(sql: str) -> None:
    made = noted(sql, where=Where.TRANSACTION)
    assert not made.pinned_by
    made.committed()
    assert "temp" in made.pinned_by
    assert noted(sql, where=Where.UNCLEAR).pinned_by


def test_what_was_held_before_stays_as_it_was() -> None:
    made = noted("SET a.b = 1")
    held = made.held()
    made.note("SET a.b = 2")
    made.note("LISTEN x")
    before = Session.of(held)
    assert [one.sql for one in before.settings.values()] == ["SET a.b = 1"]
    assert before.pinned_by == ""
    assert before.held() != made.held()


def test_what_was_held_is_due_on_the_next_session() -> None:
    assert noted("SET a.b = 1").gone().due
    assert noted("LISTEN a").gone().due
    assert not noted("SET a.b = 1", where=Where.TRANSACTION).gone().due


@pytest.mark.parametrize(
    ("sql", "retried"),
    [
        ("SET app.a = '1'", True),
        ("RESET ALL", True),
        ("SELECT set_config('a.b', 'c', false)", True),
        ("DISCARD ALL", False),
        ("SELECT set_config('a.b', 'c', false), writes(1)", False),
        ("SELECT set_config('a.b', writes(1)::text, false)", False),
        ("SELECT set_config('a.b', 'c', false) WHERE writes(1) = 1", False),
        ("SET a.b = '1'; INSERT INTO t VALUES (1)", False),
        ("WITH x AS (DELETE FROM t RETURNING 1) SELECT set_config('a.b', 'c', false)", False),
        ("ALTER ROLE clerk SET a.b = 'c'", False),
        ("INSERT INTO t SELECT set_config('a.b', 'c', false)", False),
    ],
)
def test_only_a_plain_setting_may_be_sent_again(sql: str, retried: bool) -> None:
    assert session_effects.only_sets(sql, sql, None) is retried
