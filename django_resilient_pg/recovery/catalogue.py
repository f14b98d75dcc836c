"""May a text that only reads do more than read? Asked of the database's catalogues.

``BEGIN READ ONLY`` refuses what writes to tables, but lets through ``pg_notify``, advisory locks
and ``set_config`` (measured). And nothing guards a request that is replayed, or a lost transaction
that is taken for one that only read. What acts is a VOLATILE function, and the text need not show
it: an aggregate, a cast, a domain, an operator, a view, a policy or an attribute may call it. So
every name in the text is looked up, in whatever schema, and followed to the functions behind it.

What is not found out this way is in ``docs/promise.rst``: what a function does that is not declared
VOLATILE. The question is asked after a failure only. It costs one round trip where nothing that is
named leads any further, as with plain tables and PostgreSQL's own functions; else two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Final

from ..driver.link import Link
from ..driver.literals import registered_types
from ..sql.memory import LONGEST, make_room
from ..sql.names import Names, names_of
from ..sql.statements import analyse
from .questions import MOST, QUESTION, SCREEN

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
# By text and where it ran: when it was asked about, and the answer. Kept no longer than an outage
# of ``retry_deadline``, in which the same statements fail again and again: whoever replaces a
# function makes the answer wrong, and the engine does not hear of it.
_ANSWERS: Final[dict[tuple[object, ...], tuple[float, str]]] = {}
_KEPT: Final = 10.0
_NO_ANSWER: Final = (-math.inf, "")


def why_may_write(
    link: Link,
    texts: Iterable[str],
    *,
    over: bool = False,
    alias: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Why these reads may have done more than read, or "" if they have not.

    Args:
        link: a connection to their database.
        texts: of statements that only read or set, by their texts.
        over: whether the transactions that they ran in have ended, so that what would have ended
            with them does not count.
        alias: of the database; the answer is kept for some seconds.
        clock: for tests.

    Raises:
        the driver's errors, when the connection is lost in turn, or may not ask.
    """
    types = registered_types(link.connection)
    where = (alias, over, types, *_place(link))
    now = clock()
    asked = set[str]()
    for text in filter(_runs, texts):
        since, why = _ANSWERS.get((text, *where), _NO_ANSWER)
        if now - since > _KEPT:
            asked.add(text)
        elif why:
            return why
    why = _ask(link, asked, types, over=over)
    if alias and (not why or len(asked) == 1):
        _remember(asked, where, (now, why))
    return why


def _ask(link: Link, texts: set[str], types: frozenset[int], *, over: bool) -> str:
    found = _all_of([names_of(text) for text in texts])
    if found.words <= _NOTHING and not (found.operators or types):
        return ""
    parameters = _parameters(found, types, _ended(texts) if over else frozenset())
    [(acts, unknown, leads)] = link.ask(SCREEN, parameters)
    if acts is not None:
        return _reason("function", acts, acts)
    if unknown is not None:
        return f"it calls {unknown}(), which the database does not know"
    if not (leads or types):
        return ""
    rows = link.ask(QUESTION, parameters)
    return _reason(*rows[0]) if rows else ""


def _parameters(found: Names, types: frozenset[int], ended: frozenset[str]) -> dict[str, object]:
    return {
        "words": sorted(found.words),
        "calls": sorted(found.calls),
        "fields": sorted(found.fields),
        "operators": sorted(found.operators),
        "functions": sorted(found.functions - _SYNTAX),
        "types": sorted(types),
        "unwritten": sorted(_UNWRITTEN) if found.words & _USING_THEM else [],
        "harmless": sorted(HARMLESS_FUNCTIONS | ended),
        "harmless_of_extensions": sorted(HARMLESS_OF_EXTENSIONS),
        "by_name": sorted(_BY_NAME),
    }


def _place(link: Link) -> tuple[object, ...]:
    """The database that a link leads to, as far as the client knows."""
    info = link.connection.info
    return info.host, info.port, info.dbname


def _remember(texts: set[str], where: tuple[object, ...], answer: tuple[float, str]) -> None:
    for text in texts:
        if len(text) <= LONGEST:
            make_room(_ANSWERS)
            _ANSWERS[text, *where] = answer


def _runs(text: str) -> bool:
    """Whether what a text names is run: EXPLAIN only plans it, SHOW and SET name settings."""
    return analyse(text).keyword not in {"EXPLAIN", "SHOW", "SET", "RESET"}


def _all_of(names: list[Names]) -> Names:
    """What several texts name, together."""
    nothing = Names(*[frozenset[str]()] * len(Names._fields))
    return Names(*(frozenset().union(*kind) for kind in zip(nothing, *names, strict=True)))


def _ended(texts: Iterable[str]) -> frozenset[str]:
    """Functions that have left nothing behind, now that their transaction has ended."""
    sets = [text for text in texts if _SET_CONFIG in names_of(text).calls]
    lasts = any(analyse(text).pins for text in sets)
    return _TRANSACTIONS if lasts else _TRANSACTIONS | {_SET_CONFIG}


def _reason(what: str, name: str, via: str) -> str:
    if what == "table":
        return f'it reads the foreign table "{name}", and what that does is not known'
    if what == "many":
        return f"more than {MOST:,} objects of the database belong to what it names"
    if name == via:
        return f"it calls the volatile function {name}()"
    return f"it calls the volatile function {name}() by way of {via}"
