"""One deadline for a request or a ``retry_atomic`` and all that it waits for, in every thread."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, override_settings
from django.urls import path

from django_resilient_pg import deadlines, signals
from django_resilient_pg.errors import ServerDown
from django_resilient_pg.policy.token_bucket import BUCKET
from django_resilient_pg.transaction import retry_atomic
from testproject.cluster import free_port
from testproject.postgres import Server
from tests.engines import OURS, PATIENCE, STOCK, Connections
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.once_per_driver


def ask(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")


def seconds_of_waiting(alias: str, bound: str) -> float:
    """How long a statement waits for a server that stays down, because others have no more time."""
    began = time.monotonic()
    with pytest.raises(OperationalError) as caught:
        ask(alias)
    assert f"{bound} is used up" in caught.value.__notes__[0]
    return time.monotonic() - began


@pytest.fixture
def down(make_connection: Connections) -> Callable[..., BaseDatabaseWrapper]:
    """Makes connections to a port that nobody listens on."""
    return partial(make_connection, PORT=free_port())


waited: list[float] = []


async def twice(request: HttpRequest, alias: str) -> HttpResponse:
    """Two statements in threads of their own: the second has what the first has left."""
    for sensitive in (True, False):
        wait = sync_to_async(seconds_of_waiting, thread_sensitive=sensitive)
        waited.append(await wait(alias, "RESILIENT_PG_REQUEST_DEADLINE (2 s)"))
    return HttpResponse("1")


urlpatterns = [path("<str:alias>/", twice)]


def test_a_requests_deadline_crosses_sync_to_async(
    down: Callable[..., BaseDatabaseWrapper],
) -> None:
    alias = down(retry_deadline=30.0).alias
    waited.clear()
    middleware = [OURS]
    with override_settings(
        ROOT_URLCONF=__name__,
        MIDDLEWARE=middleware,
        ALLOWED_HOSTS=["testserver"],
        RESILIENT_PG_REQUEST_DEADLINE=2.0,
    ):

        async def request() -> Any:
            return await AsyncClient().get(f"/{alias}/")

        assert asyncio.run(request()).status_code == 200
    assert 0.5 < waited[0] < PATIENCE
    assert waited[1] < PATIENCE


def test_a_retry_atomics_deadline_holds_for_other_aliases_and_threads(
    make_connection: Connections, down: Callable[..., BaseDatabaseWrapper]
) -> None:
    """Alias one works, the others are down: they have no more than one's retry_atomic has left."""
    one, two, three = make_connection(), down(retry_deadline=30.0), down(retry_deadline=30.0)
    words = "retry_atomic's deadline (1.5 s)"

    async def elsewhere() -> float:
        wait = sync_to_async(seconds_of_waiting, thread_sensitive=False)
        return await wait(three.alias, words)

    def work() -> None:
        ask(one.alias)
        assert seconds_of_waiting(two.alias, words) < PATIENCE
        assert asyncio.run(elsewhere()) < PATIENCE

    retry_atomic.run(work, using=one.alias, deadline=1.5)
    assert deadlines.left() == math.inf


def test_one_thread_asks_and_the_others_wait_for_its_verdict(
    own_server: Server,
    own_connections: Connections,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Eight statements wait out a restart with the attempts of one."""
    caplog.set_level("INFO")
    alias = own_connections(retry_deadline=30.0).alias
    attempts: list[Any] = []

    def count(record: Any, **_: Any) -> None:
        attempts.append(record)

    def wait() -> None:
        try:
            ask(alias)
        finally:
            connections[alias].close()

    own_server.stop("fast")
    threading.Timer(3.0, own_server.start).start()
    signals.connect_retried.connect(count)
    began = time.monotonic()
    try:
        with ThreadPoolExecutor(8) as pool:
            for each in [pool.submit(wait) for _ in range(8)]:
                each.result()
    finally:
        signals.connect_retried.disconnect(count)
    # Eight that began before it was known, then waits that grow with the outage.
    assert 8 <= len(attempts) <= 8 + 28 + 4 * (time.monotonic() - began)
    said = [line for line in caplog.messages if "accepting connections" in line]
    assert len(said) == 2
    assert f'Server of "{alias}" is not accepting connections: ' in said[0]
    assert f'Server of "{alias}" is accepting connections again after ' in said[1]


def test_an_empty_bucket_fails_at_once_and_says_why_and_when(
    down: Callable[..., BaseDatabaseWrapper],
) -> None:
    alias = down(backoff=5.0, max_backoff=5.0).alias
    BUCKET.tokens = 0
    with pytest.raises(ServerDown) as first:
        ask(alias)
    began = time.monotonic()
    text = rf'"{alias}" is not accepting connections; failing fast.*refused'
    with pytest.raises(ServerDown, match=text) as second:
        ask(alias)
    assert time.monotonic() - began < 5.0 / 2
    assert "The next attempt is due in" in str(second.value)
    assert 0 < second.value.due <= 5.0
    assert isinstance(first.value.__cause__, OperationalError)  # this one had asked


@pytest.mark.slow
def test_a_silent_host_holds_one_thread_and_no_other(
    server: Server, make_connection: Connections
) -> None:
    """With an empty bucket: who asks waits for connect_timeout, everybody else fails at once."""

    def seconds() -> float:
        began = time.monotonic()
        with pytest.raises(ServerDown):
            ask(alias)
        return time.monotonic() - began

    with Proxy(server.port) as way:
        way.set_mode("deaf")
        alias = make_connection(PORT=way.port, options={"connect_timeout": 3}).alias
        BUCKET.tokens = 0
        assert seconds() > 2.0  # nobody knew
        time.sleep(0.1)  # until the next attempt is due
        with ThreadPoolExecutor(8) as pool:
            took = sorted(each.result() for each in [pool.submit(seconds) for _ in range(8)])
    assert took[-2] < 2.0 < took[-1]


def test_the_stock_engine_asks_for_every_statement(
    down: Callable[..., BaseDatabaseWrapper],
) -> None:
    alias = down(STOCK).alias
    for _ in range(3):
        with pytest.raises(OperationalError, match="refused"):
            ask(alias)
