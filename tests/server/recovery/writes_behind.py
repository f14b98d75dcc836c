"""Texts that call nothing that looks like a function that writes, and what writes behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.server.scenarios import TABLE, Stage

Stages = Callable[..., Stage]
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
