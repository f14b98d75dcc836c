"""Ending the session under test from a session of its own (the alias "admin")."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, connections

TIMEOUT = 10.0


def admin(sql: str, params: Any = None) -> list[tuple[Any, ...]]:
    with connections["admin"].cursor() as cursor:
        cursor.execute(sql, params)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


def pid() -> int:
    assert connection.connection is not None
    return int(connection.connection.info.backend_pid)


def end(process: int) -> None:
    """End a session and wait until its process is gone: pg_stat_activity forgets it before that."""
    [(gone,)] = admin("SELECT pg_terminate_backend(%s, %s)", [process, round(TIMEOUT * 1000)])
    if not gone:
        raise TimeoutError(f"session {process} is still there")


@contextmanager
def ended_midway() -> Iterator[None]:
    """End the session as soon as it is in the middle of a ``pg_sleep``."""
    process, done = pid(), threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + TIMEOUT
        asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        try:
            while time.monotonic() < deadline:
                if admin(asleep, [process]):
                    end(process)
                    done.set()
                    return
                time.sleep(0.01)
        finally:
            connections["admin"].close()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if not done.is_set():
        raise TimeoutError("the session was never seen in a pg_sleep")
