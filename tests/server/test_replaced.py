"""What is left of a connection that was replaced: nothing, so that its slot is free again."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections

from testproject.postgres import Server
from tests.engines import RESILIENT, Connections, ask, at_once, backend_pid

pytestmark = pytest.mark.once_per_driver

THREADS = 3


@pytest.fixture
def few(server: Server) -> Iterator[str]:
    """A role with as many connections as there are threads."""
    server.execute(f"CREATE ROLE few LOGIN PASSWORD '{server.password}' CONNECTION LIMIT {THREADS}")
    yield "few"
    server.execute("DROP OWNED BY few; DROP ROLE few")


def test_a_connection_that_was_replaced_is_referred_to_by_nobody(
    make_connection: Connections, server: Server
) -> None:
    connection: Any = make_connection(RESILIENT, CONN_MAX_AGE=None, idle_timeout=0.2)
    ask(connection)
    for way in ("idle", "killed", "both"):
        old = weakref.ref(connection.connection)
        pid = backend_pid(connection)
        if way != "idle":
            server.terminate(pid)
        if way != "killed":
            time.sleep(0.3)
        ask(connection)
        assert backend_pid(connection) != pid
        gc.collect()
        assert old() is None, way


def test_one_that_lives_is_closed_before_its_successor_is_made(
    make_connection: Connections, few: str
) -> None:
    """Idle for longer than its limit, it is replaced; by its own cursor as well."""
    alias = make_connection(
        RESILIENT, CONN_MAX_AGE=None, idle_timeout=0.2, user=few, read_retries=0, retry_deadline=2.0
    ).alias
    wrong: list[BaseException] = []
    together = threading.Barrier(THREADS)

    def work() -> None:
        connection: Any = connections[alias]
        try:
            for _ in range(3):
                assert ask(connection) == 1
                together.wait(timeout=60)
                time.sleep(0.3)
            with connection.cursor() as cursor:
                for _ in range(3):
                    cursor.execute("SELECT 1")
                    assert cursor.fetchall() == [(1,)]
                    together.wait(timeout=60)
                    time.sleep(0.3)
        except BaseException as error:
            together.abort()
            wrong.append(error)
        finally:
            connection.close()

    at_once(THREADS, work)
    assert not wrong, wrong
