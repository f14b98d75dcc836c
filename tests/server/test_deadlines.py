"""What bounds how long the engine waits: ``deadline()``, and the table of docs/deadlines.rst."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from django_resilient_pg.deadlines import deadline
from django_resilient_pg.driver.link import FRESH
from django_resilient_pg.transaction import retry_atomic
from testproject.cluster import free_port
from testproject.postgres import Server
from tests.engines import OURS, PATIENCE, RESILIENT, STOCK, Connections, run, until
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.once_per_driver

MIDDLEWARE = [OURS]
PATIENT = 60.0  # what would be waited for without a deadline, in seconds


def ask(alias: str) -> None:
    run(connections[alias], "SELECT 1")


@deadline(0.2)
def bounded(request: HttpRequest, alias: str) -> HttpResponse:
    ask(alias)
    return HttpResponse("1")


@deadline(0.2)
async def bounded_async(request: HttpRequest, alias: str) -> HttpResponse:
    await sync_to_async(ask)(alias)
    return HttpResponse("1")


lost: dict[str, Callable[[], object]] = {}


@deadline(0.2)
def losing(request: HttpRequest, alias: str) -> HttpResponse:
    """The server goes away in the middle of its transaction."""
    with transaction.atomic(using=alias):
        ask(alias)
        lost["lose"]()
        ask(alias)
    return HttpResponse("1")


def unbounded(request: HttpRequest, alias: str) -> HttpResponse:
    ask(alias)
    return HttpResponse("1")


urlpatterns = [
    path("sync/<str:alias>/", bounded),
    path("async/<str:alias>/", bounded_async),
    path("losing/<str:alias>/", losing),
    path("unbounded/<str:alias>/", unbounded),
]


@pytest.fixture(autouse=True)
def project() -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF=__name__,
        MIDDLEWARE=MIDDLEWARE,
        ALLOWED_HOSTS=["testserver"],
        RESILIENT_PG_REQUEST_DEADLINE=PATIENT,
    ):
        yield


def send(url: str) -> Any:
    return Client(raise_request_exception=False).get(url)


def send_async(url: str) -> Any:
    async def request() -> Any:
        return await AsyncClient(raise_request_exception=False).get(url)

    return asyncio.run(request())


SENDS = {"sync": send, "async": send_async}


def best(attempt: Callable[[], object], below: float) -> float:
    """The seconds of the fastest of some attempts: a busy machine may be slow, not fast."""
    took: list[float] = []
    while not took or (min(took) >= below and sum(took) < PATIENT / 2):
        began = time.monotonic()
        attempt()
        took.append(time.monotonic() - began)
    return min(took)


@contextmanager
def refused(server: Server) -> Iterator[int]:
    yield free_port()


@contextmanager
def silent(server: Server) -> Iterator[int]:
    """Connections come about, and nobody answers."""
    with Proxy(server.port) as way:
        way.set_mode("deaf")
        yield way.port


DOWN = {"refused": refused, "silent": silent}


# -- the database is down ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", DOWN)
@pytest.mark.parametrize("view", SENDS)
def test_a_view_answers_in_time(
    kind: str, view: str, server: Server, make_connection: Connections
) -> None:
    with DOWN[kind](server) as port:
        alias = make_connection(PORT=port, retry_deadline=PATIENT).alias

        def request() -> None:
            assert SENDS[view](f"/{view}/{alias}/").status_code == 500

        assert best(request, 0.3) < 0.3


def test_on_the_stock_engine_a_silent_server_is_waited_for(
    server: Server, make_connection: Connections
) -> None:
    with silent(server) as port:
        alias = make_connection(STOCK, PORT=port, options={"connect_timeout": 2}).alias
        began = time.monotonic()
        assert send(f"/sync/{alias}/").status_code == 500
    assert time.monotonic() - began > 1.5


@pytest.mark.psycopg3
@pytest.mark.parametrize("kind", DOWN)
def test_a_view_with_a_pool_answers_in_time(
    kind: str, server: Server, make_connection: Connections
) -> None:
    with DOWN[kind](server) as port:
        pool = {"pool": {"min_size": 1, "max_size": 2}}
        alias = make_connection(PORT=port, retry_deadline=PATIENT, options=pool).alias

        def request() -> None:
            assert send(f"/sync/{alias}/").status_code == 500

        assert best(request, 0.3) < 0.3


@pytest.mark.parametrize("middleware", [MIDDLEWARE, []], ids=["middleware", "none"])
def test_a_connection_that_is_lost_midway_is_waited_for_no_longer(
    middleware: list[str], server: Server, make_connection: Connections, caplog: Any
) -> None:
    """Neither the questions of the middleware nor another attempt at the request take more."""
    with Proxy(server.port) as way:
        connection = make_connection(PORT=way.port, retry_deadline=PATIENT, CONN_MAX_AGE=None)

        def down() -> None:
            way.set_mode("refuse")
            way.cut()

        def request() -> None:
            way.set_mode("pass")
            connection.close()
            ask(connection.alias)
            assert send(f"/losing/{connection.alias}/").status_code == 500

        lost["lose"] = down
        with override_settings(MIDDLEWARE=middleware):
            assert best(request, 0.35) < 0.35  # with the connection that is made before


@pytest.mark.parametrize("kind", DOWN)
def test_the_error_says_what_bounded_it(
    kind: str, server: Server, make_connection: Connections
) -> None:
    with DOWN[kind](server) as port:
        alias = make_connection(PORT=port, retry_deadline=PATIENT).alias
        with pytest.raises(OperationalError) as caught, deadline(0.2):
            ask(alias)
    assert "deadline(0.2) is used up" in "\n".join(caught.value.__notes__)


def test_a_name_server_that_does_not_answer_is_not_waited_for(
    make_connection: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, resolve = threading.Event(), socket.getaddrinfo

    def slowly(*given: Any, **more: Any) -> Any:
        over.wait(PATIENT)
        return resolve(*given, **more)

    alias = make_connection(HOST="localhost", PORT=free_port(), retry_deadline=PATIENT).alias
    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    try:
        began = time.monotonic()
        with pytest.raises(OperationalError), deadline(0.2):
            ask(alias)
        assert time.monotonic() - began < PATIENCE
    finally:
        over.set()


def test_no_attempt_follows_the_first_one_with_zero(
    server: Server, make_connection: Connections
) -> None:
    with Proxy(server.port) as way:
        way.set_mode("cut")
        alias = make_connection(PORT=way.port, retry_deadline=PATIENT).alias
        with pytest.raises(OperationalError), deadline(0):
            ask(alias)
        assert way.accepted == 1


# -- the database is up -----------------------------------------------------------------------


@pytest.mark.parametrize("pool", [pytest.param(True, marks=pytest.mark.psycopg3), False])
def test_zero_seconds_are_enough_for_what_works(pool: bool, make_connection: Connections) -> None:
    options = {"pool": {"min_size": 1, "max_size": 2}} if pool else {}
    connection = make_connection(options=options)
    for _ in range(2):  # connected anew, and kept

        def use() -> bool:
            try:
                with deadline(0):
                    ask(connection.alias)
            except OperationalError:
                return False  # on a busy machine 0.1 s may be too short
            return True

        until(use, "it does not connect")
    connection.close()


def test_a_dead_connection_is_replaced_with_zero(
    make_connection: Connections, kill: Callable[[BaseDatabaseWrapper], int]
) -> None:
    connection = make_connection()

    def heals() -> bool:
        ask(connection.alias)
        kill(connection)
        try:
            with deadline(0):
                ask(connection.alias)
        except OperationalError:
            return False
        return True

    until(heals, "it is not replaced")


@pytest.mark.parametrize("seconds", [0, PATIENT])
def test_a_read_is_retried_if_there_is_time(
    seconds: float,
    make_connection: Connections,
    kill_midway: Callable[[BaseDatabaseWrapper], Any],
) -> None:
    connection = make_connection()
    ask(connection.alias)
    outcome = nullcontext() if seconds else pytest.raises(OperationalError)
    with kill_midway(connection), outcome as caught, deadline(seconds):
        run(connection, "SELECT 1 FROM pg_sleep(0.5)")
    if caught is not None:
        assert "deadline(0) is used up" in "\n".join(caught.value.__notes__)
    ask(connection.alias)


def test_what_an_attempt_connects_to_after_it_was_left_is_closed(
    own_server: Server, own_connections: Connections
) -> None:
    with Proxy(own_server.port) as way:
        way.set_mode("deaf")
        connection = own_connections(PORT=way.port, retry_deadline=PATIENT)
        with pytest.raises(OperationalError), deadline(0.05):
            ask(connection.alias)
        breaker = connection.resilience.shared.breaker  # type: ignore[attr-defined]
        assert not breaker.down
        assert not breaker.surfaced
        way.set_mode("pass")
        until(lambda: way.accepted == 1, "the attempt did not go on")
        until(lambda: way.open == 0 and not own_server.backends(), "it is still open")
        ask(connection.alias)


def test_an_attempt_that_was_left_tells_the_other_threads_in_the_end(
    server: Server, make_connection: Connections
) -> None:
    with silent(server) as port:
        connection = make_connection(PORT=port, retry_deadline=PATIENT)
        with pytest.raises(OperationalError), deadline(0.05):
            ask(connection.alias)
        breaker = connection.resilience.shared.breaker  # type: ignore[attr-defined]
        until(lambda: breaker.down, "it is not known to be down")


def test_a_ping_is_not_waited_for(server: Server, make_connection: Connections) -> None:
    with Proxy(server.port) as way:
        connection = make_connection(
            PORT=way.port, ping_after=0.0, ping_timeout=PATIENT, retry_deadline=PATIENT
        )
        ask(connection.alias)
        way.set_mode("deaf")
        time.sleep(10 * FRESH)  # or it is not looked at
        began = time.monotonic()
        with pytest.raises(OperationalError), deadline(0.2):
            ask(connection.alias)
        assert time.monotonic() - began < PATIENCE


# -- across threads and aliases ---------------------------------------------------------------


def test_it_holds_on_every_alias_and_in_every_thread_below(make_connection: Connections) -> None:
    one = make_connection(PORT=free_port(), retry_deadline=PATIENT).alias
    two = make_connection(PORT=free_port(), retry_deadline=PATIENT).alias

    def fails(alias: str) -> float:
        with pytest.raises(OperationalError):
            ask(alias)
        return time.monotonic()

    async def everywhere() -> None:
        await sync_to_async(fails, thread_sensitive=False)(one)
        await asyncio.to_thread(fails, two)

    began = time.monotonic()
    with deadline(0.2):
        fails(one)
        fails(two)
        asyncio.run(everywhere())
    assert time.monotonic() - began < PATIENCE


def test_it_holds_within_retry_atomic(make_connection: Connections, server: Server) -> None:
    """On the alias of the transaction as on others: the tighter one wins."""
    with Proxy(server.port) as way:
        connection = make_connection(PORT=way.port, retry_deadline=PATIENT)
        ask(connection.alias)
        runs = []

        def work() -> None:
            runs.append(1)
            way.set_mode("refuse")
            way.cut()
            with deadline(0.1):
                ask(connection.alias)

        began = time.monotonic()
        with pytest.raises(OperationalError), deadline(1.0):
            retry_atomic.run(work, using=connection.alias, deadline=PATIENT)
        assert time.monotonic() - began < PATIENCE
        assert runs


@pytest.mark.psycopg3
def test_a_pool_is_waited_for_no_longer(make_connection: Connections) -> None:
    options = {"pool": {"min_size": 1, "max_size": 1}}
    connection = make_connection(options=options, retry_deadline=PATIENT)
    ask(connection.alias)  # it has the only one

    def wait(seconds: float) -> float:
        began = time.monotonic()
        with pytest.raises(OperationalError, match="in use"), deadline(seconds):
            ask(connection.alias)
        connections[connection.alias].close()
        return time.monotonic() - began

    with ThreadPoolExecutor(1) as thread:
        assert best(lambda: thread.submit(wait, 0).result(), 0.05) < 0.05
        assert 0.2 <= thread.submit(wait, 0.2).result() < PATIENCE


# -- the other rows of the table --------------------------------------------------------------


@pytest.mark.psycopg3
def test_a_requests_deadline_bounds_the_wait_for_a_pool(make_connection: Connections) -> None:
    options = {"pool": {"min_size": 1, "max_size": 1}}
    connection = make_connection(options=options, retry_deadline=PATIENT)
    ask(connection.alias)
    with override_settings(RESILIENT_PG_REQUEST_DEADLINE=0.3), ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        assert thread.submit(send, f"/unbounded/{connection.alias}/").result().status_code == 500
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize(
    ("request_seconds", "retry_deadline"), [(PATIENT, 0.3), (0.3, PATIENT)], ids=["own", "request"]
)
def test_of_the_requests_and_the_statements_the_tighter_wins(
    request_seconds: float, retry_deadline: float, make_connection: Connections
) -> None:
    alias = make_connection(RESILIENT, PORT=free_port(), retry_deadline=retry_deadline).alias
    with override_settings(RESILIENT_PG_REQUEST_DEADLINE=request_seconds):
        began = time.monotonic()
        assert send(f"/unbounded/{alias}/").status_code == 500
    assert time.monotonic() - began < PATIENCE


def test_retry_atomics_deadline_takes_the_place_of_retry_deadline_on_its_alias(
    make_connection: Connections,
) -> None:
    port = free_port()
    one = make_connection(PORT=port, retry_deadline=0.0)
    other = make_connection(PORT=port, retry_deadline=0.0)

    def seconds(alias: str) -> float:
        began = time.monotonic()
        with pytest.raises(OperationalError):
            ask(alias)
        return time.monotonic() - began

    took: list[float] = []

    def work() -> None:
        took.append(best(lambda: seconds(other.alias), 0.3))

    began = time.monotonic()
    with pytest.raises(OperationalError):
        retry_atomic.run(lambda: ask(one.alias), using=one.alias, deadline=1.0)
    assert time.monotonic() - began > 0.5
    up = make_connection()
    retry_atomic.run(work, using=up.alias, deadline=PATIENT)
    assert took[0] < 0.3
