"""Leading the connections of an alias through a relay, and back."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from .errors import OutageError
from .relay import ADDRESS

_PATIENCE: Final = 10.0
# What libpq does not ask of a Unix socket, and would of TCP.
_NO_TLS: Final = {"sslmode": "disable", "gssencmode": "disable"}


def check(connection: BaseDatabaseWrapper) -> None:
    """Raise OutageError where an outage cannot be made."""
    alias = connection.alias
    if connection.vendor != "postgresql":
        raise OutageError(f'"{alias}" is not PostgreSQL but {connection.vendor}')
    if not connection.in_atomic_block:
        return
    blocks = connection.atomic_blocks
    if blocks and getattr(blocks[0], "_from_testcase", False):
        raise OutageError(
            f'"{alias}" is in the transaction of a TestCase, which a lost connection ends. '
            "Use TransactionTestCase, or @pytest.mark.django_db(transaction=True)"
        )
    raise OutageError(f'"{alias}" is inside atomic(): begin the outage before it')


def _socket_of(made: Any) -> socket.socket:
    """A duplicate of the socket of a driver's connection."""
    return socket.socket(fileno=os.dup(made.fileno()))


def port_of(made: Any) -> int:
    """The client's port of a driver's connection, which goes through a relay."""
    with _socket_of(made) as duplicate:
        return int(duplicate.getsockname()[1])


class Route:
    """Where the connections of an alias lead to, as one that was made says itself.

    That one knows what the environment, service files and password files have added.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        connection.ensure_connection()
        with _socket_of(connection.connection) as duplicate:
            self._family, self._place = duplicate.family, duplicate.getpeername()
        info = connection.connection.info
        # A password file is looked up by host and port, of which the port changes.
        self._host, self._password = info.host, info.password
        self._settings = connection.settings_dict
        self._before = dict(self._settings)

    def connect(self) -> socket.socket:
        """A socket connected to the server."""
        made = socket.socket(self._family)
        try:
            made.settimeout(_PATIENCE)
            made.connect(self._place)
        except OSError:
            made.close()
            raise
        return made

    @property
    def before(self) -> Mapping[str, Any]:
        """The settings that lead there directly."""
        return self._before

    def lead_through(self, port: int) -> None:
        """Change the settings of the alias, for all threads.

        HOST stays: certificates are checked against it.
        """
        options = {**self._before.get("OPTIONS", {}), "hostaddr": ADDRESS}
        host = self._host
        if self._family == socket.AF_UNIX:
            host = ADDRESS
            options |= _NO_TLS
            options.pop("sslnegotiation", None)
        password = self._before.get("PASSWORD") or self._password or ""
        change = {"HOST": host, "PORT": str(port), "OPTIONS": options, "PASSWORD": password}
        self._settings.update(change)

    def lead_back(self) -> None:
        """Put the settings back that were changed."""
        for name in ("HOST", "PORT", "OPTIONS", "PASSWORD"):
            self._settings[name] = self._before[name]


def close(connection: BaseDatabaseWrapper) -> None:
    """Close the connection of this thread, and those of a pool."""
    connection.close()
    close_pool: Callable[[], None] | None = getattr(connection, "close_pool", None)
    if close_pool is not None and connection.settings_dict.get("OPTIONS", {}).get("pool"):
        close_pool()
