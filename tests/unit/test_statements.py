"""What a statement's text says: read too carefully rather than too boldly."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_resilient_pg.sql.lexer import bare
from django_resilient_pg.sql.session_effects import effect_of
from django_resilient_pg.sql.statements import Kind, analyse, ends_transaction

READS = [
    "SELECT 1",
    "  select now()  ;  ",
    "/* a /* nested */ comment */ SELECT 1",
    "-- a comment; with a semicolon\nSELECT 1",
    "(SELECT 1) UNION (SELECT 2)",
    "WITH t AS (SELECT 1) SELECT * FROM t",
    "VALUES (1), (2)",
    "TABLE shop_order",
    "SHOW server_version",
    "EXPLAIN SELECT 1",
    "EXPLAIN (FORMAT JSON) SELECT 1",
    "EXPLAIN (VERBOSE, COSTS off) DELETE FROM x",
    "SELECT update, analyze FROM x",
    "SELECT ';' , 'INSERT INTO x', $$ DELETE FROM y; $$, $a$ ; $$ ; $a$",
    'SELECT "update" FROM "for update"',
    "SELECT E'it\\'s; fine'",
    "SELECT 'a\\'",
    "SELECT E'a'\n'\\'; fine'",
    "SELECT t.e'\\'; fine', (e'\\';')",
    "SELECT $1, %s FROM x WHERE y = %(name)s",
    "SELECT 'it''s' || U&'\\0441'",
]
WRITES = [
    "INSERT INTO x VALUES (1)",
    "update x set y = 1",
    "DELETE FROM x",
    "MERGE INTO x USING y ON true WHEN MATCHED THEN DELETE",
    "WITH gone AS (DELETE FROM x RETURNING *) SELECT * FROM gone",
    "WITH t AS (SELECT 1) INSERT INTO x SELECT * FROM t",
    "SELECT * FROM x FOR UPDATE",
    "SELECT * FROM x FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT * FROM x FOR KEY SHARE",
    "SELECT * INTO y FROM x",
    "WITH u AS (UPDATE skip SET n = n + 1 RETURNING n) SELECT n FROM u",
    "WITH u AS (UPDATE nowait SET n = n + 1 RETURNING n) SELECT n FROM u",
    "WITH u AS (UPDATE of SET n = n + 1 RETURNING n) SELECT n FROM u",
    "WITH u AS (update /* x */ skip AS s SET n = n + 1 RETURNING n) SELECT n FROM u",
    "WITH u AS (UPDATE\nONLY(skip) SET n = n + 1 RETURNING n) SELECT n FROM u",
    'WITH u AS (UPDATE"skip"SET n = n + 1 RETURNING n) SELECT n FROM u',
    "WITH u AS (DELETE FROM skip RETURNING n) SELECT n FROM u",
    "SELECT * FROM x FOR UPDATE NOWAIT",
    "SELECT * FROM x FOR UPDATE OF x SKIP LOCKED",
    "SELECT U&\"w\" UESCAPE '!' ()",
    "SELECT u&\"set\\005fconfig\"('app.tenant', '2', false)",
    'SELECT 1 AS U&"a"',
    'EXPLAIN U&"a"',
]
UNREPEATABLE = [
    "SELECT 1; SELECT 2",
    "SELECT name'\\'; INSERT INTO x VALUES (1); SELECT '1'",
    "SELECT E'a'\n'\\' , '; INSERT INTO x VALUES (1); --'",
    "SELECT E'a' -- b\r'\\' , '; INSERT INTO x VALUES (1); --'",
    "SELECT 1 --\r; INSERT INTO x VALUES (1)",
    "SELECT $€$ ' $€$; INSERT INTO x VALUES (1); --'",
    "SELECT 1 AS €$$; INSERT INTO x VALUES (1); --$$",
    "SELECT 1; COMMIT; INSERT INTO x VALUES (1)",
    "SELECT 'a\\'; DELETE FROM x; --'",
    "CALL p()",
    "DO $$ BEGIN PERFORM 1; END $$",
    "COPY x FROM STDIN",
    "BEGIN",
    "COMMIT",
    "PREPARE TRANSACTION 'x'",
    "EXECUTE q",
]
OTHERS = [
    "CREATE TABLE x ()",
    "VACUUM",
    "EXPLAIN ANALYZE DELETE FROM x",
    "EXPLAIN (ANALYZE, FORMAT JSON) DELETE FROM x",
    'EXPLAIN ("analyze") DELETE FROM x',
    "EXPLAIN (\"analyse\" 'on') SELECT f()",
    "\u017fELECT 1",
    "REFRESH MATERIALIZED VIEW v",
    "",
]


@pytest.mark.parametrize("sql", READS)
def test_a_read_is_recognised_however_it_is_written(sql: str) -> None:
    assert analyse(sql).kind is Kind.READ


@pytest.mark.parametrize("sql", WRITES)
def test_a_write_is_never_taken_for_a_read(sql: str) -> None:
    assert analyse(sql).kind is Kind.WRITE


@pytest.mark.parametrize("sql", UNREPEATABLE)
def test_what_may_commit_inside_is_told_apart(sql: str) -> None:
    assert analyse(sql).kind is Kind.UNREPEATABLE


@pytest.mark.parametrize("sql", OTHERS)
def test_anything_else_counts_as_neither(sql: str) -> None:
    assert analyse(sql).kind is Kind.OTHER


def test_a_backslash_is_not_trusted_without_standard_strings() -> None:
    """With standard_conforming_strings off, 'a\\' does not end where it seems to."""
    assert analyse("SELECT 'a\\'", standard_strings=False).kind is Kind.UNREPEATABLE


@pytest.mark.parametrize(
    ("sql", "functions"),
    [
        ("SELECT count(*), pg_notify('a', 'b') FROM x", {"count", "pg_notify"}),
        ("SELECT app.do_it (1)", {"do_it"}),
        ('SELECT "Do""It"(1)', {'Do"It'}),
        ("SELECT CAST(x AS numeric(10, 2))", {"cast"}),
        ("SELECT * FROM unnest(%s) AS t(a, b)", {"unnest"}),
        ("WITH t(a, b) AS (SELECT 1, 2) SELECT * FROM t", {"as"}),
        ("WITH t(a) AS NOT MATERIALIZED (SELECT f(1)) SELECT 1", {"f", "materialized"}),
        ("WITH t(a) AS (VALUES (1)) SELECT 1", {"as", "values"}),
        ("WITH t(a) AS ((SELECT f(1))) SELECT 1", {"as", "f"}),
        ("SELECT * FROM f('x') AS (a int)", {"as", "f"}),
        ("SELECT * FROM f('x') AS (values int, selected int)", {"as", "f"}),
        ("SELECT 'f(1)' -- g(2)\n /* h(3) */", set()),
        ("SELECT NEXTVAL('s')", {"nextval"}),
        ("SELECT \u212aNOISE(1)", {"\u212anoise"}),
    ],
)
def test_every_function_called_is_named(sql: str, functions: set[str]) -> None:
    """Keywords may be among them: the server knows them better than a list here."""
    assert analyse(sql).functions == functions


@pytest.mark.parametrize(
    ("sql", "pins"),
    [
        ("SET search_path TO a", "SET search_path"),
        ("set session authorization joe", "set session"),
        ("RESET ALL", "RESET ALL"),
        ("SET LOCAL x = 1", ""),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", ""),
        ("SET CONSTRAINTS ALL IMMEDIATE", ""),
        ("SET local.tenant = '5'", "SET local.tenant"),
        ("SET LOCAL /* of ours */ . tenant TO 5", "SET LOCAL"),
        ("SET transaction.id = '5'", "SET transaction.id"),
        ("SET constraints.name = '5'", "SET constraints.name"),
        ("SET LOCAL local.tenant = '5'", ""),
        ("LISTEN news", "LISTEN news"),
        ("CREATE TEMP TABLE x ()", "CREATE TEMP TABLE"),
        ("CREATE TABLE temp_x ()", ""),
        ("SELECT 1 INTO TEMPORARY x", "SELECT INTO TEMPORARY"),
        ("SELECT pg_advisory_lock(1)", "pg_advisory_lock"),
        ("SELECT pg_try_advisory_lock(1)", "pg_try_advisory_lock"),
        ("SELECT pg_advisory_xact_lock(1)", ""),
        ('SELECT "pg_advisory_lock_shared" (1)', "pg_advisory_lock"),
        ("SELECT pg_advisory_unlock_all()", "pg_advisory_unlock"),
        ("SELECT pg_advisory_lock FROM pg_advisory_lock_log", ""),
        ("INSERT INTO weather_advisory VALUES ('pg_advisory_lock(1)')", ""),
        ("INSERT INTO pg_temp.t VALUES (1)", ""),
        ("SELECT U&\"set\\005fconfig\"('app.tenant', '2', false)", 'a name written U&"..."'),
        ("SELECT * FROM t WHERE U&\"a!0062\" UESCAPE '!' = 1", 'a name written U&"..."'),
        ("SELECT U&'\\0441'", ""),
        ("SELECT set_config('a', 'b',\u00a0true)", "set_config"),
        ("CREATE TEMP TABLE t (on\u00a0commit drop)", "CREATE TEMP TABLE"),
        ("SELECT set_config('app.tenant', %s, false)", "set_config"),
        ("SELECT SET_CONFIG('app.tenant', %s, %s)", "set_config"),
        ("SELECT set_config('app.tenant', %s, true)", ""),
        ("SELECT set_config('a', %s, true), set_config('b', %s, false)", "set_config"),
        ("SELECT set_config('a', 'set_config(1, true)', false)", "set_config"),
        ("SELECT set_config('a', %s, false) /* set_config('a', 'b', true) */", "set_config"),
        ("PREPARE q AS SELECT 1", "PREPARE q"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "DECLARE c"),
        ("DISCARD ALL", "DISCARD ALL"),
        ("INSERT INTO settings VALUES ('SET x')", ""),
    ],
)
def test_what_a_new_session_would_lack_pins_the_connection(sql: str, pins: str) -> None:
    assert analyse(sql).pins == pins


@given(st.text())
def test_any_text_can_be_read(sql: str) -> None:
    analyse(sql)


@given(st.text(alphabet="ab'\"$-/*;e\\ \n", max_size=40))
def test_a_statement_after_any_ended_prefix_is_seen(prefix: str) -> None:
    """Whatever came before: when the prefix leaves nothing open, the second statement shows."""
    if bare(prefix + "\n;X") == bare(prefix + "\n") + ";X":
        assert analyse(f"SELECT 1 {prefix}\n;DELETE FROM x").kind is not Kind.READ


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "/* by hand */ commit and chain",
        "END;",
        "abort",
        "ROLLBACK WORK",
        "PREPARE TRANSACTION 'x'",
        "COMMIT; BEGIN",
        "INSERT INTO x VALUES (1); commit",
    ],
)
def test_what_may_end_a_transaction(sql: str) -> None:
    assert ends_transaction(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'COMMIT'",
        "INSERT INTO x VALUES ('a; COMMIT')",
        "SAVEPOINT x",
        "ROLLBACK TO SAVEPOINT x",
        "ROLLBACK WORK TO x",
        "PREPARE x AS SELECT 1",
        "CREATE TABLE commit_log (x int)",
        "-- COMMIT\nCREATE TABLE ends ()",
        "SELECT 1; SELECT 2",
    ],
)
def test_what_ends_no_transaction(sql: str) -> None:
    assert not ends_transaction(sql)


# -- work ---------------------------------------------------------------------------------------

#: What a text can hold many of: strings and names are often the users' own.
MANY: dict[str, Callable[[int], str]] = {
    "doubled quotes in set_config": lambda n: "SELECT set_config('a', 'x" + "''" * n + "', false)",
    "doubled quotes": lambda n: "SELECT 'x" + "''" * n + "y' WHERE set_config(1",
    "doubled double quotes": lambda n: 'SELECT "x' + '""' * n + 'y" FROM t',
    "names": lambda n: "SELECT " + '"x"' * n + ' "',
    "set_config": lambda n: "SELECT " + ", ".join(["set_config('a.b', %s, true)"] * n),
    "set_config in a string": lambda n: "SELECT set_config('a','" + "set_config(" * n + "', false)",
    "calls": lambda n: "INSERT INTO temp VALUES " + ", ".join(["(now())"] * n),
    "casts": lambda n: "SELECT " + ", ".join(["CAST(%s AS numeric(3))"] * n) + " FROM temp",
    "comments within comments": lambda n: "SELECT 1 " + "/*" * n + "*/" * n,
    "comments": lambda n: "SELECT 1 " + "/* set_config( */" * n,
    "continued strings": lambda n: "SELECT E'a'" + "-- it's\n" * n,
    "semicolons": lambda n: "SET a.b = 1" + ";" * n,
    "statements": lambda n: "SELECT set_config('a.b', 'c', true);" * n,
    "blanks": lambda n: "SET a.b" + " " * n + "x",
    "a long word": lambda n: "SELECT " + "temp" * n,
    "dollars": lambda n: "SELECT " + "$a" * n + " FROM temp",
    "dots": lambda n: "SET " + '"a".' * n + "b = 1",
    "parentheses": lambda n: "SELECT set_config" + "(" * n + ")" * n,
    "INTO": lambda n: "SELECT " + "INTO " * n + " temp",
    "UPDATE": lambda n: "SELECT " + "UPDATE " * n + " temp",
}


@pytest.mark.parametrize("made", MANY.values(), ids=MANY)
def test_the_work_grows_with_the_text_and_no_faster(made: Callable[[int], str]) -> None:
    """Many times over the bound for what is squared, and for ever for what is exponential."""

    def stop(*_: object) -> None:
        raise TimeoutError("too much work")

    sql = made(20_000)
    before = signal.signal(signal.SIGPROF, stop)
    # Seconds of this process at work, however busy the machine is; most take a few milliseconds.
    signal.setitimer(signal.ITIMER_PROF, 5)
    try:
        analyse(sql)
        effect_of(sql, sql, None)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
