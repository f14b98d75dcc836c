"""What became of a transaction whose COMMIT was lost: asked of the server, where it can know.

The transaction's id is fetched before COMMIT is sent (one round trip, for transactions that asked
for it). After the loss a new connection asks ``pg_xact_status`` (PostgreSQL manual, section 9.27.9)
until the answer is final. The answer counts only on the same system and timeline: after a
promotion the id may have been given to another transaction, or the commit may not have arrived.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from .drivers import Link

# While COMMIT is still under way on a backend that has not noticed the loss, it is ended: until
# then the answer could change. Seconds of patience before that.
_PATIENCE: Final = 0.5
_PAUSE: Final = 0.02
_IDENTITY: Final = (
    "(SELECT system_identifier FROM pg_control_system()),"
    " (SELECT timeline_id FROM pg_control_checkpoint())"
)
_XID: Final = "SELECT pg_current_xact_id_if_assigned()::text, pg_backend_pid()"
# backend_start guards the process id: the operating system uses it again.
_MARK: Final = (
    f"{_XID}, (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()),"
    f" {_IDENTITY}"
)
_STATUS: Final = f"SELECT pg_xact_status(%s::xid8), {_IDENTITY}, pg_is_in_recovery()"
_END: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid = %s AND backend_start::text = %s"
)


class Outcome(enum.Enum):
    """What the server says."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class Mark(NamedTuple):
    """A transaction, as it will be asked for.

    Attributes:
        xid: 64-bit transaction id as text; ``None``: it has written nothing, so its COMMIT
            changes nothing.
        pid, backend_start: the session that runs it.
        system, timeline: where the id means anything.
    """

    xid: str | None
    pid: int
    backend_start: str | None
    system: int
    timeline: int


def mark(link: Link) -> Mark:
    """Ask for the id of the transaction that is open on this connection: one round trip.

    What else belongs to a mark is asked for with the first one only, and again where the process
    is another one (behind a pooler): it costs the server several times what the id does.
    """
    if link.identity:
        xid, pid = link.ask(_XID)[0]
        if link.identity[0] == pid:
            return Mark(xid, *link.identity)
    xid, *identity = link.ask(_MARK)[0]
    link.identity = tuple(identity)
    return Mark(xid, *identity)


def outcome(
    link: Link,
    asked: Mark,
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Ask a new connection what became of the transaction.

    Args:
        link: a connection that is not the lost one.
        asked: from :func:`mark`.
        seconds: how long to wait for a final answer.
        clock, sleep: for tests.

    Raises:
        the driver's errors, when the new connection is lost in turn.
    """
    if asked.xid is None:
        return Outcome.COMMITTED
    began, ended = clock(), False
    while True:
        status, system, timeline, standby = link.ask(_STATUS, [asked.xid])[0]
        if (system, timeline) != (asked.system, asked.timeline) or standby:
            return Outcome.UNKNOWN
        if status in {"committed", "aborted"}:
            return Outcome(status)
        # NULL: so long ago that the server has forgotten; anything else may still change.
        if status is None or clock() - began > seconds:
            return Outcome.UNKNOWN
        if not ended and clock() - began > _PATIENCE:
            link.ask(_END, [asked.pid, asked.backend_start])
            ended = True
        sleep(_PAUSE)
