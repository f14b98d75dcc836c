"""The SQL that the catalogues are asked; :mod:`.catalogue` says what for.

Everything is named with its schema: the application's may come before ``pg_catalog``.
"""

from __future__ import annotations

from typing import Final

#: More objects than this are not looked at: such a text may write.
MOST: Final = 20_000

# OIDs of catalogues and types are the same in all versions. Those of what users make begin with
# 16384, and only these have entries in pg_depend; what comes with PostgreSQL is trusted, but for
# its VOLATILE functions.
_CLASS, _PROC, _TYPE, _OPERATOR = 1259, 1255, 1247, 2617
_REWRITE, _POLICY, _CONSTRAINT, _EXTENSION = 2618, 3256, 2606, 3079
_USERS: Final = 16384
_JSON, _INTERNAL, _TRIGGER, _EVENT_TRIGGER = 114, 2281, 2279, 3838

_EQ, _NE, _LT, _GE, _GT = (f"OPERATOR(pg_catalog.{name})" for name in ("=", "<>", "<", ">=", ">"))
_OIDS: Final = "pg_catalog.oid[]"
# The functions in an expression as the server keeps it: pg_depend leaves PostgreSQL's own out.
_CALLED: Final = "':(?:funcid|aggfnoid|winfnoid|opfuncid) ([0-9]+)', 'g'"
_IN_AND_OUT: Final = "t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout"
# Of users' own objects only these lead to functions.
_LEADING: Final = f"ANY ('{{{_PROC},{_OPERATOR},{_CLASS},{_TYPE}}}'::{_OIDS})"


def _acts(catalogue: int, entry: str, but: str, expression: str) -> str:
    """Whether an expression refers to what users made, or to a VOLATILE function of PostgreSQL's.

    Args:
        catalogue, entry: which object it belongs to.
        but: what this one refers to anyway.
        expression: as the server keeps it.
    """
    return f"""(
        EXISTS (
            SELECT FROM pg_catalog.pg_depend AS d
            WHERE d.classid {_EQ} {catalogue} AND d.objid {_EQ} {entry}
              AND d.refclassid {_EQ} {_LEADING} AND d.refobjid {_NE} {but}
        ) OR EXISTS (
            SELECT FROM pg_catalog.regexp_matches({expression}::pg_catalog.text, {_CALLED})
                AS m (found)
            JOIN pg_catalog.pg_proc AS p ON p.oid {_EQ} m.found[1]::pg_catalog.oid
            WHERE p.provolatile {_EQ} 'v'
        )
    )"""


# Whether a relation leads further: a view, a foreign table, one with policies that act or with
# partitions that may be foreign.
_LEADS: Final = f"""(
    c.relkind {_EQ} ANY ('{{v,f}}'::pg_catalog."char"[])
    OR (c.relrowsecurity AND EXISTS (
        SELECT FROM pg_catalog.pg_policy AS y
        WHERE y.polrelid {_EQ} c.oid AND y.polcmd {_EQ} ANY ('{{r,*}}'::pg_catalog."char"[])
          AND {_acts(_POLICY, "y.oid", "c.oid", "y.polqual")}
    ))
    OR (c.relhassubclass AND EXISTS (SELECT FROM pg_catalog.pg_foreign_table))
)"""
_DOMAIN_ACTS: Final = f"""EXISTS (
    SELECT FROM pg_catalog.pg_constraint AS k
    WHERE k.contypid {_GT} 0 AND k.oid {_GE} {_USERS}
      AND {_acts(_CONSTRAINT, "k.oid", "k.contypid", "k.conbin")}
)"""
_NAMED: Final = f"""
    SELECT {_PROC}::pg_catalog.oid, p.oid, called.name::pg_catalog.text
    FROM called JOIN pg_catalog.pg_proc AS p ON p.proname {_EQ} called.name
  UNION ALL
    -- t.f may stand for f(t).
    SELECT {_PROC}, p.oid, field.name
    FROM field JOIN pg_catalog.pg_proc AS p ON p.proname {_EQ} field.name
    JOIN pg_catalog.pg_type AS t ON t.oid {_EQ} p.proargtypes[0]
    WHERE p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults {_LT} 2
      AND (t.typtype {_EQ} ANY ('{{c,d,p}}'::pg_catalog."char"[]) OR p.provariadic {_NE} 0)
  UNION ALL
    SELECT {_OPERATOR}, o.oid, o.oprname FROM pg_catalog.pg_operator AS o
    WHERE o.oid {_GE} {_USERS}
      AND (
        o.oprname {_EQ} ANY (%(unwritten)s::pg_catalog.text[])
        OR EXISTS (
            SELECT FROM pg_catalog.unnest(%(operators)s::pg_catalog.text[]) AS run
            WHERE pg_catalog.strpos(run, o.oprname::pg_catalog.text) {_GT} 0
        )
      )
  UNION ALL
    SELECT {_CLASS}, c.oid, word.name
    FROM word JOIN pg_catalog.pg_class AS c ON c.relname {_EQ} word.name
    WHERE c.oid {_GE} {_USERS} AND {_LEADS}
  UNION ALL
    SELECT {_TYPE}, t.oid, word.name
    FROM word JOIN pg_catalog.pg_type AS t ON t.typname {_EQ} word.name
    WHERE t.oid {_GE} {_USERS}
      AND (t.typtype {_NE} 'c' OR (SELECT checked.found FROM checked))
  UNION ALL
    -- The driver writes them behind a parameter.
    SELECT {_TYPE}, t, 'a parameter' FROM pg_catalog.unnest(%(types)s::{_OIDS}) AS t
  UNION ALL
    SELECT {_PROC}, c.function, word.name
    FROM volatile_cast AS c
    JOIN pg_catalog.pg_type AS t ON t.oid {_EQ} c.target
    LEFT JOIN pg_catalog.pg_type AS e ON e.oid {_EQ} t.typelem
    JOIN word ON word.name {_EQ} t.typname OR word.name {_EQ} e.typname
  UNION ALL
    SELECT {_PROC}, c.function, 'an implicit cast' FROM volatile_cast AS c WHERE c.implicit
  UNION ALL
    -- ORDER BY, DISTINCT, GROUP BY.
    SELECT {_PROC}, a.amproc, 'an operator class' FROM pg_catalog.pg_amproc AS a
    WHERE a.oid {_GE} {_USERS}
  UNION ALL
    SELECT {_OPERATOR}, a.amopopr, 'an operator class' FROM pg_catalog.pg_amop AS a
    WHERE a.oid {_GE} {_USERS}"""
_FURTHER: Final = f"""
    -- What expressions and functions refer to, but for what is PostgreSQL's own.
    SELECT d.refclassid, d.refobjid FROM pg_catalog.pg_depend AS d
    WHERE r.class {_EQ} ANY ('{{{_PROC},{_REWRITE},{_POLICY},{_CONSTRAINT}}}'::{_OIDS})
      AND r.id {_GE} {_USERS}
      AND d.classid {_EQ} r.class AND d.objid {_EQ} r.id AND d.refclassid {_EQ} {_LEADING}
  UNION ALL
    -- PostgreSQL's own functions, which pg_depend leaves out.
    SELECT {_PROC}, m.found[1]::pg_catalog.oid
    FROM (
        SELECT CASE
            WHEN r.class {_EQ} {_REWRITE} THEN (
                SELECT w.ev_action FROM pg_catalog.pg_rewrite AS w WHERE w.oid {_EQ} r.id
            ) WHEN r.class {_EQ} {_POLICY} THEN (
                SELECT y.polqual FROM pg_catalog.pg_policy AS y WHERE y.oid {_EQ} r.id
            ) WHEN r.class {_EQ} {_CONSTRAINT} THEN (
                SELECT k.conbin FROM pg_catalog.pg_constraint AS k WHERE k.oid {_EQ} r.id
            ) WHEN r.class {_EQ} {_PROC} AND r.id {_GE} {_USERS} THEN (
                SELECT p.proargdefaults FROM pg_catalog.pg_proc AS p WHERE p.oid {_EQ} r.id
            ) END
    ) AS expression (tree)
    CROSS JOIN LATERAL pg_catalog.regexp_matches(tree::pg_catalog.text, {_CALLED}) AS m (found)
  UNION ALL
    -- The rule of a view, the policies of a table, the constraints of a domain, partitions.
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d
    WHERE r.class {_EQ} ANY ('{{{_CLASS},{_TYPE}}}'::{_OIDS}) AND r.id {_GE} {_USERS}
      AND d.refclassid {_EQ} r.class AND d.refobjid {_EQ} r.id
      AND (
        (d.classid {_EQ} {_REWRITE} AND d.deptype {_EQ} 'i')
        OR (d.classid {_EQ} {_CONSTRAINT} AND d.deptype {_EQ} 'a' AND r.class {_EQ} {_TYPE})
        OR (d.classid {_EQ} {_POLICY} AND EXISTS (
            SELECT FROM pg_catalog.pg_policy AS y
            WHERE y.oid {_EQ} d.objid AND y.polrelid {_EQ} r.id
              AND y.polcmd {_EQ} ANY ('{{r,*}}'::pg_catalog."char"[])
        ))
        OR (d.classid {_EQ} {_CLASS} AND EXISTS (SELECT FROM pg_catalog.pg_foreign_table))
      )
  UNION ALL
    SELECT {_PROC}, f
    FROM pg_catalog.pg_aggregate AS a CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[
        a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
        a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn
    ]::{_OIDS}) AS f
    WHERE r.class {_EQ} {_PROC} AND r.id {_GE} {_USERS} AND a.aggfnoid {_EQ} r.id
  UNION ALL
    -- The planner may put one operator in the place of another.
    SELECT part.class, part.id
    FROM pg_catalog.pg_operator AS o CROSS JOIN LATERAL ROWS FROM (
        pg_catalog.unnest(ARRAY[{_PROC}, {_OPERATOR}, {_OPERATOR}]::{_OIDS}),
        pg_catalog.unnest(ARRAY[o.oprcode, o.oprcom, o.oprnegate]::{_OIDS})
    ) AS part (class, id)
    WHERE r.class {_EQ} {_OPERATOR} AND r.id {_GE} {_USERS} AND o.oid {_EQ} r.id
  UNION ALL
    SELECT part.class, part.id
    FROM pg_catalog.pg_type AS t CROSS JOIN LATERAL ROWS FROM (
        pg_catalog.unnest(ARRAY[{", ".join([str(_TYPE)] * 2 + [str(_PROC)] * 6)}]::{_OIDS}),
        pg_catalog.unnest(ARRAY[t.typbasetype, t.typelem, {_IN_AND_OUT}]::{_OIDS})
    ) AS part (class, id)
    WHERE r.class {_EQ} {_TYPE} AND r.id {_GE} {_USERS} AND t.oid {_EQ} r.id
  UNION ALL
    SELECT {_TYPE}, a.atttypid
    FROM pg_catalog.pg_type AS t
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid {_EQ} t.typrelid
    WHERE r.class {_EQ} {_TYPE} AND r.id {_GE} {_USERS} AND t.oid {_EQ} r.id
      AND t.typrelid {_NE} 0 AND a.atttypid {_GE} {_USERS}
  UNION ALL
    SELECT {_TYPE}, g.rngsubtype FROM pg_catalog.pg_range AS g
    WHERE r.class {_EQ} {_TYPE} AND g.rngsubtype {_GE} {_USERS}
      AND (g.rngtypid {_EQ} r.id OR g.rngmultitypid {_EQ} r.id)
  UNION ALL
    SELECT {_PROC}, c.function FROM volatile_cast AS c
    WHERE r.class {_EQ} {_TYPE} AND c.target {_EQ} r.id"""

_HARMLESS: Final = f"""(
    p.prokind {_EQ} 'p'
    OR p.prorettype {_EQ} ANY ('{{{_TRIGGER},{_EVENT_TRIGGER}}}'::{_OIDS})
    OR {_INTERNAL}::pg_catalog.oid {_EQ} ANY (p.proargtypes)
    OR (
        p.oid {_LT} {_USERS} AND p.proname {_EQ} ANY (%(harmless)s::pg_catalog.text[])
    )
    OR EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d
        JOIN pg_catalog.pg_extension AS e ON e.oid {_EQ} d.refobjid
        WHERE d.classid {_EQ} {_PROC} AND d.objid {_EQ} p.oid
          AND d.refclassid {_EQ} {_EXTENSION} AND d.deptype {_EQ} 'e'
          AND pg_catalog.concat(e.extname, '.', p.proname)
              {_EQ} ANY (%(harmless_of_extensions)s::pg_catalog.text[])
    )
)"""
# Whether a name before a parenthesis is one that the database knows, or a keyword.
_KNOWN: Final = f"""(
    EXISTS (SELECT FROM pg_catalog.pg_proc AS p WHERE p.proname {_EQ} w::pg_catalog.name)
    OR EXISTS (SELECT FROM pg_catalog.pg_type AS t WHERE t.typname {_EQ} w::pg_catalog.name)
    OR EXISTS (
        SELECT FROM pg_catalog.pg_get_keywords() AS k
        WHERE k.word {_EQ} w AND k.catcode {_EQ} ANY ('{{R,C}}'::pg_catalog."char"[])
    )
)"""
#: What acts and is called by its name; what is called and not known; whether anything else that is
#: named may lead further. With few texts that applications send it does, and a new session takes
#: several times as long for the whole question as for this one.
SCREEN: Final = f"""
WITH
word (name) AS MATERIALIZED (
    SELECT w::pg_catalog.name FROM pg_catalog.unnest(%(words)s::pg_catalog.text[]) AS w
)
SELECT (
    SELECT p.proname::pg_catalog.text
    FROM pg_catalog.unnest(%(calls)s::pg_catalog.text[]) AS w
    JOIN pg_catalog.pg_proc AS p ON p.proname {_EQ} w::pg_catalog.name
    WHERE p.provolatile {_EQ} 'v' AND NOT {_HARMLESS}
    ORDER BY p.proname LIMIT 1
), (
    SELECT w FROM pg_catalog.unnest(%(functions)s::pg_catalog.text[]) AS w
    WHERE NOT {_KNOWN}
    ORDER BY w LIMIT 1
), EXISTS (
    SELECT FROM word JOIN pg_catalog.pg_class AS c ON c.relname {_EQ} word.name
    WHERE c.oid {_GE} {_USERS} AND {_LEADS}
) OR EXISTS (
    SELECT FROM word JOIN pg_catalog.pg_type AS t ON t.typname {_EQ} word.name
    WHERE t.oid {_GE} {_USERS}
      AND (
        t.typtype {_NE} 'c'
        OR {_DOMAIN_ACTS}
      )
) OR EXISTS (
    SELECT FROM pg_catalog.unnest(%(calls)s::pg_catalog.text[]) AS w
    JOIN pg_catalog.pg_proc AS p ON p.proname {_EQ} w::pg_catalog.name
    WHERE p.oid {_GE} {_USERS} OR p.proname {_EQ} ANY (%(by_name)s::pg_catalog.text[])
) OR EXISTS (
    SELECT FROM pg_catalog.unnest(%(fields)s::pg_catalog.text[]) AS w
    JOIN pg_catalog.pg_proc AS p ON p.proname {_EQ} w::pg_catalog.name
    WHERE p.oid {_GE} {_USERS}
) OR EXISTS (
    SELECT FROM pg_catalog.pg_operator AS o
    JOIN pg_catalog.pg_proc AS p ON p.oid {_EQ} o.oprcode
    WHERE o.oid {_GE} {_USERS}
      AND (p.provolatile {_EQ} 'v' OR EXISTS (
        SELECT FROM pg_catalog.pg_type AS t
        WHERE t.typtype {_EQ} 'd' AND t.oid {_EQ} ANY (ARRAY[o.oprleft, o.oprright])
      ))
) OR EXISTS (
    SELECT FROM pg_catalog.pg_cast AS c
    JOIN pg_catalog.pg_proc AS p ON p.oid {_EQ} c.castfunc
    WHERE c.oid {_GE} {_USERS} AND p.provolatile {_EQ} 'v'
) OR EXISTS (
    SELECT FROM pg_catalog.pg_amproc AS a
    JOIN pg_catalog.pg_proc AS p ON p.oid {_EQ} a.amproc
    WHERE a.oid {_GE} {_USERS} AND p.provolatile {_EQ} 'v'
      AND NOT {_INTERNAL}::pg_catalog.oid {_EQ} ANY (p.proargtypes)
)
"""
#: What acts, and by way of what.
#:
#: Arrays stand between what is named and what follows from it: otherwise the planner multiplies its
#: guesses until the server compiles the query (jit_above_cost), which takes longer than all else.
QUESTION: Final = f"""
WITH RECURSIVE
word (name) AS MATERIALIZED (
    SELECT w::pg_catalog.name FROM pg_catalog.unnest(%(words)s::pg_catalog.text[]) AS w
),
called (name) AS MATERIALIZED (
    SELECT w::pg_catalog.name FROM pg_catalog.unnest(%(calls)s::pg_catalog.text[]) AS w
),
field (name) AS MATERIALIZED (
    SELECT w::pg_catalog.name FROM pg_catalog.unnest(%(fields)s::pg_catalog.text[]) AS w
),
-- Of a row, domains that check by a function count; few databases have one.
checked (found) AS MATERIALIZED (
    SELECT {_DOMAIN_ACTS} OR EXISTS (
        SELECT FROM pg_catalog.pg_type AS t
        JOIN pg_catalog.pg_proc AS p ON p.oid {_EQ} ANY (ARRAY[{_IN_AND_OUT}]::{_OIDS})
        WHERE t.oid {_GE} {_USERS} AND t.typtype {_EQ} 'b' AND t.typelem {_EQ} 0
          AND p.provolatile {_EQ} 'v'
    )
),
volatile_cast (target, function, implicit) AS MATERIALIZED (
    SELECT c.casttarget, c.castfunc, c.castcontext {_EQ} 'i' OR c.casttarget {_EQ} {_JSON}
    FROM pg_catalog.pg_cast AS c
    JOIN pg_catalog.pg_proc AS p ON p.oid {_EQ} c.castfunc
    WHERE c.oid {_GE} {_USERS} AND p.provolatile {_EQ} 'v'
),
named (class, id, via) AS MATERIALIZED ({_NAMED}
),
reached (class, id, via) AS (
    SELECT one.class, one.id, one.via FROM ROWS FROM (
        pg_catalog.unnest(ARRAY(SELECT named.class FROM named)),
        pg_catalog.unnest(ARRAY(SELECT named.id FROM named)),
        pg_catalog.unnest(ARRAY(SELECT named.via FROM named))
    ) AS one (class, id, via)
    WHERE one.id {_GT} 0
  UNION
    SELECT further.class, further.id, r.via
    FROM reached AS r CROSS JOIN LATERAL ({_FURTHER}
    ) AS further (class, id)
),
object (class, id, via) AS MATERIALIZED (
    SELECT reached.class, reached.id, reached.via FROM reached LIMIT {MOST}
)
    SELECT 'function' AS what, p.proname::pg_catalog.text AS name, object.via AS via
    FROM object JOIN pg_catalog.pg_proc AS p ON p.oid {_EQ} object.id
    WHERE object.class {_EQ} {_PROC} AND NOT {_HARMLESS}
      AND (
        p.provolatile {_EQ} 'v'
        OR (p.oid {_LT} {_USERS} AND p.proname {_EQ} ANY (%(by_name)s::pg_catalog.text[]))
      )
  UNION ALL
    SELECT 'table', c.relname, object.via
    FROM object JOIN pg_catalog.pg_class AS c ON c.oid {_EQ} object.id
    WHERE object.class {_EQ} {_CLASS} AND c.relkind {_EQ} 'f'
  UNION ALL
    SELECT 'many', '', '' FROM object HAVING pg_catalog.count(*) {_GE} {MOST}
ORDER BY what, name, via
LIMIT 1
"""
