"""Does a statement call a function that may do more than compute? Asked of the server.

``BEGIN READ ONLY`` refuses what writes, but lets through ``pg_notify``, advisory locks,
``set_config`` and the like (measured). All of those are VOLATILE in ``pg_proc``, so a statement
that calls a volatile function, or one the server does not know, is not run again, except for
the few below.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from .drivers import Link

#: VOLATILE only because their value changes: they leave nothing behind.
HARMLESS_FUNCTIONS: Final = frozenset(
    "random random_normal clock_timestamp timeofday gen_random_uuid uuidv4 uuidv7"
    " uuid_generate_v1 uuid_generate_v1mc uuid_generate_v4 gen_random_bytes"
    " pg_sleep pg_sleep_for pg_sleep_until pg_is_in_recovery pg_last_wal_receive_lsn"
    " pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_current_wal_lsn"
    " pg_current_wal_insert_lsn pg_current_wal_flush_lsn pg_table_size pg_total_relation_size"
    " pg_relation_size pg_indexes_size pg_database_size pg_tablespace_size pg_blocking_pids"
    " pg_xact_status txid_status pg_notification_queue_usage".split()
)
# Unreserved keywords that are syntax where a parenthesis follows them. Reserved ones and those
# that cannot be function names (catcode R and C) come from the server itself.
_SYNTAX: Final = frozenset(
    "by over filter within sets rollup cube join escape materialized".split()
)
_QUERY: Final = """
    SELECT name
    FROM unnest(%s::text[]) AS name
    WHERE EXISTS (
            SELECT 1 FROM pg_catalog.pg_proc AS p
            WHERE p.proname = name AND p.provolatile = 'v'
              AND NOT (name = ANY (%s::text[]) AND p.pronamespace = 'pg_catalog'::regnamespace)
        )
      OR NOT (
            name = ANY (%s::text[])
            OR EXISTS (SELECT 1 FROM pg_catalog.pg_proc AS p WHERE p.proname = name)
            OR EXISTS (
                SELECT 1 FROM pg_catalog.pg_get_keywords() AS k
                WHERE k.word = name AND k.catcode IN ('R', 'C')
            )
        )
    ORDER BY name
    LIMIT 1
"""


def why_volatile(
    link: Link, functions: Collection[str], harmless: Collection[str] = frozenset()
) -> str:
    """Why a read that calls these functions must not run again, or "" if it may.

    One round trip if any name is left to ask for. A name counts as volatile when any function
    of that name is, in any schema, and when there is none (an operator's or a rule's function
    cannot be seen from here; ``BEGIN READ ONLY`` stands behind this).

    Args:
        link: a connection to the database.
        functions: by name.
        harmless: those of them that are, as they were called here, if they are PostgreSQL's own.

    Raises:
        the driver's errors, when the new connection is lost in turn.
    """
    names = sorted(set(functions) - HARMLESS_FUNCTIONS)
    if not names:
        return ""
    rows = link.ask(_QUERY, [names, list(harmless), list(_SYNTAX)])
    return f"it calls {rows[0][0]}(), which may do more than read" if rows else ""
