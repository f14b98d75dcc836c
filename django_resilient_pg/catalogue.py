"""May a text that only reads do more than read? Asked of the database's catalogues.

``BEGIN READ ONLY`` refuses what writes to tables, but lets through ``pg_notify``, advisory locks
and ``set_config`` (measured). And nothing guards a request that is replayed, or a lost transaction
that is taken for one that only read. What acts is a VOLATILE function, and the text need not show
it: an aggregate, a cast, a domain, an operator, a view, a policy or an attribute may call it. So
every name in the text is looked up, in whatever schema, and followed to the functions behind it.

What is not found out this way is in ``docs/promise.rst``: what a function does that is not declared
VOLATILE. The answer is not kept: whoever replaces a function makes it wrong. The question is asked
after a failure only, and costs one round trip.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .drivers import Link
from .literals import registered_types
from .names import Names, names_of
from .statements import analyse

#: VOLATILE only because their value changes: they leave nothing behind. PostgreSQL's own ones.
HARMLESS_FUNCTIONS: Final = frozenset(
    "random random_normal clock_timestamp timeofday gen_random_uuid uuidv4 uuidv7"
    " array_sample array_shuffle current_query"
    " pg_sleep pg_sleep_for pg_sleep_until pg_is_in_recovery pg_last_wal_receive_lsn"
    " pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_current_wal_lsn"
    " pg_current_wal_insert_lsn pg_current_wal_flush_lsn pg_table_size pg_total_relation_size"
    " pg_relation_size pg_indexes_size pg_database_size pg_tablespace_size pg_blocking_pids"
    " pg_xact_status txid_status pg_notification_queue_usage".split()
)
#: The same of extensions.
HARMLESS_OF_EXTENSIONS: Final = frozenset(
    "pgcrypto.gen_random_bytes pgcrypto.gen_random_uuid"
    " uuid-ossp.uuid_generate_v1 uuid-ossp.uuid_generate_v1mc uuid-ossp.uuid_generate_v4"
    " pg_stat_statements.pg_stat_statements pg_stat_statements.pg_stat_statements_info".split()
)
# What they do ends with the transaction that called them.
_TRANSACTIONS: Final = frozenset(
    "pg_advisory_xact_lock pg_advisory_xact_lock_shared"
    " pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared".split()
)
_SET_CONFIG: Final = "set_config"
# Not VOLATILE, but they read a table that a string names, and with it a view.
_BY_NAME: Final = frozenset(
    f"{what}_to_{form}"
    for what in ("table", "schema", "database")
    for form in ("xml", "xmlschema", "xml_and_xmlschema")
)
# Unreserved keywords that are syntax where a parenthesis follows them. Reserved ones and those
# that cannot be function names (catcode R and C) come from the server itself.
_SYNTAX: Final = frozenset(
    "by over filter within sets rollup cube join escape materialized operator explain columns first"
    " next second varying zone document content ref passing".split()
)
# Operators that the grammar uses without writing them, and the words that it does so for.
_UNWRITTEN: Final = frozenset("= <> < > <= >= ~~ !~~ ~~* !~~* ~ !~".split())
_USING_THEM: Final = frozenset(
    "in between like ilike similar case nullif distinct using natural".split()
)
# Texts made of these alone read nothing.
_NOTHING: Final = frozenset({"select", "as"})
# More objects than this are not looked at: such a text may write.
_MOST: Final = 20_000

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


# Whether a relation leads further: a view, a foreign table, one with policies or with partitions
# that may be foreign.
_LEADS: Final = f"""(
    c.relkind {_EQ} ANY ('{{v,f}}'::pg_catalog."char"[]) OR c.relrowsecurity
    OR (c.relhassubclass AND EXISTS (SELECT FROM pg_catalog.pg_foreign_table))
)"""
_IN_AND_OUT: Final = "t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout"
# Of users' own objects only these lead to functions.
_LEADING: Final = f"ANY ('{{{_PROC},{_OPERATOR},{_CLASS},{_TYPE}}}'::{_OIDS})"
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
# Arrays stand between what is named and what follows from it: otherwise the planner multiplies its
# guesses until the server compiles the query (jit_above_cost), which takes longer than all else.
_QUESTION: Final = f"""
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
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_constraint AS k
        WHERE k.contypid {_GT} 0 AND k.oid {_GE} {_USERS}
          AND (
            EXISTS (
                SELECT FROM pg_catalog.pg_depend AS d
                WHERE d.classid {_EQ} {_CONSTRAINT} AND d.objid {_EQ} k.oid
                  AND d.refclassid {_EQ} {_LEADING} AND d.refobjid {_NE} k.contypid
            )
            OR EXISTS (
                SELECT FROM pg_catalog.regexp_matches(
                    k.conbin::pg_catalog.text, {_CALLED}
                ) AS m (found)
                JOIN pg_catalog.pg_proc AS p ON p.oid {_EQ} m.found[1]::pg_catalog.oid
                WHERE p.provolatile {_EQ} 'v'
            )
          )
    ) OR EXISTS (
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
    SELECT reached.class, reached.id, reached.via FROM reached LIMIT {_MOST}
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
    SELECT 'many', '', '' FROM object HAVING pg_catalog.count(*) {_GE} {_MOST}
  UNION ALL
    SELECT 'unknown', w, w FROM pg_catalog.unnest(%(functions)s::pg_catalog.text[]) AS w
    WHERE NOT (
        EXISTS (SELECT FROM pg_catalog.pg_proc AS p WHERE p.proname {_EQ} w::pg_catalog.name)
        OR EXISTS (SELECT FROM pg_catalog.pg_type AS t WHERE t.typname {_EQ} w::pg_catalog.name)
        OR EXISTS (
            SELECT FROM pg_catalog.pg_get_keywords() AS k
            WHERE k.word {_EQ} w AND k.catcode {_EQ} ANY ('{{R,C}}'::pg_catalog."char"[])
        )
    )
ORDER BY what, name, via
LIMIT 1
"""


def why_may_write(link: Link, texts: Iterable[str], *, over: bool = False) -> str:
    """Why these reads may have done more than read, or "" if they have not.

    One round trip for all of them, or none if they name nothing.

    Args:
        link: a connection to their database.
        texts: of statements that only read or set, by their texts.
        over: whether the transactions that they ran in have ended, so that what would have ended
            with them does not count.

    Raises:
        the driver's errors, when the connection is lost in turn, or may not ask.
    """
    texts = [text for text in texts if _runs(text)]
    found = _all_of([names_of(text) for text in texts])
    types = registered_types(link.connection)
    if found.words <= _NOTHING and not (found.operators or types):
        return ""
    rows = link.ask(
        _QUESTION,
        {
            "words": sorted(found.words),
            "calls": sorted(found.calls),
            "fields": sorted(found.fields),
            "operators": sorted(found.operators),
            "functions": sorted(found.functions - _SYNTAX),
            "types": sorted(types),
            "unwritten": sorted(_UNWRITTEN) if found.words & _USING_THEM else [],
            "harmless": sorted(HARMLESS_FUNCTIONS | (_ended(texts) if over else frozenset())),
            "harmless_of_extensions": sorted(HARMLESS_OF_EXTENSIONS),
            "by_name": sorted(_BY_NAME),
        },
    )
    return _reason(*rows[0]) if rows else ""


def _runs(text: str) -> bool:
    """Whether what a text names is run: EXPLAIN only plans it, SHOW and SET name settings."""
    return analyse(text).keyword not in {"EXPLAIN", "SHOW", "SET", "RESET"}


def _all_of(names: list[Names]) -> Names:
    """What several texts name, together."""
    return Names(
        frozenset().union(*(one.words for one in names)),
        frozenset().union(*(one.calls for one in names)),
        frozenset().union(*(one.functions for one in names)),
        frozenset().union(*(one.fields for one in names)),
        frozenset().union(*(one.operators for one in names)),
    )


def _ended(texts: list[str]) -> frozenset[str]:
    """Functions that have left nothing behind, now that their transaction has ended."""
    sets = [text for text in texts if _SET_CONFIG in names_of(text).calls]
    lasts = any(analyse(text).pins for text in sets)
    return _TRANSACTIONS if lasts else _TRANSACTIONS | {_SET_CONFIG}


def _reason(what: str, name: str, via: str) -> str:
    if what == "table":
        return f'it reads the foreign table "{name}", and what that does is not known'
    if what == "many":
        return f"more than {_MOST:,} objects of the database belong to what it names"
    if what == "unknown":
        return f"it calls {name}(), which the database does not know"
    if name == via:
        return f"it calls the volatile function {name}()"
    return f"it calls the volatile function {name}() by way of {via}"
