"""What a text names, for the question that the catalogues are asked."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_resilient_pg.sql.names import names_of


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ('SELECT a."B""c" FROM Shop_Order -- d', {"select", "a", 'B"c', "from", "shop_order"}),
        ("SELECT 'x', $$y$$, E'z' /* w */", {"select"}),
        ("SELECT 7::BIGINT", {"select", "bigint", "int8"}),
        ("SELECT 1.5e3, 0x1F, a1 FROM t", {"select", "a1", "from", "t"}),
        # The encoding of the database decides, so both are asked for.
        ("TABLE \u00c4\u212a", {"table", "\u00c4\u212a", "\u00e4k"}),
        ('TABLE "\u212a"', {"table", "\u212a"}),
    ],
)
def test_every_name_counts(sql: str, words: set[str]) -> None:
    assert names_of(sql).words == words


@pytest.mark.parametrize(
    ("sql", "calls", "functions"),
    [
        ("SELECT count(*), app.do_it (1)", {"count", "do_it"}, {"count", "do_it"}),
        ('SELECT "Do""It"(1)', {'Do"It'}, {'Do"It'}),
        # An alias with columns is looked up too, but need not be a function.
        ("SELECT * FROM unnest(%s) t(a)", {"unnest", "t"}, {"unnest"}),
        ("SELECT * FROM unnest(%s) AS t(a)", {"unnest", "t"}, {"unnest"}),
        ("SELECT * FROM f(1) WITH ORDINALITY t(a, n)", {"f", "t"}, {"f"}),
        ("SELECT * FROM (VALUES (1)) v (a)", {"from", "values", "v"}, {"from", "values"}),
        ("SELECT * FROM f('x') t (a int)", {"f", "t"}, {"f"}),
        ("SELECT DISTINCT ON (a) f(b)", {"on", "f"}, {"on"}),
        ("SELECT (a), f(b)", {"select", "f"}, {"select", "f"}),
        ("WITH t(a, b) AS (SELECT f(1)) SELECT 1", {"t", "as", "f"}, {"f"}),
        ("SELECT CAST(x AS numeric(3))", {"cast", "numeric"}, {"cast"}),
        ("SELECT \u212anoise(1)", {"\u212anoise", "knoise"}, {"\u212anoise"}),
    ],
)
def test_what_stands_before_a_parenthesis(sql: str, calls: set[str], functions: set[str]) -> None:
    found = names_of(sql)
    assert set(found.calls) == calls
    assert set(found.functions) == functions


@pytest.mark.parametrize(
    ("sql", "fields"),
    [
        ('SELECT t.f, (t).g, (f(1)) . /* x */ "H" FROM s.t', {"f", "g", "H", "t"}),
        ("SELECT s.f(1)", set()),
        ("SELECT a, b", set()),
        ("SELECT t.*, 1.5", set()),
    ],
)
def test_what_stands_after_a_dot(sql: str, fields: set[str]) -> None:
    assert names_of(sql).fields == fields


@pytest.mark.parametrize(
    ("sql", "operators"),
    [
        ("SELECT a+-b, c <-> d", {"+-", "<->"}),
        ("SELECT a OPERATOR(public.=) b", {"="}),
        ("SELECT a--b", set()),
        ("SELECT a /* + */ FROM t", set()),
    ],
)
def test_operators_are_taken_as_they_are_written(sql: str, operators: set[str]) -> None:
    assert names_of(sql).operators == operators


@given(st.text())
def test_any_text_can_be_read(sql: str) -> None:
    names_of(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "a." * 50_000 + "b",
        "SELECT " + "f(" * 50_000,
        "SELECT " + "f (a, b) AS " * 20_000,
        'SELECT "' + '""' * 50_000,
        "SELECT " + "+" * 100_000,
        "SELECT " + "\u00c4" * 100_000,
    ],
    ids=["dots", "calls", "columns", "quotes", "operators", "a long name"],
)
def test_the_work_grows_with_the_text_and_no_faster(sql: str) -> None:
    def stop(*_: object) -> None:
        raise TimeoutError("too much work")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, 5)
    try:
        names_of(sql)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
