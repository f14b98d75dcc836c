"""The harness itself: what tests rely on when they say a session was ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from django.db import DatabaseError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Server
from tests.engines import STOCK, Connections, ask, backend_pid

pytestmark = pytest.mark.once_per_driver

ROOT = Path(__file__).resolve().parent.parent.parent
Kill = Callable[[BaseDatabaseWrapper], int]
KillMidway = Callable[[BaseDatabaseWrapper], AbstractContextManager[list[int]]]


def test_connections_are_over_tls_and_unprivileged(stock: BaseDatabaseWrapper) -> None:
    assert ask(stock, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True
    assert ask(stock, "SELECT usesuper FROM pg_user WHERE usename = current_user") is False
    assert ask(stock, "SELECT pg_backend_pid()") == backend_pid(stock)


def test_killed_session_fails_on_the_stock_engine(stock: BaseDatabaseWrapper, kill: Kill) -> None:
    kill(stock)
    with pytest.raises(OperationalError):
        ask(stock, "SELECT 1")


def test_session_killed_midway(stock: BaseDatabaseWrapper, kill_midway: KillMidway) -> None:
    start = time.monotonic()
    with kill_midway(stock) as done, pytest.raises(OperationalError):
        ask(stock, "SELECT pg_sleep(9)")
    assert len(done) == 1
    assert time.monotonic() - start < 5


def test_aliases_work_with_atomic_and_go_away(server: Server) -> None:
    made = Connections(server)
    connection = made(STOCK, CONN_MAX_AGE=7, read_retries=1)
    assert connection.settings_dict["CONN_MAX_AGE"] == 7
    assert "resilience" not in connection.settings_dict["OPTIONS"]
    with transaction.atomic(using=connection.alias):
        assert ask(connection, "SELECT 1") == 1
    made.close()
    assert connection.alias not in connections


def test_restart_ends_sessions_and_keeps_data(own_server: Server) -> None:
    made = Connections(own_server)
    connection = made(STOCK)
    port = own_server.port
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 42 AS number")
    for mode in ("fast", "immediate"):
        own_server.restart(mode)
        with pytest.raises(DatabaseError):
            ask(connection, "SELECT 1")
        connection.close()
        assert ask(connection, "SELECT number FROM kept") == 42
    assert own_server.port == port
    made.close()


def test_paused_server_does_not_answer(own_server: Server) -> None:
    made = Connections(own_server)
    connection = made(STOCK, options={"connect_timeout": 2})
    own_server.pause()
    with pytest.raises(OperationalError, match="time"):
        connection.ensure_connection()
    own_server.resume()
    assert ask(connection, "SELECT 1") == 1
    made.close()


def test_configure_reaches_new_sessions_and_goes_back(own_server: Server) -> None:
    made = Connections(own_server)
    own_server.configure(idle_session_timeout="3s")
    assert ask(made(STOCK), "SHOW idle_session_timeout") == "3s"
    own_server.configure(idle_session_timeout=None)
    assert ask(made(STOCK), "SHOW idle_session_timeout") == "0"
    made.close()


@pytest.mark.parametrize("paused", [False, True])
def test_server_dies_with_a_starter_that_was_killed(paused: bool) -> None:
    program = f"""
import os, signal
from testproject.postgres import Server
server = Server()
server.start()
if {paused}: server.pause()
print(server.pid, server.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    starter = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False
    )
    assert starter.returncode == -signal.SIGKILL
    pid, folder = starter.stdout.split()
    deadline = time.monotonic() + 10
    while Path(folder).exists():
        assert time.monotonic() < deadline, f"{folder} of process {pid} is still there"
        time.sleep(0.02)


def test_project_is_migrated(project: str) -> None:
    assert ask(connections[project], "SELECT count(*) FROM shop_order") == 0
