"""Terminating a session as its own role may: what the server says then is real."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from .errors import OutageError

_PATIENCE: Final = 10.0


def check_direct(connection: BaseDatabaseWrapper) -> None:
    """Raise OutageError where a pooler gives a connection sessions of its own."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.pg_backend_pid()")
        pid = int(cursor.fetchone()[0])
    if pid != connection.connection.info.backend_pid:
        raise OutageError(
            f'"{connection.alias}" is connected to a pooler, whose sessions nobody here may '
            'terminate: use by="path"'
        )


class Terminator:
    """Terminates sessions over a connection of its own, which goes past the relay.

    Args:
        connection: of the alias.
        settings: those that lead to the server directly.
    """

    def __init__(self, connection: BaseDatabaseWrapper, settings: Mapping[str, Any]) -> None:
        self._class, self._alias = type(connection), connection.alias
        options = {name: value for name, value in settings["OPTIONS"].items() if name != "pool"}
        self._settings = {**settings, "OPTIONS": options}
        self.error: Exception | None = None

    def __call__(self, pid: int) -> bool:
        """Terminate the session, and wait until it is gone; what goes wrong is kept.

        Returns:
            Whether it is gone.
        """
        own = self._class(dict(self._settings), self._alias)
        try:
            with own.cursor() as cursor:
                self._terminate(cursor, pid)
        except Exception as error:  # raised where the block ends: this may be the relay's thread
            self.error = error
        finally:
            own.close()
        return self.error is None

    def _terminate(self, cursor: Any, pid: int) -> None:
        cursor.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])
        deadline = time.monotonic() + _PATIENCE
        while _exists(cursor, pid):
            if time.monotonic() > deadline:
                raise OutageError(f"the server has not terminated a session in {_PATIENCE:g} s")
            time.sleep(0.005)


def _exists(cursor: Any, pid: int) -> bool:
    cursor.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS s"
        " WHERE s.pid OPERATOR(pg_catalog.=) %s)",
        [pid],
    )
    return bool(cursor.fetchone()[0])
