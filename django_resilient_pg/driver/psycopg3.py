"""A connection of psycopg 3."""

from __future__ import annotations

import contextlib
import re
import time
from functools import partial
from typing import Any, Final

from .link import LAST, MAX_ROUNDS, LastWord, Link

# What a session's end is announced with, other than FATAL and PANIC: a WARNING of the end of the
# server, with admin_shutdown or crash_shutdown. Functions may raise what they like.
_WARNED: Final = frozenset({"57P01", "57P02"})
# From this version on psycopg takes notice of DISCARD ALL.
_NOTICES_DISCARD: Final = (3, 3, 5)
# What can be registered on a connection, besides adapters.
_FACTORIES: Final = ("row_factory", "cursor_factory", "server_cursor_factory")
# Fields of an error (PG_DIAG_SQLSTATE, PG_DIAG_MESSAGE_PRIMARY).
_SQLSTATE, _MESSAGE = ord("C"), ord("M")


class Psycopg3Link(Link):
    """psycopg 3: the libpq connection is open to us (``connection.pgconn``)."""

    __slots__ = ()
    keeps_rows = True

    def __init__(self, connection: Any, alias: str) -> None:
        super().__init__(connection, alias)
        self.status = partial(getattr, connection.pgconn, "transaction_status")
        connection.add_notice_handler(self._notice)

    def _notice(self, diagnostic: Any) -> None:
        severity = diagnostic.severity_nonlocalized or diagnostic.severity
        if severity in LAST or (severity == "WARNING" and diagnostic.sqlstate in _WARNED):
            text = diagnostic.message_primary or ""
            self._hear(LastWord(severity, diagnostic.sqlstate, text))

    def registered(self) -> dict[str, Any]:
        """See :meth:`Link.registered`."""
        connection = self.connection
        own = {name: getattr(connection, name) for name in _FACTORIES}
        return {**own, "adapters": connection.adapters}

    def register(self, registered: dict[str, Any]) -> None:
        """See :meth:`Link.register`: there is no other way to make a connection's adapters."""
        own = {name: value for name, value in registered.items() if name != "adapters"}
        super().register(own)
        adapters = registered["adapters"]
        self.connection._adapters = type(adapters)(adapters)

    def wrote_unseen(self) -> bool:
        """See :meth:`Link.wrote_unseen`."""
        from .literals import told_by_texts

        return not told_by_texts(("%",), self.connection)

    def busy(self) -> bool:
        """See :meth:`Link.busy`."""
        pgconn = self.connection.pgconn
        # The lock is held while a notifies() generator runs: what we read it would miss.
        return bool(pgconn.pipeline_status) or self.connection.lock.locked()

    def in_pipeline(self) -> bool:
        """See :meth:`Link.in_pipeline`."""
        # Of a closed connection libpq says that there is none; the block is still to be left.
        return getattr(self.connection, "_pipeline", None) is not None

    def consume(self) -> None:
        """See :meth:`Link.consume`."""
        pgconn = self.connection.pgconn
        # An error here is the end of the stream; lost() then tells.
        with contextlib.suppress(self.connection.Error):
            for _ in range(MAX_ROUNDS):
                pgconn.consume_input()
                pgconn.is_busy()  # makes libpq parse what it has read
                self._hand_on_notifies()
                if not self.poll(0):
                    break

    def _hand_on_notifies(self) -> None:
        """As psycopg's own fetch does: to the handlers or to the backlog."""
        pgconn = self.connection.pgconn
        while (notify := pgconn.notifies()) is not None:
            if pgconn.notify_handler is not None:
                pgconn.notify_handler(notify)

    def ping(self, timeout: float) -> bool:
        """See :meth:`Link.ping`."""
        pgconn = self.connection.pgconn
        deadline = time.monotonic() + timeout
        try:
            pgconn.send_query(b"SELECT 1")
            while pgconn.flush():
                if not self._wait(deadline, writable=True):
                    return False
                pgconn.consume_input()
            while True:
                while pgconn.is_busy():
                    if not self._wait(deadline):
                        return False
                    pgconn.consume_input()
                if (result := pgconn.get_result()) is None:
                    self._hand_on_notifies()
                    return not self.lost()
                if text := result.error_field(_MESSAGE):
                    self._refused(result.error_field(_SQLSTATE) or b"", text)
        except self.connection.Error:
            return False
        except BaseException:
            # A signal handler's: the answer is still to come, and would be taken for another's.
            self.close()
            raise

    def server(self) -> tuple[str | None, int | None]:
        """See :meth:`Link.server`."""
        pgconn = self.connection.pgconn
        return pgconn.host.decode(errors="replace") or None, int(pgconn.port or 0) or None

    def backend_pid(self) -> int:
        """See :meth:`Link.backend_pid`."""
        return int(self.connection.pgconn.backend_pid)

    def keeps_prepared(self) -> bool:
        """Whether the driver would believe in its prepared statements after DISCARD ALL.

        It asks the server (a round trip). Newer versions notice what has become of them.
        """
        from psycopg import __version__ as version

        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        if numbers >= _NOTICES_DISCARD:
            return False
        return bool(self.ask("SELECT FROM pg_catalog.pg_prepared_statements LIMIT 1"))

    def cursor(self) -> Any:
        """See :meth:`Link.cursor`."""
        from psycopg.rows import tuple_row

        return self.connection.cursor(row_factory=tuple_row)
