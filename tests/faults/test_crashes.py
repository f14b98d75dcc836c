"""Statements that make the server crash each time: the OOM killer, a broken extension."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg import signals
from django_resilient_pg.policy.verdicts import Reason
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import DRIVER, OURS, RESILIENT, Connections, each_asleep, run

ALIAS = "crashing"
# Its backend is killed each time that it sleeps.
CRASHES = "SELECT pg_sleep(20)"
PATIENT: dict[str, Any] = {"retry_deadline": 30, "CONN_MAX_AGE": 60}


def crashing(server: Server) -> AbstractContextManager[list[int]]:
    """Kill the process of whatever sleeps; the value gets the process ids."""
    return each_asleep(server, lambda pid: os.kill(pid, signal.SIGKILL))


def sleeps(server: Server, times: int) -> str:
    """A statement that sleeps until :func:`note` was called so often."""
    server.execute("CREATE TABLE noted (pid integer)", database="app")
    server.execute("GRANT SELECT ON noted TO PUBLIC", database="app")
    return f"SELECT pg_sleep(60) FROM (SELECT count(*) AS n FROM noted) AS so_far WHERE n < {times}"


def note(server: Server, pid: int) -> None:
    server.execute("INSERT INTO noted VALUES (%s)", [pid], database="app")


def read(connection: BaseDatabaseWrapper) -> None:
    run(connection, CRASHES)


def first(connection: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=connection.alias):
        run(connection, CRASHES)


def first_of_many(connection: BaseDatabaseWrapper) -> None:
    retry_atomic.run(lambda: read(connection), using=connection.alias, retries=5, deadline=30)


def later(connection: BaseDatabaseWrapper) -> None:
    def work() -> None:
        run(connection, "SELECT 1")
        run(connection, CRASHES)

    retry_atomic.run(work, using=connection.alias, retries=5, deadline=30)


def swallowed(connection: BaseDatabaseWrapper) -> None:
    def work() -> None:
        run(connection, "SELECT 1")
        with contextlib.suppress(Error):
            run(connection, CRASHES)

    retry_atomic.run(work, using=connection.alias, retries=5, deadline=30)


LAYERS: dict[str, Callable[[BaseDatabaseWrapper], None]] = {
    "read": read,
    "first": first,
    "first_of_many": first_of_many,
    "later": later,
    "swallowed": swallowed,
}


def notes_of(error: BaseException) -> str:
    return "".join(getattr(error, "__notes__", []))


@pytest.mark.parametrize("layers", LAYERS)
def test_a_statement_that_crashes_the_server_is_retried_once_in_all(
    layers: str, own_server: Server, own_connections: Connections
) -> None:
    connection = own_connections(RESILIENT, **PATIENT)
    connection.ensure_connection()
    with crashing(own_server) as killed, pytest.raises(Error) as caught:
        LAYERS[layers](connection)
    assert len(killed) == 2
    if layers != "swallowed":
        assert "the statement may be the cause" in notes_of(caught.value)
    assert "a server process crashed" in notes_of(caught.value)
    assert run(connection, "SELECT 1") == [(1,)]


def view(request: HttpRequest, layers: str) -> HttpResponse:
    LAYERS[layers](connections[ALIAS])
    return HttpResponse("done")


urlpatterns = [path("<str:layers>/", view)]


@pytest.mark.parametrize("layers", ["read", "first", "later", "swallowed"])
def test_nor_does_a_request_crash_it_more_often(
    layers: str, own_server: Server, own_connections: Connections
) -> None:
    own_connections(RESILIENT, alias=ALIAS, **PATIENT).ensure_connection()
    ours = [OURS]
    settings = {
        "ROOT_URLCONF": __name__,
        "MIDDLEWARE": ours,
        "RESILIENT_PG_REQUEST_RETRIES": 5,
        "RESILIENT_PG_REQUEST_DEADLINE": 60,
    }
    client = Client(raise_request_exception=False)
    with override_settings(**settings), crashing(own_server) as killed:
        assert client.get(f"/{layers}/").status_code in {500, 503}
    assert len(killed) == 2


def test_a_crash_that_does_not_come_again_is_healed_and_named(
    own_server: Server, own_connections: Connections
) -> None:
    connection = own_connections(RESILIENT, **PATIENT)
    connection.ensure_connection()
    statement = sleeps(own_server, 1)
    replaced: list[Reason | None] = []

    def kill(pid: int) -> None:
        note(own_server, pid)
        os.kill(pid, signal.SIGKILL)

    def hear(record: signals.ConnectionReplaced, **_: Any) -> None:
        replaced.append(record.reason)

    signals.connection_replaced.connect(hear)
    try:
        with each_asleep(own_server, kill, most=1) as killed:
            run(connection, statement)
    finally:
        signals.connection_replaced.disconnect(hear)
    assert (len(killed), replaced) == (1, [Reason.CRASH])
    assert dict(connection.resilience.stats.lost) == {"CRASH": 1}  # type: ignore[attr-defined]


def test_a_planned_restart_is_no_crash(own_server: Server, own_connections: Connections) -> None:
    """Where the driver hides what the server said, it is asked; its statistics live on."""
    connection = own_connections(RESILIENT, **PATIENT)
    connection.ensure_connection()
    statement = sleeps(own_server, 2)

    def restart(pid: int) -> None:
        note(own_server, pid)
        own_server.stop("fast")
        own_server.start()

    with each_asleep(own_server, restart, most=2) as ended:
        run(connection, statement)
    assert len(ended) == 2
    lost = dict(connection.resilience.stats.lost)  # type: ignore[attr-defined]
    assert lost == ({"UNKNOWN": 2} if DRIVER == "psycopg2" else {"ADMINISTRATOR": 2})
