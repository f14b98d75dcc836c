"""What stands in the place of a driver's connection or cursor that is no more."""

from __future__ import annotations

from typing import Any


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
