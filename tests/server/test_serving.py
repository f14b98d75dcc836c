"""A real gunicorn and a real uvicorn under load, while sessions end and the server restarts."""

from __future__ import annotations

import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from django.core.management import call_command

from testproject.cluster import free_port
from testproject.environment import variables
from testproject.faults import Faults
from testproject.ledger import Kind, Ledger, Result, judge
from testproject.postgres import Mode, Server
from testproject.shop.operations import CUSTOMERS, PRODUCTS, sku, stock_up
from testproject.witness import count
from tests.engines import RESILIENT, STOCK, Connections

REQUESTS = 300
CLIENTS = 6
THINK = 0.1  # longest pause between two requests of a client, seconds
START = 30.0

# name -> arguments, CONN_MAX_AGE. Under ASGI a request runs in a thread of its own.
SERVERS: dict[str, tuple[list[str], int]] = {
    "gunicorn sync": (["gunicorn", "-w", "4", "-k", "sync"], 60),
    "gunicorn gthread": (["gunicorn", "-w", "2", "-k", "gthread", "--threads", "3"], 60),
    "uvicorn": (["uvicorn"], 0),
}
# Kills come so fast that one request may well be hit twice, which the default of 1 does not bear.
SETTINGS = """
from testproject.settings import *
RESILIENT_PG_REQUEST_RETRIES = 3
"""


class Failed(Exception):
    """A request was not answered, or not with 2xx."""


@contextmanager
def served(
    arguments: Sequence[str],
    entry: Mapping[str, object],
    folder: Path,
    settings: str = SETTINGS,
    first: str = "/products/count/",
) -> Iterator[int]:
    """Run the test project behind this server; the value is its port.

    ``first``: the page that is asked for until it is there.
    """
    port = free_port()
    program, *options = arguments
    if program == "gunicorn":
        where = ["--bind", f"127.0.0.1:{port}", "--chdir", str(folder), "--no-control-socket"]
        where.append("testproject.wsgi")
    else:
        where = ["--port", str(port), "--log-level", "error", "testproject.asgi:application"]
    (folder / "serving_settings.py").write_text(settings)
    environment = {
        **os.environ,
        **variables(entry),
        # The paths of this process first: gunicorn and uvicorn would put their folder there.
        "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        "DJANGO_SETTINGS_MODULE": "serving_settings",
    }
    log = folder / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", program, *options, *where],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(port, process, log, first)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(START)
        finally:
            process.kill()  # nothing, unless it did not hear


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path, first: str) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            ask(port, "GET", first)
        except Failed:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return


def ask(port: int, method: str, url: str, data: Mapping[str, str] | None = None) -> bytes:
    """One request on a connection of its own; returns the body, raises Failed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    form = {"Content-Type": "application/x-www-form-urlencoded"} if data else {}
    try:
        connection.request(method, url, urllib.parse.urlencode(data or {}), form)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{method} {url.partition('?')[0]}: {error!r}") from error
    finally:
        connection.close()
    if response.status >= 300:
        raise Failed(f"{method} {url.partition('?')[0]}: {response.status}")
    return body


class Client:
    """One of those that share the requests."""

    def __init__(self, port: int, prefix: str, number: int, numbers: Iterator[int]) -> None:
        self.ledger = Ledger()
        self._port, self._prefix, self._numbers = port, prefix, numbers
        self._random = random.Random(number)

    def run(self) -> None:
        for number in self._numbers:
            time.sleep(self._random.uniform(0, THINK))
            kind = self._random.choices(list(MIX), weights=list(MIX.values()))[0]
            token = None if kind is Kind.READ else f"{self._prefix}-{kind.value}-{number}"
            self.ledger.attempt(kind, partial(getattr(self, kind.value), token or ""), token)

    def read(self, _: str) -> None:
        url, right = self._random.choice(READS)
        assert right in ask(self._port, "GET", url)

    def write(self, token: str) -> None:
        product = sku(self._random.randrange(PRODUCTS))
        data = {"sku": product, "quantity": "1", "token": token}
        ask(self._port, "POST", "/movements/new/", data)

    def transaction(self, token: str) -> None:
        email = f"{self._random.randrange(CUSTOMERS)}@example.org"
        data = {"email": email, "sku": sku(self._random.randrange(PRODUCTS)), "token": token}
        ask(self._port, "POST", "/orders/new/", data)


MIX = {Kind.READ: 6, Kind.WRITE: 2, Kind.TRANSACTION: 2}
READS = [
    ("/products/?after=P009", b'"P010"'),
    ("/products/count/", f"{PRODUCTS}".encode()),
    ("/report/", f'"dearest": "{sku(PRODUCTS - 1)}", "customers": {CUSTOMERS}'.encode()),
]


def load(port: int, server: Server) -> tuple[list[Ledger], str, float, int]:
    """Make all requests under faults; returns ledgers, prefix of tokens, seconds, kills."""
    prefix = uuid.uuid4().hex[:8]
    shared = Shared(range(REQUESTS))
    clients = [Client(port, prefix, number, shared) for number in range(CLIENTS)]
    began = time.monotonic()
    # Not so many in a second: a busy machine takes longer for one request, which must not mean that
    # it is hit more often.
    restarts: list[tuple[float, Mode]] = [(REQUESTS / 3, "fast")]
    faults = Faults(server, kill_every=12, restarts=restarts, down=0.3, done=shared.taken)
    with faults, ThreadPoolExecutor(CLIENTS) as pool:
        for each in [pool.submit(client.run) for client in clients]:
            each.result()
    assert faults.restarts == 1
    return [client.ledger for client in clients], prefix, time.monotonic() - began, faults.kills


class Shared:
    """An iterator that several threads share."""

    def __init__(self, values: range) -> None:
        self._values = iter(values)
        self._taken = 0
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._lock:
            value = next(self._values)
            self._taken += 1
            return value

    def taken(self) -> int:
        return self._taken


def line(name: str, result: Result, kills: int) -> str:
    """What docs/benchmarks.rst shows."""
    engine = "stock" if result.engine == STOCK else "resilient"
    posts = result.failed_transactions + result.write_errors
    return (
        f"{name:17} {engine:10} {kills} kills, 1 restart: failed GETs {result.failed_reads}, "
        f"POSTs {posts}; doubled {result.doubled}, lost {result.lost}"
    )


@pytest.mark.campaign
@pytest.mark.parametrize("name", SERVERS)
def test_no_get_fails_and_no_post_is_doubled(
    name: str,
    own_server: Server,
    own_connections: Connections,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alias = own_connections(STOCK).alias
    call_command("migrate", database=alias, verbosity=0)
    stock_up(alias)
    told: dict[str, Result] = {}
    for engine in (STOCK, RESILIENT):
        age = SERVERS[name][1]
        entry = own_server.database(
            engine=engine, ATOMIC_REQUESTS=True, CONN_MAX_AGE=age, CONN_HEALTH_CHECKS=True
        )
        folder = tmp_path / engine
        folder.mkdir()
        with served(SERVERS[name][0], entry, folder) as port:
            ledgers, prefix, seconds, kills = load(port, own_server)
        found = count(partial(own_server.execute, database="app"), prefix)
        told[engine] = judge(ledgers, found, engine=engine, seconds=seconds)
        with capsys.disabled():
            sys.stdout.write(f"\n{line(name, told[engine], kills)}\n")
        if engine == RESILIENT and told[engine].failed_reads:
            with capsys.disabled():
                sys.stdout.write((folder / "log").read_text())
    stock, own = told[STOCK], told[RESILIENT]
    assert sum(own.operations.values()) == sum(stock.operations.values()) == REQUESTS
    assert stock.failed_reads > 0
    assert own.failed_reads == 0, own.errors
    for each in (own, stock):
        assert (each.lost, each.doubled, each.half_committed) == (0, 0, 0)
