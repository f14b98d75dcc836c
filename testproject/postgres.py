"""An embedded PostgreSQL for demo, tests and benchmarks: over TLS, gone with its starter."""

from __future__ import annotations

import importlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from testproject import guard, sockets
from testproject.cluster import START_TIMEOUT, Cluster, Mode
from testproject.passwords import verifier

__all__ = ["Mode", "Server"]

GONE_TIMEOUT = 10.0
Run = Callable[..., list[tuple[Any, ...]]]


class Server(Cluster):
    """A PostgreSQL server of one major version, with a certificate for localhost and 127.0.0.1.

    ``version``: major, None: the environment variable PG_VERSION, or 18; with ``pg_bin`` (or
    PG_BIN) that of the programs found there. ``settings`` go to postgresql.conf, over SETTINGS.
    ``address``: where it listens. ``launcher``: a command to put before ``postgres``, such as
    ``ip netns exec NAME``. As root the server runs as nobody.
    """

    @cached_property
    def password(self) -> str:
        """The unprivileged user's: another one for every server."""
        return secrets.token_hex(12)

    def start(self) -> None:
        """Start the server; the first time also create it, with passwords for its users."""
        first = self._folder is None
        super().start()
        if first:
            self.execute(
                f"ALTER ROLE {self.superuser} PASSWORD '{verifier(self.superuser_password)}';"
                f" ALTER ROLE {self.user} PASSWORD '{verifier(self.password)}'"
            )

    def database(
        self,
        name: str = "app",
        *,
        engine: str = "django_resilient_pg",
        user: str | None = None,
        options: Mapping[str, object] | None = None,
        **overrides: object,
    ) -> dict[str, Any]:
        """Return an entry for DATABASES: over TLS, the server's certificate and name verified."""
        secure = {"sslmode": "verify-full", "sslrootcert": self.ca_file}
        return {
            "ENGINE": engine,
            "NAME": name,
            "USER": user or self.user,
            "PASSWORD": self.superuser_password if user == self.superuser else self.password,
            "HOST": self.host,
            "PORT": str(self.port),
            "OPTIONS": {**(secure if self.tls else {"sslmode": "disable"}), **(options or {})},
            **overrides,
        }

    def create_database(self, name: str) -> None:
        """Create an empty database that belongs to the unprivileged user."""
        self.execute(f'CREATE DATABASE "{name}" OWNER {self.user}')

    def drop_database(self, name: str) -> None:
        """Drop a database and end all sessions in it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def wait_recovered(self) -> None:
        """Return once it accepts connections, after a crash; raises TimeoutError."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            with suppress(Exception):  # it is recovering
                self.execute("SELECT 1")
                return
            time.sleep(0.02)
        raise TimeoutError(f"the server has not recovered within {START_TIMEOUT:g} s")

    def configure(self, **settings: str | None) -> None:
        """Change settings (None: as at the start) of the running server, for later sessions."""
        for name, value in settings.items():
            change = f"SET {name} = '{value}'" if value is not None else f"RESET {name}"
            self.execute(f"ALTER SYSTEM {change}")
        [(before,)] = self.execute("SELECT pg_conf_load_time()")
        self.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + START_TIMEOUT
        while self.execute("SELECT pg_conf_load_time()") == [(before,)]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server did not reload within {START_TIMEOUT:g} s")

    def execute(
        self, sql: str, params: Sequence[object] | None = None, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run a statement as superuser in autocommit, in a session of its own (Unix socket)."""
        with self.session(database) as run:
            return run(sql, params)

    @contextmanager
    def session(self, database: str = "postgres") -> Iterator[Run]:
        """A function that does as :meth:`execute`, in one session: who asks often logs in once."""
        name = "psycopg" if find_spec("psycopg") else "psycopg2"
        driver: Any = importlib.import_module(name)
        link = driver.connect(
            host=self.socket_dir,
            port=self.port,
            dbname=database,
            user=self.superuser,
            password=self.superuser_password,
            connect_timeout=10,
        )

        def run(sql: str, params: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
            cursor = link.cursor()
            cursor.execute(sql, params)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

        try:
            link.autocommit = True
            yield run
        finally:
            link.close()

    def backends(self, database: str = "app") -> list[int]:
        """Return the process ids of the sessions of clients in this database."""
        sql = (
            "SELECT pid FROM pg_stat_activity WHERE datname = %s"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return [pid for (pid,) in self.execute(sql, [database])]

    def terminate(self, *pids: int) -> None:
        """End sessions as an administrator does.

        Returns when their processes are gone and the other ends of their connections know it.
        """
        ended = self.execute(
            "SELECT client_port, pg_terminate_backend(pid)"
            " FROM unnest(%s::int[]) AS pid LEFT JOIN pg_stat_activity USING (pid)",
            [list(pids)],
        )
        if not guard.wait_gone(list(pids), GONE_TIMEOUT):
            raise TimeoutError(f"a session of {pids} is still there after {GONE_TIMEOUT:g} s")
        ports = [port for port, _ in ended if port and port > 0]  # -1: a Unix socket
        if not sockets.wait_ended(ports, self.port, GONE_TIMEOUT):
            raise TimeoutError(f"a client of {pids} has not heard of it in {GONE_TIMEOUT:g} s")

    def terminate_all(self, database: str = "app") -> None:
        """End all sessions of clients in this database, and wait until they are gone."""
        self.terminate(*self.backends(database))
