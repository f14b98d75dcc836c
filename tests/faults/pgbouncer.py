"""A real PgBouncer before an embedded PostgreSQL, over TLS on both sides."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path
from typing import Any

from testproject.postgres import Server
from tests.engines import DRIVER
from tests.faults.daemons import ADDRESS, Daemon


class PgBouncer(Daemon):
    """PgBouncer, which presents the server's certificate.

    ``console``: the user "app" may look at its admin console, and give commands. ``database``: more
    about all databases, such as ``"pool_mode=transaction"``; a user named in it has the password of
    "app". ``settings``: of pgbouncer.ini, such as ``pool_mode="transaction"``.
    """

    name = "pgbouncer"

    def __init__(
        self, server: Server, *, console: bool = False, database: str = "", **settings: object
    ) -> None:
        super().__init__(server)
        self._file = self._configured(console, database, settings)

    def _configured(self, console: bool, database: str, settings: dict[str, object]) -> Path:
        folder, server = self.folder, self.server
        values = {
            "listen_addr": ADDRESS,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": folder / "users",
            "pool_mode": "session",
            "client_tls_sslmode": "allow",
            "client_tls_key_file": server.folder / "server.key",
            "client_tls_cert_file": server.folder / "server.pem",
            "server_tls_sslmode": "require",
            "ignore_startup_parameters": "extra_float_digits,options",
            "admin_users": server.user if console else "nobody-at-all",
            **settings,
        }
        lines = [f"{name} = {value}" for name, value in values.items()]
        target = f"* = host={server.address} port={server.port} {database}"
        file = folder / "pgbouncer.ini"
        file.write_text("\n".join(["[databases]", target, "[pgbouncer]", *lines, ""]))
        users = [server.user, *re.findall(r"\buser=(\w+)", database)]
        (folder / "users").write_text("".join(f'"{user}" "{server.password}"\n' for user in users))
        return file

    def launch(self) -> subprocess.Popen[str]:
        """In the foreground: it ends with us. PgBouncer refuses to be root."""
        return subprocess.Popen(
            [self.program(), "--quiet", str(self._file)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            **self.hand_over(),
        )

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
