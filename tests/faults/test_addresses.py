"""Addresses that this machine cannot use for now: transient, so they are waited out."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from testproject.postgres import Server
from tests import needs
from tests.engines import RESILIENT, STOCK
from tests.faults.namespace import Namespace

pytestmark = [pytest.mark.once_per_driver, pytest.mark.needs(*needs.NAMESPACE, "sysctl")]

ROOT = Path(__file__).resolve().parents[2]
# Connects for the first time, and prints that it waits, and what came of it.
CLIENT = """
import json, logging, socket, struct, sys
from django.conf import settings
entry, used = json.loads(sys.argv[1])
settings.configure(DATABASES={"default": entry}, INSTALLED_APPS=["django_resilient_pg"])
import django
django.setup()
from django.db import OperationalError, connection
# Connections that use up the local ports; closed by a reset, so that none of them stays in use.
kept = [socket.create_connection(used) for _ in range(2)] if used else []

class Waits(logging.Handler):
    # What else is to be said waits for the outcome.

    def emit(self, record):
        if "is not accepting connections" not in record.getMessage():
            return
        print("waits", flush=True)
        while kept:
            kept[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            kept.pop(0).close()

log = logging.getLogger("django_resilient_pg")
log.setLevel(logging.INFO)
log.addHandler(Waits())
try:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        print("connected", flush=True)
except OperationalError as error:
    print("raised", flush=True)
    raise
"""


@contextmanager
def client(
    namespace: Namespace, entry: Mapping[str, object], used: tuple[str, int] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run the program above in the namespace."""
    command = [*namespace.launcher, sys.executable, "-c", CLIENT, json.dumps([entry, used])]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    timer = threading.Timer(60.0, process.kill)
    timer.start()
    with process:
        yield process
    timer.cancel()


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def rest(process: subprocess.Popen[str]) -> str:
    """The last line, and what is wrong."""
    out, complaints = process.communicate()
    return f"{out.split()[-1:]} {complaints}"


def on_this_machine(server: Server, engine: str) -> dict[str, object]:
    """An alias whose "localhost" has the address ::1 as well."""
    addresses = {"hostaddr": f"::1,{server.address}"}
    entry = server.database(engine=engine, HOST="localhost,localhost", options=addresses)
    return {**entry, "PORT": f"{server.port},{server.port}"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_no_ipv6_beside_a_server_that_restarts(
    namespace: Namespace, far_server: Server, engine: str
) -> None:
    """::1 cannot be assigned, and nothing listens on the other address yet."""
    namespace.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    far_server.stop("fast")
    with client(namespace, on_this_machine(far_server, engine)) as process:
        first = told(process)
        far_server.start()
        last = rest(process)
    assert (first, "connected" in last) == (
        ("waits", True) if engine == RESILIENT else ("raised", False)
    ), last


@pytest.mark.slow
@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_no_local_port_left(namespace: Namespace, far_server: Server, engine: str) -> None:
    namespace.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=60010 60011")
    address = far_server.address, far_server.port
    try:
        with client(namespace, far_server.database(engine=engine), address) as process:
            first, last = told(process), rest(process)
    finally:
        namespace.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999")
    assert (first, "connected" in last) == (
        ("waits", True) if engine == RESILIENT else ("raised", False)
    ), last
    if engine == STOCK:
        assert "Cannot assign requested address" in last
