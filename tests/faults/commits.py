"""The table of the tests of COMMIT, and who waits for a COMMIT that takes long."""

from __future__ import annotations

import time

from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Server
from tests.faults.proxy import Proxy

TABLE = "commits"


def rows(server: Server) -> list[str]:
    return [v for (v,) in server.execute(f"SELECT value FROM {TABLE} ORDER BY 1", database="app")]


def insert(connection: BaseDatabaseWrapper, value: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {TABLE} (value) VALUES (%s)", [value])


def slow_commit(server: Server) -> None:
    """Make COMMIT take long enough to be cut in the middle."""
    server.execute(
        """
        CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$
        """,
        database="app",
    )
    server.execute(
        f"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {TABLE}"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
        database="app",
    )


def cut_after_commit(server: Server, proxy: Proxy, pid: int) -> None:
    """Cut the connection while its COMMIT runs in the server."""
    deadline = time.monotonic() + 10
    asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    while not server.execute(asleep, [pid]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    proxy.cut("reset")


def kill_in_commit(server: Server, pid: int) -> None:
    deadline = time.monotonic() + 10
    asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    while not server.execute(asleep, [pid]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.terminate(pid)
