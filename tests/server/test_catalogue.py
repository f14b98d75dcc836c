"""A read whose write only the database sees is neither retried, nor replayed, nor lost silently.

The texts below call nothing that looks like a function that writes. Each is run twice over: with a
function behind it that writes, and with the same function declared STABLE, which writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from django.db import Error

from django_resilient_pg.driver.choose import link_to
from django_resilient_pg.errors import CommitOutcomeUnknown, TransactionLost
from django_resilient_pg.recovery import catalogue, questions
from django_resilient_pg.recovery.catalogue import why_may_write
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests import needs
from tests.engines import Connections
from tests.faults.proxy import Proxy
from tests.server.scenarios import DATABASE, TABLE, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]
# The look before COMMIT is left out right after an answer; then the loss is found by COMMIT itself.
TOLD = (TransactionLost, CommitOutcomeUnknown)

# In a READ ONLY transaction it does not write, so that the server refuses nothing: what keeps a
# statement from being retried is the engine alone.
WRITES = f"""CREATE FUNCTION acts(v text) RETURNS text VOLATILE LANGUAGE plpgsql AS $$ BEGIN
    IF current_setting('transaction_read_only') = 'off' THEN
        INSERT INTO {TABLE} (value) VALUES ('x');
    END IF;
    RETURN v; END $$"""
READS = "CREATE FUNCTION acts(v text) RETURNS text STABLE LANGUAGE sql AS $$ SELECT v $$"
PARCEL = "CREATE TYPE parcel AS (v text)"
PARCELS = "CREATE TABLE parcels (p parcel); INSERT INTO parcels VALUES (ROW('x')), (ROW('y'))"
GRANT = "GRANT ALL ON ALL TABLES IN SCHEMA public TO app"


class Case(NamedTuple):
    """What is in the database (``{how}``: VOLATILE or STABLE), and a statement that only reads."""

    sql: str
    made: list[str]


def function(name: str, rest: str, returns: str = "text", body: str = "acts('x')") -> str:
    return (
        f"CREATE FUNCTION {name}({rest}) RETURNS {returns} {{how}} LANGUAGE sql"
        f" AS $$ SELECT {body} $$"
    )


CHECKED = "CREATE DOMAIN checked AS text CHECK (acts(VALUE) IS NOT NULL)"
TO_PARCEL = function("to_parcel", "n int", "parcel", "ROW(acts('x'))::parcel")
OF_PARCEL = function("of_parcel", "p parcel", "bigint", "length(acts((p).v))::bigint")
TO_JSON = function("mood_json", "m mood", "json", "to_json(acts(m::text))")
SAME = function("same", "a parcel, b parcel", "bool", "acts((a).v) = (b).v")
LESS = function("less", "a parcel, b parcel", "bool", "acts((a).v) < (b).v")
COMPARED = function("compared", "a parcel, b parcel", "int", "length(acts((a).v)) - 1")
BEFORE = "CREATE FUNCTION before(a parcel, b parcel) RETURNS bool IMMUTABLE LANGUAGE sql AS $$"
BEFORE += " SELECT (a).v < (b).v $$"
CLASS = """CREATE OPERATOR CLASS parcel_ops DEFAULT FOR TYPE parcel USING btree AS
    OPERATOR 1 <<, OPERATOR 2 <<=, OPERATOR 3 <=>, OPERATOR 4 >>=, OPERATOR 5 >>,
    FUNCTION 1 compared(parcel, parcel)"""
JOINED = function("joined", "state text, v text", body="coalesce(state, '') || acts(v)")
CLOSED = function("closed", "state text", body="acts(state)")
PLAIN = "CREATE FUNCTION keep(state text, v text) RETURNS text IMMUTABLE LANGUAGE sql AS $$"
PLAIN += " SELECT v $$"
SHOUTS = function("shouts", "v text", body="acts(v)")
MEETS = function("meets", "a text, b text", "bool", "acts(a) = b")
ROWS = "(VALUES ('x'), ('y')) AS t(v)"
SECURED = f"""CREATE TABLE secured (v text); INSERT INTO secured VALUES ('x');
    ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON secured USING (acts(v) IS NOT NULL); {GRANT}"""

CASES = {
    "transition function": Case(
        f"SELECT chained(v) FROM {ROWS}",
        [JOINED, "CREATE AGGREGATE chained(text) (sfunc = joined, stype = text)"],
    ),
    "final function": Case(
        f"SELECT chained(v) FROM {ROWS}",
        [
            CLOSED,
            PLAIN,
            "CREATE AGGREGATE chained(text) (sfunc = keep, finalfunc = closed, stype = text)",
        ],
    ),
    "moving aggregate": Case(
        f"SELECT chained(v) OVER (ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) FROM {ROWS}",
        [
            JOINED,
            PLAIN,
            "CREATE AGGREGATE chained(text) (sfunc = keep, stype = text, msfunc = keep,"
            " mstype = text, minvfunc = joined)",
        ],
    ),
    "cast": Case(
        "SELECT 7::parcel",
        [PARCEL, TO_PARCEL, "CREATE CAST (int AS parcel) WITH FUNCTION to_parcel(int)"],
    ),
    "CAST()": Case(
        'SELECT CAST(7 AS "public"."parcel")',
        [PARCEL, TO_PARCEL, "CREATE CAST (int AS parcel) WITH FUNCTION to_parcel(int)"],
    ),
    "cast to what has two names": Case(
        "SELECT (p.p)::BIGINT FROM parcels p",
        [
            PARCEL,
            OF_PARCEL,
            "CREATE CAST (parcel AS bigint) WITH FUNCTION of_parcel(parcel)",
            PARCELS,
            GRANT,
        ],
    ),
    "implicit cast": Case(
        "SELECT abs(p) FROM parcels",
        [
            PARCEL,
            OF_PARCEL,
            "CREATE CAST (parcel AS bigint) WITH FUNCTION of_parcel(parcel) AS IMPLICIT",
            PARCELS,
            GRANT,
        ],
    ),
    "cast of a function's own": Case(
        "SELECT to_jsonb(m) FROM moods",
        [
            "CREATE TYPE mood AS ENUM ('x')",
            "CREATE TABLE moods (m mood); INSERT INTO moods VALUES ('x')",
            GRANT,
            TO_JSON,
            "CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood)",
        ],
    ),
    "attribute": Case(
        "SELECT parcels.weight FROM parcels",
        [PARCEL, PARCELS, GRANT, function("weight", "p parcels", body="acts('x')")],
    ),
    "attribute of an attribute": Case(
        'SELECT (t . p) /* of it */ . "Weight" FROM parcels t',
        [PARCEL, PARCELS, GRANT, function('"Weight"', "p parcel", body="acts('x')")],
    ),
    "attribute with a default": Case(
        "SELECT t.weight FROM parcels t",
        [
            PARCEL,
            PARCELS,
            GRANT,
            function("weight", "p anyelement, unit text DEFAULT 'kg'", body="acts('x')"),
        ],
    ),
    "domain": Case("SELECT 'x'::checked", [CHECKED]),
    "domain as a prefix": Case("SELECT checked 'x'", [CHECKED]),
    "domain as a function": Case("SELECT checked('x')", [CHECKED]),
    "domain over a domain": Case(
        "SELECT 'x'::outer_one", [CHECKED, "CREATE DOMAIN outer_one AS checked"]
    ),
    "array of a domain": Case("SELECT ARRAY['x']::checked[]", [CHECKED]),
    "domain in a type": Case(
        "SELECT ROW('x')::holder", [CHECKED, "CREATE TYPE holder AS (v checked)"]
    ),
    "domain in a row": Case(
        """SELECT jsonb_populate_record(NULL::holders, '{"v": "x"}')""",
        [CHECKED, "CREATE TABLE holders (v checked)", GRANT],
    ),
    "domain of an argument": Case(
        "SELECT takes('x')",
        [
            CHECKED,
            "CREATE FUNCTION takes(v checked) RETURNS text STABLE LANGUAGE sql"
            " AS 'SELECT $1::text'",
        ],
    ),
    "domain of a column definition": Case(
        """SELECT * FROM jsonb_to_record('{"v": "x"}') AS t(v checked)""", [CHECKED]
    ),
    "operator": Case(
        "SELECT 'x' <+> 'y'",
        [MEETS, "CREATE OPERATOR <+> (leftarg = text, rightarg = text, function = meets)"],
    ),
    "operator before its operand": Case(
        "SELECT !!!'x'::text",
        [SHOUTS, "CREATE OPERATOR !!! (rightarg = text, function = shouts)"],
    ),
    "operator by its schema": Case(
        "SELECT 'x' OPERATOR(public.<+>) 'y'",
        [MEETS, "CREATE OPERATOR <+> (leftarg = text, rightarg = text, function = meets)"],
    ),
    "operator of IN": Case(
        "SELECT count(*) FROM parcels WHERE p IN (ROW('x')::parcel)",
        [
            PARCEL,
            SAME,
            "CREATE OPERATOR = (leftarg = parcel, rightarg = parcel, function = same)",
            PARCELS,
            GRANT,
        ],
    ),
    "operator of BETWEEN": Case(
        "SELECT count(*) FROM parcels a WHERE a.p BETWEEN a.p AND a.p",
        [
            PARCEL,
            LESS,
            "CREATE OPERATOR >= (leftarg = parcel, rightarg = parcel, function = less)",
            PARCELS,
            GRANT,
        ],
    ),
    "order of a type": Case(
        "SELECT p FROM parcels ORDER BY p",
        [
            PARCEL,
            COMPARED,
            BEFORE,
            *(
                f"CREATE OPERATOR {name} (leftarg = parcel, rightarg = parcel, function = before)"
                for name in ("<<", "<<=", "<=>", ">>=", ">>")
            ),
            CLASS,
            PARCELS,
            GRANT,
        ],
    ),
    "view": Case("SELECT * FROM acting", ["CREATE VIEW acting AS SELECT acts('x')", GRANT]),
    "TABLE": Case("TABLE public.acting", ["CREATE VIEW acting AS SELECT acts('x')", GRANT]),
    "view of a view": Case(
        'SELECT * FROM "Outer"',
        [
            "CREATE VIEW acting AS SELECT acts('x')",
            'CREATE VIEW "Outer" AS SELECT * FROM acting',
            GRANT,
        ],
    ),
    "view with an operator": Case(
        "SELECT * FROM acting",
        [
            SHOUTS,
            "CREATE OPERATOR !!! (rightarg = text, function = shouts)",
            "CREATE VIEW acting AS SELECT !!!'x'::text",
            GRANT,
        ],
    ),
    "view with a domain": Case(
        "SELECT * FROM acting",
        [CHECKED, f"CREATE VIEW acting AS SELECT v::checked FROM {ROWS}", GRANT],
    ),
    "view with an aggregate": Case(
        "SELECT * FROM acting",
        [
            JOINED,
            "CREATE AGGREGATE chained(text) (sfunc = joined, stype = text)",
            f"CREATE VIEW acting AS SELECT chained(v) FROM {ROWS}",
            GRANT,
        ],
    ),
    "default of an argument": Case(
        "SELECT calm()",
        [
            "CREATE FUNCTION calm(v text DEFAULT acts('x')) RETURNS text STABLE LANGUAGE sql"
            " AS 'SELECT $1'"
        ],
    ),
    "body that is known": Case(
        "SELECT calm()",
        [
            "CREATE FUNCTION calm() RETURNS text STABLE LANGUAGE sql"
            " BEGIN ATOMIC SELECT acts('x'); END"
        ],
    ),
    "row-level security": Case("SELECT count(*) FROM secured", [SECURED]),
    "row-level security below a view": Case(
        "SELECT count(*) FROM acting",
        [
            SECURED,
            "CREATE VIEW acting AS SELECT * FROM secured",
            "ALTER VIEW acting OWNER TO app",
            GRANT,
        ],
    ),
    "name like that of a harmless one": Case(
        "SELECT public.random(1)", [function("random", "n int")]
    ),
    "name that only Python folds": Case(
        "SELECT \u212anoise(1)",
        [
            function("\u212anoise", "n int"),
            "CREATE FUNCTION knoise(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'",
        ],
    ),
    "name longer than names are": Case(
        f"SELECT * FROM {'a' * 70}",
        [f"CREATE VIEW {'a' * 63} AS SELECT acts('x')", GRANT],
    ),
}


@pytest.fixture
def make(server: Server, stage_of: Stages) -> Callable[..., None]:
    """Make what a case needs in the database of the stages."""

    def run(case: Case, how: str) -> None:
        made = ";".join([WRITES if how == "VOLATILE" else READS, *case.made])
        server.execute(made.replace("{how}", how), database=DATABASE)

    return run


cases = pytest.mark.parametrize("name", CASES)


@cases
def test_it_is_not_lost_silently(name: str, make: Callable[..., None], stage_of: Stages) -> None:
    make(CASES[name], "VOLATILE")
    stage = stage_of()
    with pytest.raises(TOLD), stage.atomic():
        stage.run(CASES[name].sql)
        assert ("x",) in stage.run(f"SELECT value FROM {TABLE}"), "it did not write"
        stage.kill()
    assert stage.rows() == []


@cases
def test_it_is_not_done_twice(name: str, make: Callable[..., None], stage_of: Stages) -> None:
    """It is committed on one alias; then the transaction of another one is lost."""
    make(CASES[name], "VOLATILE")
    first, second = stage_of(), stage_of()
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        second.run(CASES[name].sql)
        first.insert("own")
        first.kill()
        first.run("SELECT 1")

    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=first.connection.alias)
    assert len(runs) == 1
    assert "The transaction was not retried: " in caught.value.__notes__[-1]


@cases
def test_it_is_not_taken_for_committed(
    name: str, make: Callable[..., None], stage_of: Stages, proxy: Proxy
) -> None:
    """COMMIT never reached the server."""
    make(CASES[name], "VOLATILE")
    stage = stage_of(PORT=proxy.port)
    with pytest.raises(CommitOutcomeUnknown), stage.atomic():
        stage.run(CASES[name].sql)
        proxy.cut_at(1, "before")
    assert stage.rows() == []


@cases
def test_it_is_not_read_again(
    name: str, make: Callable[..., None], stage_of: Stages, proxy: Proxy
) -> None:
    make(CASES[name], "VOLATILE")
    stage = stage_of(PORT=proxy.port)
    proxy.cut_at(1, "answer")
    with pytest.raises(Error) as caught:
        stage.run(CASES[name].sql)
    assert "the volatile function " in caught.value.__notes__[-1]


@cases
def test_without_a_write_behind_it_it_is(
    name: str, make: Callable[..., None], stage_of: Stages, proxy: Proxy
) -> None:
    make(CASES[name], "STABLE")
    stage = stage_of(PORT=proxy.port)
    before = stage.run(CASES[name].sql)
    proxy.cut_at(1, "answer")
    assert stage.run(CASES[name].sql) == before
    with stage.atomic():
        stage.run(CASES[name].sql)
        stage.kill()


# -- PostgreSQL's own functions, which leave no trace in pg_depend ---------------------------------

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


# -- extensions and foreign tables -----------------------------------------------------------------


@pytest.fixture(scope="module")
def full_server() -> Iterator[Server]:
    """One that has extensions."""
    with Server(pg_bin=needs.postgres_with("postgres_fdw")) as running:
        running.create_database("remote")
        running.execute("CREATE TABLE ledger (value int)", database="remote")
        running.execute("GRANT ALL ON ledger TO app", database="remote")
        for statement in (
            'CREATE EXTENSION "uuid-ossp"',
            "CREATE EXTENSION pgcrypto",
            "CREATE EXTENSION hstore",
            "CREATE EXTENSION citext",
            "CREATE EXTENSION postgres_fdw",
            f"""CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw
                OPTIONS (host '{running.host}', port '{running.port}', dbname 'remote')""",
            f"""CREATE USER MAPPING FOR app SERVER far
                OPTIONS (user 'app', password '{running.password}')""",
            "CREATE FOREIGN TABLE ledger (value int) SERVER far",
            "CREATE VIEW books AS SELECT * FROM ledger",
            "ALTER VIEW books OWNER TO app",
            "CREATE TABLE parted (value int) PARTITION BY LIST (value)",
            "CREATE TABLE here PARTITION OF parted FOR VALUES IN (1)",
            """CREATE FOREIGN TABLE there PARTITION OF parted FOR VALUES IN (2) SERVER far
                OPTIONS (table_name 'ledger')""",
            "CREATE FUNCTION gen_salt(n int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1'",
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO app",
        ):
            running.execute(statement, database="app")
        yield running


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT uuid_generate_v4(), gen_random_bytes(3)", ""),
        ("SELECT 'a=>1'::hstore -> 'a', 'A'::citext = 'a'", ""),
        ("SELECT gen_salt('md5')", "the volatile function gen_salt()"),
        ("SELECT * FROM ledger", 'it reads the foreign table "ledger"'),
        ("SELECT * FROM books", 'it reads the foreign table "ledger"'),
        ("SELECT * FROM parted", 'it reads the foreign table "there"'),
        ("SELECT * FROM here", ""),
    ],
)
def test_extensions_and_foreign_tables(sql: str, expected: str, full_server: Server) -> None:
    with Proxy(full_server.port) as proxy:
        made = Connections(full_server)
        stage = Stage(full_server, made(PORT=proxy.port, CONN_MAX_AGE=None), "app")
        stage.run(sql)
        proxy.cut_at(1, "answer")
        try:
            stage.run(sql)
            told = ""
        except Error as error:
            told = error.__notes__[-1]
        made.close()
    assert (told == "") is (expected == "")
    assert expected in told
