"""Terminates the session of a connection of our own, and no other.

A second session with the same credentials does that, by ``pg_terminate_backend``, which
PostgreSQL allows every role for its own sessions (manual, "Server Signaling Functions").
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...driver.exceptions import sqlstate_of
from ...driver.link import Link
from ..path.network import answer

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

#: Seconds for each answer of the second session, and for each ending.
TIMEOUT: Final = 5.0
#: Seconds to wait for the read that is to be ended while it runs.
PATIENCE: Final = 3.0
_LOOK: Final = 0.02

# The process id alone could be anybody's: of another host of the alias, or used again since.
# Everything is named with its schema: the application's may come before pg_catalog.
_EQ: Final = "OPERATOR(pg_catalog.=)"
_MICRO: Final = "OPERATOR(pg_catalog.*) 1000000)::bigint"
_SERVER: Final = f"(EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()) {_MICRO}"
_STARTED: Final = f"(EXTRACT(epoch FROM a.backend_start) {_MICRO}"
_SESSIONS: Final = "pg_catalog.pg_stat_activity AS a"
_WHO: Final = f"SELECT pg_catalog.pg_backend_pid(), {_SERVER}"
# Asked in the second session: the role that the first one has assumed may not see its own start.
_SEE: Final = (
    f"SELECT pg_catalog.pg_backend_pid(), {_SERVER},"
    f" (SELECT {_STARTED} FROM {_SESSIONS} WHERE a.pid {_EQ} %s)"
)
# The statement that terminates also checks which session runs it: a pooler could move us.
_END: Final = (
    "SELECT pg_catalog.pg_backend_pid(),"
    f" (SELECT pg_catalog.pg_terminate_backend(a.pid, %s) FROM {_SESSIONS}"
    f" WHERE a.pid {_EQ} %s AND {_STARTED} {_EQ} %s AND pg_catalog.pg_backend_pid() {_EQ} %s"
    " AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid())"
)
_BUSY: Final = (
    f"SELECT pg_catalog.count(*) FROM {_SESSIONS}"
    f" WHERE a.pid {_EQ} %s AND a.state {_EQ} 'active'"
    f" AND a.query OPERATOR(pg_catalog.~~) %s AND {_STARTED} {_EQ} %s"
)
_SHARED: Final = "A pooler seems to share the sessions: terminating one could hit another client's."
_NO_RIGHT: Final = "42501"
# PostgreSQL gives both to every role; hardened servers take them away.
_RIGHTS: Final = "The role needs EXECUTE on pg_terminate_backend and SELECT on pg_stat_activity."


class Impossible(Exception):
    """A session could not be ended; says why."""


class Victim(NamedTuple):
    """A session: its process, and when that began (microseconds)."""

    process: int
    started: int


def _shaped(columns: int, rows: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return the one row of an answer.

    Raises:
        Impossible: it has another shape: what answers is no PostgreSQL.
    """
    if len(rows) != 1 or len(rows[0]) != columns:
        raise Impossible("The server's answer has the wrong shape.")
    return rows[0]


class Terminator:
    """Ends the session of ``db``, by way of the session ``second``.

    Args:
        db: a connection of our own.
        second: open and idle, of the same role.
        hide: takes secrets out of a text.

    Attributes:
        ended: whether the session that :meth:`know` has told last is known to be gone.
        asked_at, ended_at: when the server was asked to terminate it, and when it was gone
            (``time.monotonic``).
        failed: why not, of the one that was to be ended :meth:`midway`, or "".

    Raises:
        Impossible: the second session does not answer.
    """

    def __init__(self, db: BaseDatabaseWrapper, second: Link, hide: Callable[[str], str]) -> None:
        self._db, self._second, self._hide = db, second, hide
        self.ended = False
        self.asked_at = self.ended_at = 0.0
        self.failed = ""
        self._thread: threading.Thread | None = None
        (self._own,) = self._ask(1, "SELECT pg_catalog.pg_backend_pid()")

    def know(self) -> Victim:
        """Return which session the connection has.

        Raises:
            Impossible: it is none that could be ended.
        """
        self.ended, self.failed, self._thread = False, "", None
        with self._db.cursor() as cursor:
            cursor.execute(_WHO)
            process, server = _shaped(2, cursor.fetchall())
        own, other, started = self._ask(3, _SEE, [process])
        if other != server:
            raise Impossible("The second session is on another server: name one host in HOST.")
        if own != self._own or own == process:
            raise Impossible(_SHARED)
        if started is None:
            raise Impossible("This role may not see its own sessions in pg_stat_activity.")
        return Victim(process, started)

    def end(self, victim: Victim) -> None:
        """End a session and wait until it is gone.

        Raises:
            Impossible: it was not ended.
        """
        limit = int(TIMEOUT * 1000)
        self.asked_at = time.monotonic()
        # Longer than the server waits, so that its answer is heard.
        own, gone = self._ask(2, _END, [limit, *victim, self._own], TIMEOUT + 1)
        if own != self._own:
            raise Impossible(_SHARED)
        if gone is None:
            raise Impossible("The session was gone before it could be terminated.")
        if not gone:
            raise Impossible(f"The session was still there after {TIMEOUT:g} s.")
        self.ended, self.ended_at = True, time.monotonic()

    def midway(self, victim: Victim, mark: str) -> None:
        """End it as soon as a statement with this mark runs in it; :meth:`join` waits for that."""

        def run() -> None:
            try:
                self._wait_until_busy(victim, mark)
                self.end(victim)
            except Impossible as error:
                self.failed = str(error)

        self._thread = threading.Thread(target=run, name="checkdbconn drill", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until what was begun :meth:`midway` has come to its end."""
        if self._thread is not None:
            self._thread.join()

    def _wait_until_busy(self, victim: Victim, mark: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            (busy,) = self._ask(1, _BUSY, [victim.process, f"%{mark}%", victim.started])
            if busy:
                return
            time.sleep(_LOOK)
        raise Impossible("The read was never seen running.")

    def _ask(
        self, columns: int, sql: str, parameters: list[Any] | None = None, seconds: float = TIMEOUT
    ) -> tuple[Any, ...]:
        """Ask the second session for one row; it waits where a pool has no server left for it."""
        try:
            found = answer(lambda: self._second.ask(sql, parameters), self._second.fd, seconds)
        except TimeoutError:
            why = f"The second session got no answer within {seconds:g} s."
        except Exception as error:  # the raw driver's, whichever it is
            why = self._refused(error)
        else:
            return _shaped(columns, found)
        raise Impossible(why)

    def _refused(self, error: Exception) -> str:
        if self._second.lost():
            return f"The second session is lost. {self.line(error)}"
        right = f" {_RIGHTS}" if sqlstate_of(error) == _NO_RIGHT else ""
        return f"The second session's query was refused. {self.line(error)}{right}"

    def line(self, error: Exception) -> str:
        """The first line of what was said."""
        first = self._hide(str(error)).strip().partition("\n")[0].strip()
        return f"{type(error).__name__}: {first.rstrip('.')}."
