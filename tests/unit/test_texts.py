"""Strings told by their quotes alone: never where the lexer would say otherwise."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_resilient_pg.sql import local_settings, memory, session_effects, statements
from django_resilient_pg.sql.lexer import bare
from django_resilient_pg.sql.statements import ends_transaction
from django_resilient_pg.sql.texts import without_strings
from django_resilient_pg.state.session import Session, Where

PIECES = st.sampled_from(
    [*"'\"\\$-/;\n\r eEbé(", "''", '""', "$a$", "--", "/*", "*/", "U&", "x1", "COMMIT", "%s", "\\'"]
)


@settings(max_examples=2000)
@given(st.lists(PIECES, max_size=60).map("".join))
@example("e'\\'' ; '")
@example("SELECT 1 AS \"it's\" ; COMMIT --'")
@example("'' " * 20 + "; $a$'$a$")
def test_what_is_left_is_what_the_lexer_leaves(sql: str) -> None:
    assert bare(without_strings(sql) or sql) == bare(sql)


@pytest.mark.parametrize("count", [1, 40])
def test_strings_are_emptied(count: int) -> None:
    rows = ", ".join(["('it''s; -- a \"row\" $1 /* C:\\')"] * count)
    sql = f'INSERT INTO "t" VALUES {rows} ON CONFLICT ("id") DO NOTHING'
    outside = without_strings(sql)
    assert outside is not None
    rows = ", ".join(["('''')"] * count)
    assert outside == f'INSERT INTO "t" VALUES {rows} ON CONFLICT ("id") DO NOTHING'


# -- what long texts cost -------------------------------------------------------------------------

LITERAL = "lorem; temp set_config( "
ROW = f"('{LITERAL}', 1)"
LONG = {
    "one literal": f"INSERT INTO \"t\" VALUES ('{LITERAL * 50_000}')",
    "rows": f"INSERT INTO t VALUES {', '.join([ROW] * 40_000)}",
    "a path of Windows": f"UPDATE t SET v = 'C:\\temp; {LITERAL * 50_000}'",
    "a script": f"CREATE TABLE t (); INSERT INTO t VALUES ('{LITERAL * 50_000}'); SELECT 1",
    "a function": f"CREATE FUNCTION f() AS $$ {LITERAL * 50_000} $$",
    "a comment": f"INSERT INTO t VALUES (1) /* {LITERAL * 50_000} */",
}


@pytest.fixture
def lexed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the texts that are lexed from now on, which takes a microsecond for ten."""
    lengths: list[int] = []

    def counting(sql: str, **how: bool) -> str:
        lengths.append(len(sql))
        return bare(sql, **how)

    for module in (statements, session_effects, local_settings):
        monkeypatch.setattr(module, "bare", counting)
    return lengths


@pytest.mark.parametrize("sql", LONG.values(), ids=LONG)
def test_a_long_text_is_not_lexed(sql: str, lexed: list[int]) -> None:
    for where in (Where.AUTOCOMMIT, Where.TRANSACTION):
        Session().note(sql, None, where)
    ends_transaction(sql)
    assert not lexed


@pytest.mark.parametrize("name", ["one literal", "rows", "a path of Windows"])
def test_a_long_text_without_effect_pins_nothing(name: str) -> None:
    made = Session()
    made.note(LONG[name])
    assert not made.holds
    assert not ends_transaction(LONG[name])


@pytest.mark.parametrize("name", ["a script", "a function", "a comment"])
def test_a_long_text_that_cannot_be_told_pins(name: str) -> None:
    made = Session()
    made.note(LONG[name])
    assert made.pinned_by == "a text too long to be read"


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES ('{}'); SET search_path TO b",
        "INSERT INTO t VALUES ('{}', set_config('app.tenant', '2', false))",
        "INSERT INTO t VALUES (E'\\'{}'); SET app.tenant = '2' --')",
        "SELECT '{}', 1 AS \"'\"; SET a.b = ';'",
    ],
)
def test_what_stands_outside_of_a_long_string_is_read(sql: str) -> None:
    made = Session()
    made.note(sql.format("x" * memory.LONGEST))
    assert made.holds


def test_a_long_text_is_read_by_the_rules_of_its_session() -> None:
    """Where a backslash escapes, a string ends elsewhere than its quotes say."""

    class Driver:
        class info:
            @staticmethod
            def parameter_status(name: str) -> str:
                return "off"

    made = Session()
    sql = f"INSERT INTO t VALUES ('{'x' * memory.LONGEST}\\'; SET a.b = 1 --')"
    made.note(sql, driver=Driver())
    assert made.holds


def test_what_was_remembered_is_not_taken_for_another_text() -> None:
    """Where the quotes do not tell the strings, two texts may look the same without them."""
    padding = "x" * memory.LONGEST
    memory.is_harmless(f"SELECT 1 {padding} /* '' */")
    assert not memory.is_harmless(f"SELECT 1 {padding} /* ' */; SET a.b = 1; /* ' */")
    memory.is_harmless(f"SELECT 1 {padding} AS \"''\"")
    assert not memory.is_harmless(f'SELECT 1 {padding} AS "\'"; SET a.b = 1; SELECT 1 AS "\'"')


def test_few_long_texts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: set[str] = set()
    monkeypatch.setattr(memory, "_LONG", kept)
    for number in range(200):
        Session().note(f"INSERT INTO t VALUES {'(%s, %s), ' * 1000}({number})")
    assert 0 < len(kept) <= 128
    Session().note(f"INSERT INTO t VALUES {'(%s, %s), ' * 100_000}(1)")
    assert max(map(len, kept)) < 100_000
