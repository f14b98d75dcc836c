"""Programs between an application and its server, that can be restarted and told what to do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from testproject import binaries
from testproject.cluster import free_port
from testproject.postgres import Server
from tests import needs
from tests.engines import PATIENCE, until

ADDRESS: Final = "127.0.0.1"


class Daemon:
    """A program that runs before a server, on a port of its own, until the block is left."""

    name: ClassVar[str]

    def __init__(self, server: Server) -> None:
        needs.check_named(self.name)
        self.server = server
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{self.name}-", dir=server.folder.parent)
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    def program(cls) -> str:
        """Return where it is."""
        return needs.program(cls.name)

    @property
    def folder(self) -> Path:
        """Its files."""
        return Path(self._folder.name)

    def launch(self) -> subprocess.Popen[str]:
        """Start the process, with a pipe as its standard error."""
        raise NotImplementedError

    def hand_over(self) -> dict[str, Any]:
        """Give its files to the account of the server: such programs refuse to be root.

        Returns:
            What has ``Popen`` start a process of that account.
        """
        account = binaries.server_account()
        if account is None:
            return {}
        for each in (self.folder, *self.folder.iterdir()):
            os.chown(each, account.pw_uid, account.pw_gid)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def start(self) -> None:
        """Start, and wait until it listens."""
        self._process = self.launch()
        try:
            until(self._listens, f"{self.name} does not listen")
        except BaseException:
            self.stop()
            raise

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {self._process.communicate()[1]}")
        with socket.socket() as attempt:
            return attempt.connect_ex((ADDRESS, self.port)) == 0

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
