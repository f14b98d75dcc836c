"""What stands in the place of a driver's connection or cursor that is no more."""

from __future__ import annotations

import time
from typing import Any


class LastWord:
    """What the server said when it ended the session: plain text and codes."""

    __slots__ = ("at", "severity", "sqlstate", "text")

    def __init__(self, severity: str | None, sqlstate: str | None, text: str) -> None:
        self.severity, self.sqlstate, self.text = severity, sqlstate, text
        self.at = time.monotonic()


class Closed:
    """In the place of a connection that is no more: as psycopg2 has a closed one."""

    closed = 1

    def __init__(self, error: type[Exception]) -> None:
        self._error = error
        self.Error = error.__base__

    def close(self) -> None:
        """Nothing is left to close."""

    def __getattr__(self, name: str) -> Any:
        raise self._error("connection already closed")


class LeftCursor:
    """In the place of a driver's cursor whose connection is replaced before its next statement."""

    closed = True
    description = query = None  # which Django's debug log reads
    rowcount = -1

    def __init__(self, cursor: Any) -> None:
        self.arraysize = cursor.arraysize
        self._error = cursor.connection.InterfaceError

    def close(self) -> None:
        """Nothing is left to close."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error("cursor already closed")

    execute = executemany = fetchone = fetchmany = fetchall = _refuse
