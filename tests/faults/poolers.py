"""PgBouncer and HAProxy that can be restarted, reloaded and told what to do."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testproject.cluster import free_port
from testproject.postgres import Server
from tests.engines import DRIVER
from tests.faults import haproxy, pgbouncer

PATIENCE = 10.0


class Daemon:
    """A program that runs before a server, on a port of its own, until the block is left."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(dir=server.folder.parent)
        self._process: subprocess.Popen[str] | None = None

    @property
    def folder(self) -> Path:
        """Its files."""
        return Path(self._folder.name)

    def launch(self) -> subprocess.Popen[str]:
        """Start the process."""
        raise NotImplementedError

    def wait(self, process: subprocess.Popen[str]) -> None:
        """Wait until it listens."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, and wait until it listens."""
        self._process = process = self.launch()
        self.wait(process)

    def stop(self) -> None:
        """End it at once, and with it all that goes through it."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=PATIENCE)
            self._process = None

    def restart(self) -> None:
        """Stop and start again, on the same port."""
        self.stop()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def database(self, **given: Any) -> dict[str, Any]:
        """Return an entry for DATABASES that leads through it."""
        return self.server.database(**{"PORT": str(self.port), **given})

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._folder.cleanup()


class PgBouncer(Daemon):
    """PgBouncer over TLS; ``settings``: of pgbouncer.ini, such as ``pool_mode="transaction"``."""

    def __init__(self, server: Server, **settings: object) -> None:
        super().__init__(server)
        self._file = pgbouncer._configuration(self.folder, server, self.port, True, settings)

    def launch(self) -> subprocess.Popen[str]:
        return pgbouncer._launch(self._file)

    def wait(self, process: subprocess.Popen[str]) -> None:
        pgbouncer._wait(process, self.port)

    def console(self, command: str) -> list[tuple[Any, ...]]:
        """Give a command at the console: RECONNECT, KILL app, RESUME app, SHOW POOLS ..."""
        driver: Any = importlib.import_module(DRIVER)
        link = driver.connect(
            host="localhost",
            port=self.port,
            dbname="pgbouncer",
            user=self.server.user,
            password=self.server.password,
            sslmode="require",
        )
        try:
            link.autocommit = True
            cursor = link.cursor()
            cursor.execute(command)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        finally:
            link.close()


class HAProxy(Daemon):
    """HAProxy that forwards TCP; ``timeouts``: as :func:`tests.faults.haproxy.haproxy`."""

    def __init__(self, server: Server, **timeouts: str) -> None:
        super().__init__(server)
        self._file = self.folder / "haproxy.cfg"
        self._file.write_text(haproxy._configuration(self.port, server.port, timeouts))

    def launch(self) -> subprocess.Popen[str]:
        # A master and a worker: that is what can be reloaded.
        command = ["haproxy", "-W", "-db", "-f", str(self._file)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def wait(self, process: subprocess.Popen[str]) -> None:
        haproxy._wait(process, self.port)

    def reload(self, *, at_once: bool) -> None:
        """Put a new worker in the place of the old one, which may finish what it forwards.

        ``at_once``: it may not, as after HAProxy's ``hard-stop-after``.
        """
        assert self._process is not None
        before = self._workers()
        self.signal(signal.SIGUSR2)
        until(lambda: bool(self._workers() - before), "no new worker")
        if at_once:
            for old in before:
                os.kill(old, signal.SIGTERM)
            until(lambda: not self._workers() & before, "the old worker stays")

    def _workers(self) -> set[int]:
        from testproject import guard

        assert self._process is not None
        return set(guard.children(self._process.pid))


def until(done: Callable[[], bool], otherwise: str) -> None:
    """Wait for something; TimeoutError if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} after {PATIENCE:g} s")
        time.sleep(0.02)
