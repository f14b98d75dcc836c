"""What became of a transaction whose COMMIT was lost: asked of the server, where it can know.

The transaction's id is fetched before COMMIT is sent (one round trip, for transactions that asked
for it). After the loss a new connection asks ``pg_xact_status`` (PostgreSQL manual, section 9.27.9)
until the answer is final. What an answer is worth:

* On another system, on another timeline or from a standby: nothing. After a promotion the id may
  have been given to another transaction, or the commit may not have arrived. The timeline is that
  of the WAL being written; the control file has it only once the next checkpoint has ended.
* "committed": if the server has not recovered from a crash since. An id of which nothing had been
  flushed is given out again after a crash, on the same system and timeline, and the answer is then
  about somebody else's transaction.
* "aborted", or no such id yet: always. A commit that was flushed stays one, and its id is never
  given out again. So either the answer is about ours, which has not committed, or the id has been
  or may be given out again, because nothing of ours was flushed.

A crash shows in when the statistics of the background writer were reset: the server does that when
it recovers from one, also after the crash of a single process, and never at a clean start (measured
on PostgreSQL 14, 15 and 18; the tests hold it). Who resets these statistics by hand makes an
outcome unknown, no more.
"""

from __future__ import annotations

import enum
import time
from typing import Any, Final, NamedTuple

from ..driver.exceptions import sqlstate_of
from ..driver.link import Link
from ..driver.lost_sessions import STARTED, end

# While COMMIT is still under way on a backend that has not noticed the loss, it is ended: until
# then the answer could change. Seconds of patience before that.
_PATIENCE: Final = 0.5
_PAUSE: Final = 0.02
# Everything is named with its schema: the application's may come before pg_catalog.
_IDENTITY: Final = (
    "(SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c),"
    " CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL"
    " ELSE pg_catalog.left("
    "pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) END,"
    " EXTRACT(epoch FROM pg_catalog.pg_stat_get_bgwriter_stat_reset_time())::pg_catalog.text"
)
_XID: Final = (
    "SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text,"
    " pg_catalog.pg_backend_pid()"
)
_STARTED: Final = f"{STARTED}::pg_catalog.text"
# backend_start guards the process id: the operating system uses it again. As a number: text depends
# on the session's time zone.
_MARK: Final = (
    f"{_XID}, (SELECT {_STARTED} FROM pg_catalog.pg_stat_activity AS a"
    f" WHERE a.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()), {_IDENTITY}"
)
# Some services do not let their users call all of these: that must not fail the transaction.
# insufficient_privilege, undefined_function, feature_not_supported.
_NOT_TOLD: Final = frozenset({"42501", "42883", "0A000"})
_SAVEPOINT: Final = "django_resilient_pg_mark"
_STATUS: Final = "SELECT pg_catalog.pg_xact_status(%s::pg_catalog.xid8)"
# SQLSTATE of pg_xact_status for an id that was not given out yet: invalid_parameter_value.
_NO_SUCH_ID: Final = "22023"


class Outcome(enum.Enum):
    """What the server says."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class TransactionId(NamedTuple):
    """A transaction, as it will be asked for.

    Attributes:
        xid: 64-bit transaction id as text; ``None``: none was given out, so it has written
            nothing in a table of a server that gives them out.
        pid, backend_start: the session that runs it.
        system, timeline: where the id means anything; ``None`` where the server did not say.
        since: another one after a crash.
    """

    xid: str | None
    pid: int
    backend_start: str | None = None
    system: int | None = None
    timeline: str | None = None
    since: str | None = None


def mark(link: Link) -> TransactionId | None:
    """Ask for the id of the transaction that is open on this connection: one round trip.

    What else belongs to a mark is asked for with the first one only, and again where the process
    is another one (behind a pooler): it costs the server several times what the id does.

    Returns:
        ``None`` where the server does not tell the id; it is not asked on this connection again.
    """
    if link.identity is None:
        return None
    if link.identity:
        xid, pid = link.ask(_XID)[0]
        if link.identity[0] == pid:
            return TransactionId(xid, *link.identity)
    answer = _first(link)
    if answer is None:
        link.identity = None
        return None
    xid, *identity = answer
    found = TransactionId(xid, *identity)
    # A standby may be promoted under its connections.
    link.identity = tuple(identity) if found.timeline or not found.system else ()
    return found


def _first(link: Link) -> tuple[Any, ...] | None:
    """The row of ``_MARK``, or of ``_XID`` where the server refuses the rest, or that as well.

    The savepoint goes along in the same round trip, and ends with the transaction.
    """
    try:
        with link.asking() as cursor:
            cursor.execute(f"SAVEPOINT {_SAVEPOINT}; {_MARK}")
            if cursor.description is None:
                cursor.nextset()  # psycopg 3 begins with the first result, psycopg2 has the last
            return tuple(cursor.fetchone())
    except link.connection.Error:
        if link.lost():
            raise
        link.ask(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
    try:
        return link.ask(_XID)[0]
    except link.connection.Error as error:
        if link.lost() or sqlstate_of(error) not in _NOT_TOLD:
            raise
        link.ask(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        return None


def outcome(link: Link, asked: TransactionId, *, seconds: float) -> Outcome:
    """Ask a new connection what became of the transaction.

    Args:
        link: a connection that is not the lost one.
        asked: from :func:`mark`.
        seconds: how long to wait for a final answer.

    Raises:
        the driver's errors, when the new connection is lost in turn.
    """
    if asked.xid is None:
        return Outcome.COMMITTED
    system, timeline, since = link.ask(f"SELECT {_IDENTITY}")[0]
    if None in {system, timeline} or (system, timeline) != (asked.system, asked.timeline):
        return Outcome.UNKNOWN
    found = _final(link, asked, seconds)
    if found is Outcome.COMMITTED and (since is None or since != asked.since):
        return Outcome.UNKNOWN
    return found


def _final(link: Link, asked: TransactionId, seconds: float) -> Outcome:
    """What the server says of the id, once that cannot change any more."""
    began, ended = time.monotonic(), False
    while True:
        try:
            [(status,)] = link.ask(_STATUS, [asked.xid])
        except link.connection.Error as error:
            if sqlstate_of(error) != _NO_SUCH_ID:
                raise
            return Outcome.ABORTED
        if status in {"committed", "aborted"}:
            return Outcome(status)
        # NULL: so long ago that the server has forgotten; anything else may still change.
        if status is None or time.monotonic() - began > seconds:
            return Outcome.UNKNOWN
        if not ended and time.monotonic() - began > _PATIENCE:
            end(link, asked.pid, asked.backend_start)
            ended = True
        time.sleep(_PAUSE)
