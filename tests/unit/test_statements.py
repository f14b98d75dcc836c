"""What a statement's text says: read too carefully rather than too boldly."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_resilient_pg.sql.lexer import bare
from django_resilient_pg.sql.memory import LONGEST_READ
from django_resilient_pg.sql.session_effects import effect_of
from django_resilient_pg.sql.statements import (
    Kind,
    analyse,
    ends_transaction,
    is_plain,
    left_by_failure,
    read_well,
)

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
    "SELECT $$ several\nlines; DELETE FROM y $$",
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
        ("with t(a, b) as (select 1, 2) select * from t", {"as"}),
        ("SELECT * FROM f('x') AS (a int)", {"as", "f"}),
        ("SELECT * FROM f('x')\u2003AS (SELECT 1)", {"\u2003as", "f"}),
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
        # Names of settings, for the server: what is not ASCII is a letter, and so is a dollar.
        ("SET local\u00e9.tenant = '5'", "SET local\u00e9.tenant"),
        ("SET local\u20ac.tenant = '5'", "SET local\u20ac.tenant"),
        ("SET local$1.tenant = '5'", "SET local$1.tenant"),
        ("SET transaction\u00a0b.c = '5'", "SET transaction"),
        ('SET LOCAL"app.tenant" = 5', ""),
        ("SET CONSTRAINTS ALL\tDEFERRED", ""),
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
        # In any case, and anywhere in the text.
        ("SET x=1", "SET x"),
        ("set local x = 1", ""),
        ("update PG_SETTINGS set setting = 1", "UPDATE pg_settings"),
        ("SELECT * FROM pg_settings", ""),
        ("UPDATE x SET a = 1", ""),
        ("select PG_ADVISORY_LOCK(1)", "PG_ADVISORY_LOCK"),
        ("SELECT SETSEED(0.5)", "setseed"),
        ("SELECT SET_CONFIG('a.b', 'c', TRUE)", ""),
        ("create temp table x ()", "create temp table"),
        ("create or replace temporary view x as select 1", "create or replace temporary view"),
        ("create table pg_temp.x ()", "create table pg_temp"),
        ("create temp table x () on commit drop", ""),
        ('create temp table "on commit drop" ()', "create temp table"),
        ("select 1 into temp x", "SELECT into temp"),
        ("INSERT INTO temp VALUES (1)", ""),
        ("do $$ begin set x = 1; end $$", "DO with set"),
        ("DO $$ BEGIN PERFORM 1; END $$", ""),
        ("SELECT 1; DO $$ BEGIN SET x = 1; END $$", "DO with SET"),
        ("DO $$ BEGIN SET x = 1; END $$; SELECT 1", "DO with SET"),
        ("SELECT 1; SET x = 1", "SET x"),
        ("SELECT 1; SELECT 'SET x'", ""),
        ("SELECT 1; SET LOCAL x = 1", ""),
        ("SELECT 1; CREATE TEMP TABLE x ()", "CREATE TEMP TABLE"),
        ("DECLARE c CURSOR FOR SELECT 1", ""),
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


CONTROL = "BEGIN START COMMIT END ROLLBACK ABORT SAVEPOINT RELEASE PREPARE".split()


@pytest.mark.parametrize("word", [*CONTROL, "CALL", "DO", "COPY", "EXECUTE"])
def test_what_controls_a_transaction_is_told_apart(word: str) -> None:
    for text in (f"{word} x", f"{word.lower()} x", f"SELECT 1; {word} x"):
        assert analyse(text).kind is Kind.UNREPEATABLE
        assert analyse(text).controls is (word in CONTROL), text


@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT 1; SELECT 2", "SELECT 'COMMIT'", "SET x = 1"])
def test_what_controls_none(sql: str) -> None:
    assert not analyse(sql).controls


@pytest.mark.parametrize(
    "word", "SET RESET LISTEN UNLISTEN DISCARD LOAD PREPARE DEALLOCATE DECLARE CLOSE".split()
)
def test_every_word_that_changes_a_session_pins(word: str) -> None:
    held = " CURSOR WITH\nHOLD FOR SELECT 1" if word == "DECLARE" else ""
    assert analyse(f"{word} x{held}").pins == f"{word} x"


@pytest.mark.parametrize(
    ("sql", "passes"),
    [
        ("SELECT 1", True),
        ("SET LOCAL x = 1", True),
        ("SET TRANSACTION READ ONLY", True),
        ("SET x = 1", False),
        ("RESET x", False),
        ("VACUUM", False),
        ("CREATE TABLE x ()", False),
        ("INSERT INTO x VALUES (1)", False),
        ("COMMIT", False),
    ],
)
def test_what_does_not_outlive_its_transaction(sql: str, passes: bool) -> None:
    assert analyse(sql).passes is passes


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("SELECT a FROM x", True),
        ("SELECT f(a) FROM x", False),
        ("SELECT '\\'", False),
        ("INSERT INTO x VALUES (1)", False),
        (None, False),
        (b"SELECT 1", False),
    ],
)
def test_what_reads_without_a_call(text: object, plain: bool) -> None:
    assert is_plain(text) is plain


@pytest.mark.parametrize(
    ("texts", "setting", "well"),
    [
        ([], None, True),
        (["SELECT 1"], None, True),
        (["SELECT '\\'"], "on", True),
        (["SELECT '\\'"], "off", False),
        (["SELECT '\\'"], None, False),
        (["SELECT 1", "SELECT '\\'"], "off", False),
        (["SET Standard_Conforming_Strings = on", "SELECT '\\'"], "on", False),
    ],
)
def test_a_backslash_is_read_well_where_the_setting_is_known(
    texts: list[str], setting: str | None, well: bool
) -> None:
    assert read_well(texts, setting) is well


@pytest.mark.parametrize(
    ("text", "many", "left"),
    [
        ("SELECT 1", False, ""),
        ("SELECT 1", True, ""),
        ("SELECT pg_advisory_lock(1), f()", False, "lock"),
        ("SELECT 'pg_advisory_lock(1)'", False, ""),
        ("SELECT '\\', 'pg_advisory_lock(1)'", False, "lock"),
        ("SET x = 1", False, ""),
        ("SET x = 1", True, "setting"),
        ("SET x = 1; SELECT f()", False, "setting"),
        ("SELECT '\\'; SET x = 1", False, "setting"),
        ("SELECT E'\\'; SET x = 1'", False, "setting"),
        ("SELECT E'\\' SET x = 1'", False, ""),
        ("SELECT ';', 'SET x = 1'", False, ""),
        ("SELECT E'\\';'", False, ""),
    ],
)
def test_what_a_statement_that_failed_may_have_left(text: str, many: bool, left: str) -> None:
    found = left_by_failure(text, many=many)
    assert (left in found) if left else found == ""


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("select * from x for update", Kind.WRITE),
        ("SELECT * FROM x FOR\u00a0UPDATE", Kind.READ),
        ("explain analyze select 1", Kind.OTHER),
        ("explain select 1", Kind.READ),
        ("merge into x using y on true when matched then delete", Kind.WRITE),
        ("SELECT 1\x00", Kind.UNREPEATABLE),
        ("SELECT 1 ;\f\v\r\n", Kind.READ),
    ],
)
def test_kinds_are_told_in_any_case(sql: str, kind: Kind) -> None:
    assert analyse(sql).kind is kind


def test_the_first_word_is_told_in_upper_case() -> None:
    assert analyse("  (select 1)").keyword == "SELECT"
    assert analyse("...").keyword == ""


@pytest.mark.parametrize(
    ("sql", "without", "within"),
    [
        ("SELECT 'a', \"b\"", "SELECT  '' , \"b\"", "SELECT 'a', \"b\""),
        ("SELECT 1 -- x\n+ 2", "SELECT 1  \n+ 2", "SELECT 1  \n+ 2"),
        ("SELECT /* a /* b */ c */ 1", "SELECT   1", "SELECT   1"),
        ("SELECT $a$ ; $a$", "SELECT  '' ", "SELECT $a$ ; $a$"),
        ("SELECT /* a /* b */ 1", "SELECT  ", "SELECT  "),
    ],
)
def test_strings_and_comments_are_blanked(sql: str, without: str, within: str) -> None:
    assert bare(sql) == without
    assert bare(sql, strings=True) == within


@pytest.mark.parametrize("word", ["SELECT", "INSERT", "UPDATE", "DELETE", "select"])
def test_data_need_not_be_read_to_see_that_nothing_ends(word: str) -> None:
    long = "x" * (LONGEST_READ + 1)
    assert not ends_transaction(f"{word} {long}")
    assert not ends_transaction(f"{word} 'a; COMMIT', {long}")
    assert ends_transaction(f"{word} 1; COMMIT")


def test_what_is_too_long_to_read_may_end_a_transaction() -> None:
    longest = "VACUUM ".ljust(LONGEST_READ, "x")
    assert not ends_transaction(longest)
    assert ends_transaction(longest + "x")


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
