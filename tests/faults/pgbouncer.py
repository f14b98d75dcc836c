"""A real PgBouncer before an embedded PostgreSQL, over TLS on both sides."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from testproject import binaries
from testproject.cluster import free_port
from testproject.postgres import Server

ADDRESS: Final = "127.0.0.1"
_START: Final = 10.0
# PgBouncer refuses to be root. /usr/sbin is not in everybody's PATH.
_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"


def missing() -> str | None:
    """Return what stands in the way of PgBouncer on this machine, or None."""
    return None if _program() else "not installed: pgbouncer"


@contextmanager
def pgbouncer(
    server: Server, *, console: bool = False, database: str = "", **settings: object
) -> Iterator[int]:
    """Run PgBouncer before a server; the value is its port.

    It presents the server's certificate. ``console``: the user "app" may look at its admin console.
    ``database``: more about all databases, such as ``"pool_mode=transaction"``; a user named in it
    has the password of "app". ``settings``: of pgbouncer.ini, such as ``pool_mode="transaction"``.
    """
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", dir=server.folder.parent) as name:
        folder, port = Path(name), free_port()
        process = _launch(_configuration(folder, server, port, console, settings, database))
        try:
            _wait(process, port)
            yield port
        finally:
            process.kill()
            process.communicate()


def _program() -> str | None:
    return shutil.which("pgbouncer", path=_PATH)


def _configuration(
    folder: Path,
    server: Server,
    port: int,
    console: bool,
    settings: dict[str, object],
    database: str = "",
) -> Path:
    values = {
        "listen_addr": ADDRESS,
        "listen_port": port,
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
    account = binaries.server_account()
    if account is not None:
        for each in (folder, *folder.iterdir()):
            os.chown(each, account.pw_uid, account.pw_gid)
    return file


def _launch(file: Path) -> subprocess.Popen[str]:
    account = binaries.server_account()
    switch: dict[str, Any] = {}
    if account is not None:
        switch = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    # In the foreground: it ends with us.
    return subprocess.Popen(
        [_program() or "pgbouncer", "--quiet", str(file)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=file.parent,
        **switch,
    )


def _wait(process: subprocess.Popen[str], port: int) -> None:
    """Until it listens."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"pgbouncer ended: {process.communicate()[1]}")
        with socket.socket() as probe:
            if probe.connect_ex((ADDRESS, port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"pgbouncer does not listen after {_START:g} s")
