"""Server-side cursors that an event loop drops, whose connection belongs to another thread."""

from __future__ import annotations

import json
import subprocess
import textwrap
from typing import Any

import pytest

from testproject.postgres import Server
from tests.children import python
from tests.engines import RESILIENT, STOCK

pytestmark = pytest.mark.once_per_driver

# In a process of its own: what another thread sends meanwhile has ended processes (SIGSEGV).
LOOP = """
    import asyncio, gc, json, sys, threading, time
    import django
    from django.conf import settings
    entry, end = json.loads(sys.argv[1])
    settings.configure(DATABASES={"default": entry}, USE_TZ=True)
    django.setup()
    from asgiref.sync import sync_to_async
    from django.db import connection, models, transaction

    class Number(models.Model):
        class Meta:
            app_label, db_table, managed = "numbers", "numbers", False

    events = []
    at_work = threading.Event()

    @sync_to_async
    def run(sql, name=""):
        with connection.cursor() as cursor:
            at_work.set()
            cursor.execute(sql)
            events.append(name)
            return cursor.fetchall() if cursor.description else None

    async def main():
        await run("CREATE TEMPORARY TABLE numbers AS SELECT generate_series(1, 1000) id")
        iterator = Number.objects.aiterator(chunk_size=10)
        events.append((await anext(iterator)).id)
        open_cursors = (await run("SELECT count(*) FROM pg_cursors"))[0][0]
        at_work.clear()
        slow = asyncio.ensure_future(run("SELECT pg_sleep(1)", "query"))
        while not at_work.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        if end == "closed":
            await iterator.aclose()
        del iterator
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        events.append("dropped")
        await slow
        ends = time.monotonic() + 60  # the loop may be behind with what it drops
        while left := (await run("SELECT count(*) FROM pg_cursors"))[0][0]:
            if time.monotonic() > ends:
                break
            await asyncio.sleep(0.01)
        print(json.dumps([events, open_cursors, left]))

    asyncio.run(main())
"""


def program(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python("-c", textwrap.dedent(text), *arguments)


def in_a_loop(entry: dict[str, Any], end: str) -> Any:
    done = program(LOOP, json.dumps([entry, end]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_nothing_is_sent_from_the_thread_that_drops_it(end: str, server: Server) -> None:
    """The event loop does not wait for the statement of the thread whose connection it is."""
    entry = server.database(engine=RESILIENT, CONN_MAX_AGE=60)
    events, before, left = in_a_loop(entry, end)
    assert events[events.index("dropped") :][:3] == ["dropped", "query", ""]
    assert (before, left) == (1, 0)


def test_the_stock_engine_sends_it_and_waits(server: Server) -> None:
    events, *_ = in_a_loop(server.database(engine=STOCK, CONN_MAX_AGE=60), "closed")
    assert "query" in events


# Again and again, with big answers and the connection closed in between. On the stock engine that
# has ended the process with SIGSEGV (psycopg 3, TLS), after a minute: the loop sends CLOSE while
# the thread reads an answer.
STORM = """
    import asyncio, gc, json, sys, time
    import django
    from django.conf import settings
    settings.configure(DATABASES={"default": json.loads(sys.argv[1])}, USE_TZ=True)
    django.setup()
    from asgiref.sync import sync_to_async
    from django.db import connection, models

    class Number(models.Model):
        class Meta:
            app_label, db_table, managed = "numbers", "dropped_numbers", False

    @sync_to_async
    def run(sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0] if cursor.description else None

    @sync_to_async
    def close():
        connection.close()

    async def main():
        await run("CREATE TABLE dropped_numbers AS SELECT generate_series(1, 1000) id")
        rounds = 0
        ends = time.monotonic() + float(sys.argv[2])
        while time.monotonic() < ends or rounds < 3:
            iterators = [Number.objects.aiterator(chunk_size=10) for _ in range(5)]
            for one in iterators:
                await anext(one)
            under_way = [asyncio.ensure_future(run("SELECT repeat('x', 2000000)")) for _ in "abc"]
            if rounds % 3 == 0:
                under_way.append(asyncio.ensure_future(close()))
            await asyncio.sleep(0.0005 * (rounds % 20))
            del iterators, one
            gc.collect()
            answers = await asyncio.gather(*under_way)
            assert [len(one) for one in answers[:3]] == [2_000_000] * 3
            rounds += 1
        await run("DROP TABLE dropped_numbers")
        print(rounds)

    asyncio.run(main())
"""


@pytest.mark.slow
def test_a_process_that_drops_many_of_them_lives_on(server: Server) -> None:
    server.execute("CREATE SCHEMA IF NOT EXISTS dropped AUTHORIZATION app", database="app")
    options = {"options": "-c search_path=dropped"}
    entry = server.database(engine=RESILIENT, CONN_MAX_AGE=60, options=options)
    done = program(STORM, json.dumps(entry), "5")
    server.execute("DROP SCHEMA dropped CASCADE", database="app")
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= 3
