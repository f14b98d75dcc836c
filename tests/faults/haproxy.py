"""A real HAProxy before a PostgreSQL, forwarding TCP."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from typing import Final

from testproject import guard
from testproject.postgres import Server
from tests.engines import until
from tests.faults.daemons import ADDRESS, Daemon

_CONFIGURATION: Final = """
global
    maxconn 200
defaults
    mode tcp
    timeout connect {connect}
    timeout client {client}
    timeout server {server}
listen postgresql
    bind {address}:{port}
    server only {address}:{target}
"""
_TIMEOUTS: Final = {"connect": "5s", "client": "1h", "server": "1h"}


class HAProxy(Daemon):
    """HAProxy.

    ``timeouts``: ``client``, ``server``, ``connect``, as HAProxy writes them ("7s").
    """

    name = "haproxy"

    def __init__(self, server: Server, **timeouts: str) -> None:
        super().__init__(server)
        unknown = timeouts.keys() - _TIMEOUTS.keys()
        if unknown:
            raise ValueError(f"HAProxy has no timeout {sorted(unknown)} here")
        values = {**_TIMEOUTS, **timeouts}
        self._file = self.folder / "haproxy.cfg"
        self._file.write_text(
            _CONFIGURATION.format(address=ADDRESS, port=self.port, target=server.port, **values)
        )

    def launch(self) -> subprocess.Popen[str]:
        """A master in the foreground and a worker: that is what can be reloaded."""
        command = [self.program(), "-W", "-db", "-f", str(self._file)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def reload(self, *, at_once: bool) -> None:
        """Put a new worker in the place of the old one, which may finish what it forwards.

        ``at_once``: it may not, as after HAProxy's ``hard-stop-after``.
        """
        until(lambda: bool(self._workers()), "no worker")
        before, asked = self._workers(), -math.inf

        def renewed() -> bool:
            nonlocal asked
            # Once more after a second: one that comes while the master is starting is passed over.
            if time.monotonic() > asked + 1:
                asked = time.monotonic()
                self.signal(signal.SIGUSR2)
            return bool(self._workers() - before)

        until(renewed, "no new worker")
        if at_once:
            for old in before:
                os.kill(old, signal.SIGTERM)
            until(lambda: not self._workers() & before, "the old worker stays")

    def _workers(self) -> set[int]:
        assert self._process is not None
        return set(guard.children(self._process.pid))
