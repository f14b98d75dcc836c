"""Server-side cursors that an event loop drops, whose connection belongs to another thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK

pytestmark = pytest.mark.once_per_driver

# In a process of its own: what another thread sends meanwhile has ended processes (SIGSEGV).
LOOP = """
    import asyncio, gc, json, sys, threading
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
        left = (await run("SELECT count(*) FROM pg_cursors"))[0][0]
        print(json.dumps([events, open_cursors, left]))

    asyncio.run(main())
"""


def in_a_loop(entry: dict[str, Any], end: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOOP), json.dumps([entry, end])],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_nothing_is_sent_from_the_thread_that_drops_it(end: str, server: Server) -> None:
    """The event loop does not wait for the statement of the thread whose connection it is."""
    entry = server.database(engine=RESILIENT, CONN_MAX_AGE=60)
    events, before, left = in_a_loop(entry, end)
    assert events[-3:] == ["dropped", "query", ""]
    assert (before, left) == (1, 0)


def test_the_stock_engine_sends_it_and_waits(server: Server) -> None:
    events, *_ = in_a_loop(server.database(engine=STOCK, CONN_MAX_AGE=60), "closed")
    assert "query" in events
