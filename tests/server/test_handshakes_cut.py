"""Servers that go away in the middle of the TLS handshake, as one that restarts does."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from django_resilient_pg.diagnosis.findings import findings
from django_resilient_pg.diagnosis.survey.gather import from_settings
from django_resilient_pg.driver.choose import libpq_version
from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT, STOCK, Connections

pytestmark = pytest.mark.once_per_driver

# In a process of its own, which libpq 17 ends.
CONNECTING = """
    import json, sys, time
    import django
    from django.conf import settings
    from django.db import OperationalError, connection
    settings.configure(DATABASES={"default": json.loads(sys.argv[1])}, USE_TZ=True)
    django.setup()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            connection.ensure_connection()
            print("connected")
            break
        except OperationalError:
            pass
"""


@contextlib.contextmanager
def cut_each_time(server: Server) -> Iterator[int]:
    """A port behind which each connection is cut after a few more bytes."""
    lengths = itertools.count(600, 20)  # from the certificate to what follows the handshake

    def up(client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sent := client.recv(8192):
                upstream.sendall(sent)

    def serve(client: socket.socket) -> None:
        left = next(lengths)
        left = left if left < 1600 else 10_000_000
        with client, socket.create_connection(("127.0.0.1", server.port)) as upstream:
            threading.Thread(target=up, args=(client, upstream), daemon=True).start()
            with contextlib.suppress(OSError):
                while left > 0 and (answer := upstream.recv(min(left, 8192))):
                    client.sendall(answer)
                    left -= len(answer)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]


def test_it_is_found_beforehand(make_connection: Connections) -> None:
    affected = libpq_version(import_module(DRIVER)) // 10_000 in {16, 17}
    for engine in (STOCK, RESILIENT):
        alias = make_connection(engine, options={"sslmode": "require", "sslrootcert": ""}).alias
        ids = [one.id for one in findings(from_settings(alias), connects=False)]
        assert ("resilient_pg.W129" in ids) is (affected and engine == STOCK)
    named = make_connection(STOCK, options={"sslmode": "require"}).alias
    assert "resilient_pg.W129" not in [one.id for one in findings(from_settings(named))]


def connect(server: Server, engine: str, sslmode: str) -> subprocess.CompletedProcess[str]:
    options: dict[str, Any] = {"sslmode": sslmode, "gssencmode": "disable"}
    if engine == RESILIENT:
        options["resilience"] = {"retry_deadline": 60, "backoff": 0.001, "max_backoff": 0.01}
    with cut_each_time(server) as port:
        entry = server.database(engine=engine, PORT=port)
        entry["OPTIONS"] = options
        environ = {name: value for name, value in os.environ.items() if name[:5] != "PGSSL"}
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CONNECTING), json.dumps(entry)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            check=False,
        )


@pytest.mark.parametrize("sslmode", ["require", "prefer"])
def test_a_server_that_goes_away_after_its_certificate(sslmode: str, server: Server) -> None:
    done = connect(server, RESILIENT, sslmode)
    assert (done.returncode, done.stdout) == (0, "connected\n"), done.stderr


def test_it_ends_the_process_on_the_stock_engine_with_libpq_17(server: Server) -> None:
    affected = libpq_version(import_module(DRIVER)) // 10_000 == 17
    done = connect(server, STOCK, "require")
    assert done.returncode == (-signal.SIGSEGV if affected else 0)
