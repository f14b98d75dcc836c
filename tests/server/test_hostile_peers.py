"""``checkdbconn`` before peers that mean ill: it ends soon, is small, and says so in plain text.

Each peer is met by a process of its own, so that its time and memory can be told.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from testproject.postgres import Server
from tests.engines import RESILIENT
from tests.server.hostile import PEERS, Hostile

pytestmark = pytest.mark.once_per_driver

ROOT = Path(__file__).resolve().parents[2]
MEGABYTES = 512
SECONDS = 40
EVERY_OPTION = ["--sslmodes", "--drill", "--fix", "--probe-idle", "5"]

# Imports everything once, and forks for each peer.
MEETING = """
import json, os, resource, sys, tempfile, time, traceback
from importlib import import_module
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}},
    INSTALLED_APPS=["django_resilient_pg"],
    USE_TZ=True,
)
import django
from django.core.management import execute_from_command_line
django.setup()
import_module("django_resilient_pg.management.commands.checkdbconn")
import_module("django_resilient_pg.base")
jobs = json.load(sys.stdin)

def meet(entry, arguments):
    settings.DATABASES = {"default": entry}
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # the machine is spared
    status = 99
    try:
        execute_from_command_line(["manage.py", "checkdbconn", "--no-color", *arguments])
        status = 0
    except SystemExit as ending:
        status = ending.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)

def said(file):
    file.seek(0)
    return file.read(1_000_000).decode(errors="surrogateescape")

waiting, under_way, results = list(jobs.items()), {}, {}
while waiting or under_way:
    while waiting and len(under_way) < 12:
        name, (entry, arguments) = waiting.pop()
        out, complaints = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        pid = os.fork()
        if not pid:
            os.dup2(out.fileno(), 1)
            os.dup2(complaints.fileno(), 2)
            meet(entry, arguments)
        under_way[pid] = (name, out, complaints, time.monotonic())
    pid, status, used = os.wait4(-1, 0)
    name, out, complaints, began = under_way.pop(pid)
    results[name] = {
        "status": os.waitstatus_to_exitcode(status),
        "out": said(out),
        "complaints": said(complaints),
        "seconds": time.monotonic() - began,
        "megabytes": used.ru_maxrss / 1024,
    }
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="module")
def met(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What came of all of them, by name."""
    folder = tmp_path_factory.mktemp("hostile")
    with ExitStack() as stack:
        jobs = {}
        for name, peer in PEERS.items():
            port = stack.enter_context(Hostile(peer, folder)).port
            entry = server.database(engine=RESILIENT, HOST="127.0.0.1", PORT=str(port))
            entry["OPTIONS"] = {"sslmode": "prefer", "gssencmode": "disable"}
            options = [] if peer.patient else ["--wait", "0"]
            options += EVERY_OPTION if peer.every_option else []
            jobs[name] = (entry, ["-v", "2", *options])
        done = subprocess.run(
            [sys.executable, "-c", MEETING],
            input=json.dumps(jobs), cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=400,
            check=True,
        )  # fmt: skip
        yield json.loads(done.stdout)


@pytest.mark.parametrize("peer", PEERS)
def test_a_hostile_peer(met: dict[str, Any], peer: str) -> None:
    seen = met[peer]
    shown = seen["out"] + seen["complaints"]
    assert "Traceback" not in shown
    assert seen["status"] in {0, 1, 3}, seen["complaints"]
    assert "The rule" not in shown  # that one failed
    assert seen["out"].startswith('"default": ')
    assert [each for each in sorted(set(shown) - {"\n"}) if not each.isprintable()] == []
    assert len(shown) < 20_000
    assert seen["megabytes"] < MEGABYTES
    assert seen["seconds"] < SECONDS


def test_there_are_forty() -> None:
    assert len(PEERS) >= 40
