"""Under a real ASGI server, where each request has a thread of its own."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.cluster import free_port
from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections, at_once, until

ROOT = Path(__file__).resolve().parents[2]
REQUESTS, THREADS = 100, 4

APPLICATION = """
    import gc, json, os
    import django

    gc.disable()  # it closes some of what is left, some time: not what is to be seen here
    from django.conf import settings

    settings.configure(
        DATABASES={"default": json.loads(os.environ["ENTRY"])},
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
    )
    django.setup()

    from asgiref.sync import sync_to_async
    from django.core.handlers.asgi import ASGIHandler
    from django.db import connection
    from django.http import HttpResponse
    from django.urls import path

    def ask():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return cursor.fetchone()[0]

    def sync(request):
        return HttpResponse(f"{ask()} {ask()}")

    async def asynchronous(request):
        return HttpResponse(f"{await sync_to_async(ask)()} {await sync_to_async(ask)()}")

    urlpatterns = [
        path("sync", sync),
        path("async", asynchronous),
    ]
    application = ASGIHandler()
"""


@contextmanager
def uvicorn(entry: dict[str, Any], folder: Path) -> Iterator[int]:
    """The application above, served; the value is the port."""
    (folder / "served.py").write_text(textwrap.dedent(APPLICATION))
    port = free_port()
    paths = [str(folder)] if os.environ.get("TEST_INSTALLED") else [str(folder), str(ROOT)]
    environment = {
        **os.environ,
        "ENTRY": json.dumps(entry),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    environment.pop("PYTHONSAFEPATH", None)
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    command = [sys.executable, "-m", "uvicorn", "served:application", "--port", str(port)]
    log = folder / "uvicorn.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--log-level", "warning"], env=environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, log.read_text()
            try:
                get(port, "/sync")
                break
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def get(port: int, url: str) -> str:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        client.request("GET", url)
        answer = client.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, text
        return text
    finally:
        client.close()


def many(port: int, url: str, requests: int = REQUESTS) -> list[str]:
    """The answers to so many requests, THREADS at a time."""
    answers: list[str] = []

    def some() -> None:
        answers.extend(get(port, url) for _ in range(requests // THREADS))

    at_once(THREADS, some)
    assert len(answers) == requests
    return answers


def entry(server: Server, engine: str, pool: dict[str, Any] | None = None) -> dict[str, Any]:
    if pool:
        return server.database(engine=engine, options={"pool": pool}, CONN_MAX_AGE=0)
    return server.database(engine=engine, CONN_MAX_AGE=60)


@pytest.mark.parametrize("url", ["/sync", "/async"])
def test_connections_do_not_pile_up(url: str, server: Server, tmp_path: Path) -> None:
    with uvicorn(entry(server, RESILIENT), tmp_path) as port:
        answers = many(port, url)
        until(lambda: len(server.backends()) <= THREADS, "connections pile up")
    # Within a request it is one connection; of those that have finished nothing is left.
    assert all(len(set(answer.split())) == 1 for answer in answers)


@pytest.mark.parametrize("url", ["/sync", "/async"])
def test_they_pile_up_with_the_stock_engine(url: str, server: Server, tmp_path: Path) -> None:
    with uvicorn(entry(server, STOCK), tmp_path) as port:
        # After a hundred the server has too many clients already.
        many(port, url, 60)
        left = server.backends()
    assert len(left) >= 60


def after_background_work(connection: BaseDatabaseWrapper, server: Server, left: int) -> None:
    """So many are left of ten tasks that connect after the request which started them is over."""

    def ask() -> None:
        with connections[connection.alias].cursor() as cursor:
            cursor.execute("SELECT 1")

    async def later() -> None:
        await asyncio.sleep(0.02)
        await sync_to_async(ask)()

    async def request() -> asyncio.Task[None]:
        async with ThreadSensitiveContext():
            return asyncio.create_task(later())

    async def main() -> None:
        for _ in range(10):
            await (await request())

    gc.disable()  # it would close some of them, some time
    try:
        until(lambda: not server.backends(), "somebody else's sessions are left")
        asyncio.run(main())
        until(lambda: len(server.backends()) == left, f"it is not {left} that are left")
    finally:
        gc.enable()


def test_work_that_outlives_its_request_leaves_no_connection(
    make_connection: Connections, server: Server
) -> None:
    """Its thread is told of by no signal: what it has connected goes with the thread."""
    after_background_work(make_connection(CONN_MAX_AGE=60), server, 0)


def test_it_leaves_them_with_the_stock_engine(make_connection: Connections, server: Server) -> None:
    after_background_work(make_connection(STOCK, CONN_MAX_AGE=60), server, 10)
    # Their threads may still be ending.
    until(lambda: gc.collect() >= 0 and not server.backends(), "nobody collects them")


@pytest.mark.psycopg3
def test_a_pool_keeps_them(server: Server, tmp_path: Path) -> None:
    pool = {"min_size": 2, "max_size": 4, "timeout": 5}
    with uvicorn(entry(server, RESILIENT, pool), tmp_path) as port:
        sessions = {answer.split()[0] for answer in many(port, "/sync")}
        until(lambda: len(server.backends()) <= 4, "sessions are left beside the pool's")
    assert len(sessions) <= 4
