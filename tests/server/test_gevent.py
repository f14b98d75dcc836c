"""Under gevent (psycopg 3 by itself, psycopg2 with psycogreen): looking gives no way to others.

In processes of their own: gevent patches the whole process before anything else is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.once_per_driver

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
    from gevent import monkey
    monkey.patch_all()
    import importlib.util
    if importlib.util.find_spec("psycopg2"):
        from psycogreen.gevent import patch_psycopg
        patch_psycopg()
    import json, sys, time
    import django, gevent
    from django.conf import settings
    settings.configure(DATABASES={"default": json.loads(sys.argv[1])}, USE_TZ=True)
    django.setup()
    from django.db import connection, connections

    def ask(sql):
        with connections["default"].cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0]

    ticks = []

    def tick():
        while True:
            ticks.append(time.monotonic())
            gevent.sleep(0)

    def longest_pause():
        return max(b - a for a, b in zip(ticks, ticks[1:]))
"""

LOOKS = """
    ask("SELECT 1")
    other = gevent.spawn(tick)
    gevent.sleep(0)
    before = len(ticks)
    for _ in range(1000):
        connection._look()
    print(json.dumps(len(ticks) - before))
"""

KILLED = """
    pid = ask("SELECT pg_backend_pid()")
    print(json.dumps(pid), flush=True)
    sys.stdin.readline()

    def work(n):
        if n:
            pids.append(ask("SELECT pg_backend_pid()"))
            gevent.sleep(0.2)
        try:
            return ask(f"SELECT {n} FROM pg_sleep(0.5)")
        except Exception as error:
            return type(error).__name__

    pids = []
    began = time.monotonic()
    jobs = [gevent.spawn(work, n) for n in range(1, 9)]
    main = work(0)
    gevent.joinall(jobs)
    answers = [main] + [job.value for job in jobs]
    print(json.dumps([answers, len(set(pids)), time.monotonic() - began]))
"""

SILENT = """
    ask("SELECT 1")
    print("ready", flush=True)
    sys.stdin.readline()
    time.sleep(0.5)
    gevent.spawn(tick)
    gevent.sleep(0)
    began = time.monotonic()
    answer = ask("SELECT 42")
    took = time.monotonic() - began
    print(json.dumps([answer, took, longest_pause()]))
"""


class Script:
    """One of the above, running."""

    def __init__(self, code: str, entry: dict[str, Any]) -> None:
        path = "" if os.environ.get("TEST_INSTALLED") else str(ROOT)
        environment = {**os.environ, "PYTHONPATH": path}
        environment.pop("DJANGO_SETTINGS_MODULE", None)
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PRELUDE + code), json.dumps(entry)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def answer(self) -> Any:
        """Let it go on to its end; the last line it printed, from JSON."""
        output, errors = self._process.communicate("go on\n", timeout=60)
        assert self._process.returncode == 0, errors
        return json.loads(output.splitlines()[-1])


def test_a_look_lets_no_other_greenlet_run(server: Server) -> None:
    """With gevent's own poll each of the thousand would."""
    assert Script(LOOKS, server.database(engine=RESILIENT, CONN_MAX_AGE=60)).answer() == 0


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_greenlets_heal_and_do_not_wait_for_each_other(engine: str, server: Server) -> None:
    script = Script(KILLED, server.database(engine=engine, CONN_MAX_AGE=60))
    server.terminate(int(script.line()))
    answers, sessions, seconds = script.answer()
    assert sessions == 8
    assert seconds < 3.0, "nine times half a second, all at once"
    assert answers[1:] == list(range(1, 9))
    assert (answers[0] == 0) is (engine == RESILIENT)


def test_a_ping_does_not_block_the_others(server: Server) -> None:
    with Proxy(server.port) as proxy:
        entry = server.database(
            engine=RESILIENT,
            options={
                "sslmode": "require",
                "resilience": {"ping_after": 0.2, "ping_timeout": 1.0},
            },
            PORT=str(proxy.port),
            CONN_MAX_AGE=60,
        )
        script = Script(SILENT, entry)
        assert script.line() == "ready\n"
        proxy.set_mode("mute")
        over = threading.Timer(2.0, proxy.set_mode, ["pass"])
        over.start()
        answer, took, pause = script.answer()
        over.join()
    assert answer == 42
    assert took > 0.9, "the ping waited"
    assert pause < 0.9, "the others went on meanwhile"
