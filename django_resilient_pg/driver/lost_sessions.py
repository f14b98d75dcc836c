"""What became of a session that was lost without a word, or terminated in a long statement.

Where a path breaks on the client's side the server does not notice: the old session lives on, and
so do its locks. Whatever is retried would wait for them, or answer wrongly
(``pg_try_advisory_xact_lock``, ``NOWAIT``, ``SKIP LOCKED``). And a server that says nothing may
have crashed by the very statement that is about to be retried. The next connection asks, in one
round trip, and terminates the old session. A server that said why a session ended has terminated
the session itself.

A session is ended only if it is proved to be the lost one:

* Its process id is that of the lost connection's cancel key, and the question has not gone through
  a pooler: the process that answers has the id of the new connection's own cancel key.
* It began before the lost connection was last heard, by the server's clock against the client's
  monotonic one. At that moment the id was the lost session's, and the operating system gives an id
  out again only when its process is gone.
* It began no earlier than the lost connection was made (by ``_LOGIN`` and ``_DRIFT``), in the same
  database with the same login, and on a direct path from the same client port. So it is not a
  session of the same id on another server.
* Where ``commit_outcome`` or ``retry_atomic`` has asked for it, ``backend_start`` decides instead.

Through a pooler the id is the pooler's own. There the lost session is gone once no other session of
the same login and database has a transaction that began before the loss (and, if the lost statement
was the first of its transaction, after the lost connection was last heard). Nothing is ended there.
"""

from __future__ import annotations

import math
import time
from decimal import Decimal
from typing import Any, Final

from ..policy.verdicts import Reason
from .exceptions import first_line, sqlstate_of
from .link import IDLE, Link

STARTED: Final = "EXTRACT(epoch FROM a.backend_start)"
# Seconds before the server is asked, by its own clock: when the question came in.
_AGE: Final = (
    "EXTRACT(epoch FROM pg_catalog.statement_timestamp() OPERATOR(pg_catalog.-) {})"
    "::pg_catalog.float8"
)
# The session's own login: SET ROLE takes away the right to see and to end it. Ends with the
# transaction that these statements are.
_AS_LOGIN: Final = "SET LOCAL ROLE NONE"
_ALIKE: Final = (
    "a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"
    " AND a.usename OPERATOR(pg_catalog.=) SESSION_USER"
)
# Columns: own, process id, seconds since it began, since its transaction began, ended, seconds
# since the server recovered from a crash (see ``outcome``), and since it was started.
_SESSIONS: Final = (
    "SELECT a.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid(), a.pid,"
    f" {_AGE.format('a.backend_start')}, {_AGE.format('a.xact_start')},"
    " CASE WHEN a.pid OPERATOR(pg_catalog.=) {pid} AND {ours}"
    " THEN pg_catalog.pg_terminate_backend(a.pid, {milliseconds}) END,"
    f" {_AGE.format('pg_catalog.pg_stat_get_bgwriter_stat_reset_time()')},"
    f" {_AGE.format('pg_catalog.pg_postmaster_start_time()')}"
    " FROM pg_catalog.pg_stat_activity AS a"
    f" WHERE a.pid OPERATOR(pg_catalog.=) {{pid}} OR ({_ALIKE})"
)
_EXACTLY: Final = f"{STARTED} OPERATOR(pg_catalog.=) {{started}}"
_WITHIN: Final = (
    f"{_ALIKE} AND pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {{own}}"
    f" AND {_AGE.format('a.backend_start')} OPERATOR(pg_catalog.>=) {{youngest}}"
    f" AND {_AGE.format('a.backend_start')} OPERATOR(pg_catalog.<=) {{oldest}}"
)
_FROM_PORT: Final = " AND a.client_port OPERATOR(pg_catalog.=) {port}"

# Seconds that a login, or a wait at a pooler, may have taken; and a part of an age, by which two
# clocks may differ.
_LOGIN: Final = 5.0
_DRIFT: Final = 0.001
# Seconds that a session gets to end, and that transactions behind a pooler are waited for.
_PATIENCE: Final = 2.0
_PAUSE: Final = 0.02
# Seconds after a loss in which a session is asked about that could not be ended.
_ASKED_FOR: Final = 60.0
_NOT_ALLOWED: Final = "42501"  # insufficient_privilege
_CANCELLED: Final = "57014"  # query_canceled

_BEHIND_A_POOLER = "a pooler hides it, and older transactions of the same login are still open"
_HIDDEN = "the role may not see the session"
_REFUSED = "the role may not terminate it"
_GOES_ON = "the session does not end"
_ANOTHER = "a session of its process id is there that does not look like it"


def end(link: Link, pid: int, started: str | None) -> None:
    """End the session of this process id that began at ``started``, if there is one."""
    if started is not None:
        _ask(link, pid, _EXACTLY.format(started=Decimal(started)), seconds=0.0)


class LostSession:
    """One lost session, until it is known what became of it.

    Attributes:
        text: of the statement that met the loss; ``None``: it was found by looking.
        reason: what it was counted as.
        holds: it was in a transaction that may have taken locks.
        asked: whether it was asked about.
        why: why it cannot be said to be gone; "" when it is, or was not asked about yet.
        crashed: the server has recovered from a crash since it was last heard.
        cancelled: an administrator has terminated it for its statement: the server lives on.
        incident: what is announced of its loss (``incidents``).
    """

    __slots__ = (
        "_began_after",
        "_heard_at",
        "_lost_at",
        "_made_at",
        "_pid",
        "_port",
        "_started",
        "_terminated",
        "asked",
        "cancelled",
        "crashed",
        "holds",
        "incident",
        "reason",
        "text",
        "why",
    )

    def __init__(
        self,
        link: Link,
        reason: Reason,
        text: object,
        now: float,
        *,
        holds: bool,
        first: bool,
        direct: bool,
        terminated: bool = False,
    ) -> None:
        self.text, self.reason, self.holds = text, reason, holds
        self.why, self._terminated = "", terminated
        self.incident: Any = None
        self.asked = self.crashed = self.cancelled = False
        self._pid, self._port = link.pid, link.port if direct else None
        self._made_at, self._heard_at, self._lost_at = link.made_at, link.heard_at, now
        # When its transaction can have begun at the earliest.
        self._began_after = link.heard_at if first else link.made_at
        known = link.identity
        self._started: str | None = known[1] if known and known[0] == link.pid else None

    def forgotten(self, now: float) -> bool:
        """Whether it is not asked about any more."""
        return now - self._lost_at > _ASKED_FOR

    def settle(self, link: Link, seconds: float) -> None:
        """Find out what became of it, on a new connection; end it if it is there.

        Args:
            link: a connection that is not the lost one, with no transaction under way.
            seconds: how long to wait for its end.

        Raises:
            the driver's errors, when the new connection is lost in turn.
        """
        ends = time.monotonic() + min(seconds, _PATIENCE)
        while True:
            # Before: what the server then says of its sessions is no younger.
            now = time.monotonic()
            try:
                rows = _ask(link, self._pid, self._is_ours(link, now), max(0.1, ends - now))
            except link.connection.Error as error:
                if link.lost():
                    raise
                if link.status() != IDLE:
                    link.connection.rollback()
                if sqlstate_of(error) == _CANCELLED and now < ends:
                    continue  # by a statement_timeout shorter than the end of the session
                self.asked = True
                if self.holds:
                    refused = sqlstate_of(error) == _NOT_ALLOWED
                    self.why = _REFUSED if refused else first_line(error, {})
                return
            self.asked = True
            self.crashed = any(row[5] is not None and row[5] < now - self._heard_at for row in rows)
            up = max((row[6] for row in rows if row[6] is not None), default=0.0)
            lives_on = up > now - self._heard_at and not self.crashed
            self.cancelled = self._terminated and lives_on
            self.why = self._why(link, rows, now) if self.holds else ""
            # Of a session that ends by itself while it is asked for, pg_terminate_backend() says
            # the same as of one that does not end.
            if self.why not in {_BEHIND_A_POOLER, _GOES_ON} or time.monotonic() >= ends:
                return
            time.sleep(_PAUSE)

    def _is_ours(self, link: Link, now: float) -> str:
        if not self.holds:
            return "false"
        if self._started is not None:
            return _EXACTLY.format(started=Decimal(self._started))
        window = _WITHIN.format(
            own=link.pid,
            youngest=_float8(now - self._heard_at),
            oldest=_float8(_oldest(now - self._made_at)),
        )
        return window if self._port is None else window + _FROM_PORT.format(port=self._port)

    def _why(self, link: Link, rows: list[tuple[Any, ...]], now: float) -> str:
        if self._started is None and not any(row[0] and row[1] == link.pid for row in rows):
            at_least, at_most = now - self._lost_at, _oldest(now - self._began_after)
            older = any(
                not row[0] and _may_be_in_transaction(row, at_least, at_most) for row in rows
            )
            return _BEHIND_A_POOLER if older else ""
        for _, pid, age, _, ended, *_ in rows:
            if pid != self._pid:
                continue
            if ended is not None:
                return "" if ended else _GOES_ON
            if age is None:
                return _HIDDEN
            return _ANOTHER if age >= now - self._heard_at else ""
        return ""


def _may_be_in_transaction(row: tuple[Any, ...], at_least: float, at_most: float) -> bool:
    """Whether a session has a transaction of such an age (seconds), or is hidden."""
    return row[2] is None or (row[3] is not None and at_least <= row[3] <= at_most)


def _oldest(age: float) -> float:
    """What the server may say at most of something that the client knows to be no older."""
    return age + _LOGIN + age * _DRIFT


def _ask(link: Link, pid: int, ours: str, seconds: float) -> list[tuple[Any, ...]]:
    """Ask for the sessions of this login, and end the one that is ``ours``: one round trip.

    Nothing in the text comes from anybody but the engine: all that is filled in are numbers.
    """
    text = _SESSIONS.format(pid=int(pid), ours=ours, milliseconds=math.ceil(seconds * 1000))
    with link.asking() as cursor:
        cursor.execute(f"{_AS_LOGIN}; {text}")
        if cursor.description is None:
            cursor.nextset()  # psycopg 3 begins with the first result, psycopg2 has the last
        return [tuple(row) for row in cursor.fetchall()]


def _float8(seconds: float) -> str:
    return f"{seconds!r}::pg_catalog.float8"
