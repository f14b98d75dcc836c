"""What the server makes of a text, beside what is read out of it: a second statement shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_resilient_pg.driver.choose import link_to
from django_resilient_pg.recovery.catalogue import why_may_write
from django_resilient_pg.sql.statements import Kind, analyse
from testproject.postgres import Server
from tests.engines import Connections

pytestmark = pytest.mark.once_per_driver

SECOND = "; INSERT INTO seen VALUES (1); --"

# Types whose names end as a string's prefix does, or with what only PostgreSQL calls a letter.
PREFIXES = ["", "e", "E", "n", "N", "U&", "x", "b", "name ", "name", "te", "€e", "€", "tu"]
PREFIXES += ['text "u" , ']
BODIES = ["\\", "''", "'", "a", "0", " , ", SECOND, "\n", "\r", "--", "/*", "*/", "$$", "$€$"]
BODIES += ["€$$"]
BETWEEN = [", ", "\n", " -- c\r", "-- '\n", "/* ' */", "/*/* '*/*/ , ", " , $$ ' $$ , "]
BETWEEN += [", $€$ ' $€$ , ", " , $a$ $$ ' $a$ ,", ' AS "\'" , ', " AS a$$ , ", ", 1 AS e, "]
literals = st.builds(
    "{}'{}'{}".format,
    st.sampled_from(PREFIXES),
    st.lists(st.sampled_from(BODIES), max_size=4).map("".join),
    st.sampled_from(BETWEEN),
)


@pytest.fixture(scope="module")
def raw(server: Server) -> Iterator[Any]:
    """The driver's own connection, in autocommit."""
    server.create_database("lexing")
    made = Connections(server)
    connection = made(database="lexing")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE seen (x int)")
        for name in ("te", "€e", "€", "tu"):
            cursor.execute(f'CREATE DOMAIN "{name}" AS text')
    if hasattr(connection.connection, "prepare_threshold"):
        connection.connection.prepare_threshold = None
    yield connection.connection
    made.close()
    server.drop_database("lexing")


def took_effect(raw: Any, sql: str) -> bool:
    """Whether the second statement in ``sql`` was one for the server."""
    with raw.cursor() as cursor:
        with suppress(raw.Error):
            cursor.execute(sql)
        cursor.execute("DELETE FROM seen")
        return bool(cursor.rowcount)


@pytest.mark.parametrize("standard", ["on", "off"])
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=st.lists(literals, min_size=1, max_size=3), end=st.sampled_from(["'1'", "1", "", "'"]))
@example(parts=["name'\\'" + SECOND + "\n"], end="; SELECT '1'")
@example(parts=["E'a'\n'\\' , '"], end=SECOND + "'")
@example(parts=["E'a' -- b\n'\\' , '"], end=SECOND + "'")
@example(parts=["1 --\r"], end=SECOND)
@example(parts=["$€$ ' $€$"], end=SECOND + "'")
@example(parts=["1 AS €$$"], end=SECOND + "$$")
@example(parts=["€e'\\'"], end=SECOND + "'")
@example(parts=["'\\' , '"], end=SECOND + "'")
def test_a_second_statement_that_took_effect_was_seen(
    raw: Any, standard: str, parts: list[str], end: str
) -> None:
    sql = "SELECT " + "".join(parts) + end
    with raw.cursor() as cursor:
        cursor.execute(f"SET standard_conforming_strings = {standard}")
        cursor.execute("SET client_min_messages = error")
    if took_effect(raw, sql):
        seen = analyse(sql, standard_strings=standard == "on")
        assert seen.kind is Kind.UNREPEATABLE, sql


# What calls the function in one way or another, if nothing before it hides it.
CALLS = [
    "writes(1)",
    "WRITES\n(1)",
    '"writes"(1)',
    "public . /* ( */ writes /**/ (1)",
    "one.writes",
    '(one)."writes"',
    "1 <+> 1",
    "1 OPERATOR(public.<+>) 1",
    "1::marked",
    "CAST(1 AS marked)",
    "marked '1'",
    "(TABLE acting)",
    "(SELECT n FROM acting LIMIT 1)",
    'U&"wr\\0069tes"(1)',
    "$1",
]
calls = st.sampled_from(CALLS)


@pytest.fixture(scope="module")
def writing(raw: Any) -> Any:
    """The same connection; its database has what writes without saying so."""
    with raw.cursor() as cursor:
        for sql in (
            "SET standard_conforming_strings = on",  # as texts are read below
            "CREATE FUNCTION writes(n int) RETURNS int VOLATILE LANGUAGE sql"
            " AS 'INSERT INTO seen VALUES ($1) RETURNING 1'",
            "CREATE TABLE one (n int)",
            "INSERT INTO one VALUES (1)",
            "CREATE FUNCTION writes(o one) RETURNS int LANGUAGE sql AS 'SELECT writes(1)'",
            "CREATE FUNCTION meets(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT writes($1)'",
            "CREATE OPERATOR <+> (leftarg = int, rightarg = int, function = meets)",
            "CREATE DOMAIN marked AS int CHECK (writes(VALUE) = 1)",
            "CREATE VIEW acting AS SELECT writes(1) AS n",
        ):
            cursor.execute(sql)
    return raw


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    before=st.lists(literals, max_size=2).map("".join),
    call=calls,
    after=st.one_of(st.just(""), literals, st.sampled_from([" --", " /* x", " AS a"])),
)
@example(before="E'\\''", call="writes(1)", after="")
def test_a_call_that_took_effect_is_asked_about(
    writing: Any, before: str, call: str, after: str
) -> None:
    """Whatever stands around it: it counts as a write, or the catalogues tell."""
    between = "" if not before or before.rstrip().endswith(",") else ", "
    sql = f"SELECT {before}{between}{call}{after} FROM one"
    if not took_effect(writing, sql):
        return
    if analyse(sql).kind is Kind.READ:
        assert why_may_write(link_to(writing), [sql]), sql


@pytest.mark.parametrize("call", [call for call in CALLS if call != "$1"])
def test_the_calls_do_write(writing: Any, call: str) -> None:
    """Otherwise the test above would prove nothing."""
    assert took_effect(writing, f"SELECT {call} FROM one")


def test_the_server_does_run_them(raw: Any) -> None:
    """Otherwise the test above would prove nothing."""
    with raw.cursor() as cursor:
        cursor.execute("SET standard_conforming_strings = on")
    for sql in (
        "SELECT name'\\'" + SECOND,
        "SELECT E'a'\n'\\' , '" + SECOND,
        "SELECT E'a' -- b\n'\\' , '" + SECOND,
        "SELECT 1 --\r" + SECOND,
        "SELECT $€$ ' $€$" + SECOND + "'",
        "SELECT 1 AS €$$" + SECOND + "$$",
    ):
        assert took_effect(raw, sql), sql
