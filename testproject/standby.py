"""A primary and a streaming standby, and the ways in which they change their roles."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testproject.cluster import START_TIMEOUT, free_port
from testproject.postgres import Server

# So that a write that was acknowledged is on the standby too, whatever becomes of the primary.
SYNCHRONOUS = {"synchronous_standby_names": "*", "synchronous_commit": "on"}
# PostgreSQL's defaults are meant for servers that are far away: a standby tries to connect again
# after 5 s.
QUICK = {"wal_retrieve_retry_interval": "100ms"}


class Standby(Server):
    """A copy of a running server that follows it; the users and their passwords are the same."""

    def __init__(
        self,
        primary: Server,
        *,
        settings: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        super().__init__(primary.version, tls=primary.tls, settings=settings, address=address)
        self._primary, self._own_port = primary, port
        self.superuser_password = primary.superuser_password
        self.password = primary.password

    def start(self) -> None:
        """Start; the first time take the copy. Users and databases come with it."""
        super(Server, self).start()

    def _initdb(self) -> None:
        self.port = self._own_port or free_port()
        primary = self._primary
        where = f"host={primary.address} port={primary.port} user={primary.superuser}"
        command = [
            str(self._bin / "pg_basebackup"),
            *("-d", f"{where} password={primary.superuser_password} sslmode=require"),
            *("-D", str(self.data), "--checkpoint=fast", "--no-sync"),
        ]
        copying = self._popen(command, stdout=subprocess.PIPE, cwd=self.folder)
        output, _ = copying.communicate()
        if copying.returncode:
            raise RuntimeError(f"pg_basebackup failed: {output.decode(errors='replace')}")
        follow(self, primary)

    def _ready(self) -> bool:
        return super()._ready() or _status(self.data) == [str(self.pid), "standby"]


class Replicated:
    """A primary and a standby. ``synchronous``: COMMIT waits until the standby has it.

    ``addresses`` and ``port``: for servers that differ by address alone, as behind one name.
    """

    def __init__(
        self,
        *,
        synchronous: bool = True,
        standby_settings: Mapping[str, str] | None = None,
        addresses: tuple[str, str] = ("127.0.0.1", "127.0.0.1"),
        port: int | None = None,
    ) -> None:
        self._stack = ExitStack()
        self._synchronous = synchronous
        self._standby_settings = {**QUICK, **(standby_settings or {})}
        self._addresses, self._port = addresses, port
        # By which of them they began; who is what now, see ``is_standby``.
        self.first: Server
        self.second: Standby

    def __enter__(self) -> Self:
        """Start both; returns when the standby follows."""
        with self._stack:
            self.first = self._stack.enter_context(
                _Placed(self._port, settings=QUICK, address=self._addresses[0])
            )
            self.second = self._stack.enter_context(
                Standby(
                    self.first,
                    settings=self._standby_settings,
                    address=self._addresses[1],
                    port=self._port,
                )
            )
            wait_followed(self.first)
            if self._synchronous:
                self.first.configure(**SYNCHRONOUS)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove both."""
        self._stack.close()

    @property
    def ca_file(self) -> str:
        """A file with the authorities of both, for ``sslrootcert``."""
        both = self.first.folder / "both.pem"
        if not both.exists():
            files = [Path(server.ca_file) for server in (self.first, self.second)]
            both.write_text("".join(file.read_text() for file in files))
        return str(both)

    def database(
        self, *, options: Mapping[str, object] | None = None, **overrides: Any
    ) -> dict[str, Any]:
        """Return an entry for DATABASES that names both hosts; arguments: see ``Server``."""
        both = {
            "HOST": f"{self.first.host},{self.second.host}",
            "PORT": f"{self.first.port},{self.second.port}",
        }
        tls = {"sslrootcert": self.ca_file}
        return self.first.database(options={**tls, **(options or {})}, **{**both, **overrides})

    def wait_replayed(self) -> None:
        """Wait until the second can show what the first has committed."""
        [(lsn,)] = self.first.execute("SELECT pg_current_wal_lsn()::text")
        sql = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        _wait(lambda: self.second.execute(sql, [lsn]) == [(True,)], "the standby lags behind")

    def crash_and_promote(self) -> float:
        """End the first at once and promote the second; see ``promote`` for what is returned."""
        self.first.stop("immediate")
        return self.promote()

    def switch_over(self) -> float:
        """Promote the second, and let the first come back as its standby."""
        self.first.stop("fast")  # a clean shutdown waits until the standby has everything
        accepted = self.promote()
        self.demote_first()
        return accepted

    def promote(self) -> float:
        """Promote the second; returns when (``time.monotonic``) it accepted a write."""
        self.second.execute("SELECT pg_promote(wait => true)")
        self.second.execute("CREATE TABLE accepts_writes ()")
        accepted = time.monotonic()
        self.second.execute("DROP TABLE accepts_writes")
        return accepted

    def demote_first(self) -> None:
        """Start the first, cleanly stopped before, as a standby of the second."""
        follow(self.first, self.second)
        self.first.start()
        wait_followed(self.second)


class _Placed(Server):
    """A server on a port of one's choice, that can also start as a standby."""

    def __init__(self, port: int | None, **given: Any) -> None:
        super().__init__(**given)
        self._own_port = port

    def _initdb(self) -> None:
        self.port = self._own_port or self.port
        super()._initdb()

    def _ready(self) -> bool:
        return super()._ready() or _status(self.data) == [str(self.pid), "standby"]


def follow(standby: Server, primary: Server) -> None:
    """Make a server that is stopped a standby of another one."""
    # Not by pg_basebackup: it writes what its own libpq knows, and the server may load another one.
    where = f"host={primary.address} port={primary.port} user={primary.superuser}"
    secret = f"password={primary.superuser_password} sslmode=require"
    with (standby.data / "postgresql.auto.conf").open("a") as conf:
        conf.write(f"synchronous_standby_names = ''\nprimary_conninfo = '{where} {secret}'\n")
    (standby.data / "standby.signal").touch()


def wait_followed(server: Server) -> None:
    """Wait until a standby streams from ``server``."""
    sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
    _wait(lambda: server.execute(sql) == [(1,)], "no standby streams")


def _status(data: Path) -> list[str]:
    """The process id and the state that a server has noted for pg_ctl."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []
    return [lines[0], lines[7].strip()] if len(lines) > 7 else []


def _wait(done: Any, otherwise: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} after {START_TIMEOUT:g} s")
        time.sleep(0.02)
