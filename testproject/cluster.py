"""The processes and files of an embedded PostgreSQL, without a connection to it."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from testproject import binaries, certificates, guard, prepared

Mode = Literal["smart", "fast", "immediate"]
SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# Below the range from which Linux and macOS take the ports of outgoing connections: while the
# server is down, one of those could get its port, or a client connect to itself.
PORTS = range(20000, 32000)

START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0

SETTINGS = {
    "fsync": "off",  # the data is thrown away; set "on" to measure commits
    "shared_buffers": "32MB",
    "max_wal_size": "1GB",  # the usual; initdb takes less where segments are small
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}

MEMORY = Path("/dev/shm")
ENOUGH = 4 * 2**30  # bytes; a server takes some 60 MB, and four runs go on at once

HBA = """\
local all postgres trust
local all all scram-sha-256
hostssl all all all scram-sha-256
host all all all scram-sha-256
hostssl replication all all scram-sha-256
"""


class Cluster:
    """What :class:`testproject.postgres.Server` is as processes and files; arguments: there."""

    host = "localhost"
    superuser = "postgres"
    #: The unprivileged user, and the database that belongs to it.
    user = "app"

    def __init__(
        self,
        version: str | None = None,
        *,
        tls: bool = True,
        settings: Mapping[str, str] | None = None,
        pg_bin: str | None = None,
        address: str = "127.0.0.1",
        launcher: Sequence[str] = (),
    ) -> None:
        self.version = version or os.environ.get("PG_VERSION") or "18"
        self.tls = tls
        self.address = address
        self.port = 0
        self.superuser_password = secrets.token_hex(12)
        self._settings = {**SETTINGS, **(settings or {})}
        self._pg_bin = pg_bin
        self._launcher = tuple(launcher)
        self._account = binaries.server_account()
        self._folder: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid = os.getpid()

    # Life and death

    def start(self) -> None:
        """Start the server and wait until it accepts connections; the first time, create it."""
        if self._folder is None:
            self._create()
        self._launch()

    def stop(self, mode: Mode = "fast") -> None:
        """Stop: "smart" waits for the sessions to end, "immediate" is a crash with notice."""
        if self._process is None:
            return
        guard.send(self._process.pid, SIGNALS[mode])
        self._process.wait(STOP_TIMEOUT)
        self._process = None

    def restart(self, mode: Mode = "fast") -> None:
        """Stop and start again, on the same port."""
        self.stop(mode)
        self.start()

    def pause(self) -> None:
        """Freeze all processes: the kernel still accepts connections, but nobody answers."""
        guard.send(self.pid, signal.SIGSTOP)  # first, so that no new process appears meanwhile
        for child in guard.children(self.pid):
            guard.send(child, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        for process in (*guard.children(self.pid), self.pid):
            guard.send(process, signal.SIGCONT)

    def close(self) -> None:
        """Stop the server at once and remove everything; does nothing in a forked child."""
        if self._guard is None or os.getpid() != self._owner_pid:
            return
        if self._process is not None:
            self.resume()  # a paused server would not hear the signal
            self.stop("immediate")
        self._guard.communicate(b"x")
        self._guard = self._process = self._folder = None

    def __enter__(self) -> Self:
        """Start."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    # Places

    @property
    def folder(self) -> Path:
        """The folder of all files of this server; raises RuntimeError before the start."""
        if self._folder is None:
            raise RuntimeError("this server has not been started")
        return self._folder

    @property
    def pid(self) -> int:
        """The process id of the server; raises RuntimeError while it is stopped."""
        if self._process is None:
            raise RuntimeError("this server is not running")
        return self._process.pid

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.folder / "data"

    @property
    def ca_file(self) -> str:
        """Path of the authority's certificate, for ``sslrootcert``."""
        return str(self.folder / "ca.pem")

    @property
    def socket_dir(self) -> str:
        """The folder of the Unix socket, open to the server's own account (and root) only."""
        return str(self.folder)

    def log_text(self) -> str:
        """Return what the server has logged so far, over all its starts."""
        return (self.folder / "log").read_text(errors="replace")

    # Parts of starting

    def _create(self) -> None:
        bin_dir = binaries.bin_dir(self.version, self._pg_bin)
        self.version = binaries.version_of(bin_dir)
        self._bin = bin_dir
        self.port = free_port()
        folder = Path(tempfile.mkdtemp(prefix="pg-", dir=_temporary_root())).resolve()
        self._folder = folder
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # who reads our output should not have to wait for the guard
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl+C is for the starter; the guard sees the end of the pipe
        )
        if self._account is not None:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        self._initdb()
        certificates.issue(folder, self.host, "127.0.0.1", self.address, owner=self._account)
        self._configure_files()

    def _initdb(self) -> None:
        prepared.copy(self._bin, self.superuser, self.user, self.data, self._run)

    def _run(self, command: Sequence[str], input: str | None = None) -> None:
        """Run a program as the server's account; raises RuntimeError with what it said.

        ``input``: what it reads from its standard input.
        """
        pipe = subprocess.DEVNULL if input is None else subprocess.PIPE
        process = self._popen(command, stdin=pipe, stdout=subprocess.PIPE, cwd=self.folder)
        output, _ = process.communicate(None if input is None else input.encode())
        if process.returncode:
            said = output.decode(errors="replace").strip()
            raise RuntimeError(f"{Path(command[0]).name} failed: {said}")

    def _configure_files(self) -> None:
        settings = {
            "listen_addresses": self.address,
            "port": str(self.port),
            "unix_socket_directories": self.socket_dir,
            "ssl": "on" if self.tls else "off",
            "ssl_cert_file": str(self.folder / "server.pem"),
            "ssl_key_file": str(self.folder / "server.key"),
            **self._settings,
        }
        lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(lines)
        (self.data / "pg_hba.conf").write_text(HBA)

    def _launch(self) -> None:
        with (self.folder / "log").open("ab") as log:
            command = [str(self._bin / "postgres"), "-D", str(self.data)]
            self._process = self._popen(command, stdout=log, cwd=self.data, launcher=self._launcher)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process = None
                last = "\n".join(self.log_text().splitlines()[-5:])
                raise RuntimeError(f"PostgreSQL {self.version} did not start:\n{last}")
            time.sleep(0.005)

    def _ready(self) -> bool:
        """Return whether the server says so in the file that pg_ctl looks at too."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _popen(
        self,
        command: Sequence[str],
        *,
        stdout: Any,
        cwd: Path,
        stdin: int = subprocess.DEVNULL,
        launcher: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program of PostgreSQL as its account, with nothing of our environment."""
        account = self._account
        switch: dict[str, Any] = {}
        if account is not None and launcher:
            # The launcher needs root, so only the command behind it gives root up.
            ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            command = [*launcher, "setpriv", *ids, *command]
        elif account is not None:
            switch = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        else:
            command = [*launcher, *command]
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            umask=0o077,
            start_new_session=True,
            **switch,
        )


def free_port() -> int:
    """Return a port that nothing listens on."""
    for port in random.sample(PORTS, 50):
        with socket.socket() as probe:
            # As PostgreSQL does; else a port whose connections are in TIME_WAIT would look taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port found between {PORTS.start} and {PORTS.stop - 1}")


def _temporary_root() -> str | None:
    """Return the folder for temporary folders that the server can enter; None: the usual one.

    In memory where there is enough: on a disk the making of a server takes four times as long.
    """
    if "TMPDIR" not in os.environ and _has_room(MEMORY):
        return str(MEMORY)
    return None if binaries.reachable(Path(tempfile.gettempdir())) else "/tmp"


def _has_room(folder: Path) -> bool:
    writable = folder.is_dir() and os.access(folder, os.W_OK)
    return writable and shutil.disk_usage(folder).free > ENOUGH
