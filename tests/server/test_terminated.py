"""A statement that has run away, and that an administrator ends by ``pg_terminate_backend``."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg.policy import rules
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import OURS, RESILIENT, Connections, each_asleep, run

pytestmark = pytest.mark.once_per_driver

ALIAS = "stopped"
RUNS_AWAY = "SELECT pg_sleep(1.5)"


def read(connection: BaseDatabaseWrapper) -> None:
    run(connection, RUNS_AWAY)


def first(connection: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=connection.alias):
        run(connection, RUNS_AWAY)


def retried(connection: BaseDatabaseWrapper) -> None:
    retry_atomic.run(lambda: read(connection), using=connection.alias)


WAYS = {"read": read, "first": first, "retried": retried}


def notes_of(error: BaseException) -> str:
    return "".join(getattr(error, "__notes__", []))


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has run for this long has run away."""
    monkeypatch.setattr(rules, "RAN_AWAY", 0.4)


@pytest.mark.parametrize("way", WAYS)
def test_what_was_terminated_after_long_does_not_come_back(
    way: str, make_connection: Connections, server: Server, brief: None
) -> None:
    connection = make_connection(RESILIENT)
    with each_asleep(server, server.terminate, after=0.5) as ended, pytest.raises(Error) as caught:
        WAYS[way](connection)
    assert len(ended) == 1
    assert "somebody stopped the statement on purpose" in notes_of(caught.value)
    assert run(connection, "SELECT 1") == [(1,)]


def view(request: HttpRequest, way: str) -> HttpResponse:
    WAYS[way](connections[ALIAS])
    return HttpResponse("done")


urlpatterns = [path("<str:way>/", view)]


@pytest.mark.parametrize("way", WAYS)
def test_nor_with_its_request(
    way: str, make_connection: Connections, server: Server, brief: None
) -> None:
    make_connection(RESILIENT, alias=ALIAS, CONN_MAX_AGE=60)
    ours = [OURS]
    client = Client(raise_request_exception=False)
    with (
        override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=ours),
        each_asleep(server, server.terminate, after=0.5) as ended,
    ):
        assert client.get(f"/{way}/").status_code in {500, 503}
    assert len(ended) == 1


@pytest.mark.slow
def test_five_seconds_are_long(make_connection: Connections, server: Server) -> None:
    connection = make_connection(RESILIENT)
    with each_asleep(server, server.terminate, after=5.2) as ended, pytest.raises(Error):
        run(connection, "SELECT pg_sleep(8)")
    assert len(ended) == 1


@pytest.mark.parametrize("way", WAYS)
def test_what_had_only_begun_is_retried(
    way: str, make_connection: Connections, server: Server
) -> None:
    connection = make_connection(RESILIENT)
    ended: list[int] = []

    def once(pid: int) -> None:
        if not ended:
            server.terminate(pid)
            ended.append(pid)

    with each_asleep(server, once, after=0.0):
        WAYS[way](connection)
    assert ended


def test_time_between_statements_does_not_count(
    make_connection: Connections,
    server: Server,
    brief: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    """A maintenance job ends sessions that wait in the middle of a transaction."""
    connection = make_connection(RESILIENT)
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        run(connection, "SELECT 1")
        if len(calls) == 1:
            time.sleep(0.5)
            kill(connection)
        run(connection, "SELECT 1")

    retry_atomic.run(work, using=connection.alias)
    assert len(calls) == 2


def test_a_restart_of_the_server_is_nobodys_wish_to_stop_it(
    own_server: Server, own_connections: Connections, brief: None
) -> None:
    """It says the same words, and then it is another server."""
    connection = own_connections(RESILIENT, retry_deadline=30)
    connection.ensure_connection()
    restarted: list[int] = []

    def restart(pid: int) -> None:
        if not restarted:
            restarted.append(pid)
            own_server.stop("fast")
            own_server.start()

    with each_asleep(own_server, restart, after=0.5):
        run(connection, RUNS_AWAY)
    assert restarted


def test_a_cancelled_statement_is_the_servers_answer(
    make_connection: Connections, server: Server, brief: None
) -> None:
    connection = make_connection(RESILIENT)

    def cancel(pid: int) -> None:
        server.execute("SELECT pg_cancel_backend(%s)", [pid])

    with each_asleep(server, cancel, after=0.5), pytest.raises(Error) as caught:
        run(connection, RUNS_AWAY)
    assert "canceling statement" in str(caught.value)
    assert connection.resilience.stats.refused == 0  # type: ignore[attr-defined]
