"""What the server makes of a text, beside what is read out of it: a second statement shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_resilient_pg.statements import Kind, analyse
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
