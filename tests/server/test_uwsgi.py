"""A real uWSGI: it loads the application, which queries, and forks its workers in C."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from testproject.cluster import free_port
from testproject.postgres import Server
from tests import needs
from tests.engines import DRIVER, RESILIENT, STOCK, until

# Only where the Python is uWSGI's own: that is one environment for each driver already.
pytestmark = pytest.mark.needs("uwsgi")

ROOT = Path(__file__).resolve().parents[2]
WORKERS, REQUESTS = 4, 400
# uWSGI embeds the Python that it was built for, which can import the packages of no other one.
PROGRAM = f"uwsgi_python{sys.version_info.major}{sys.version_info.minor}"
FITS = shutil.which(PROGRAM) is not None or not shutil.which("uwsgi_python3")
POOLS: dict[str, dict[str, Any]] = {"alone": {}}
if DRIVER == "psycopg":
    POOLS["pooled"] = {"pool": {"min_size": 1, "max_size": 2}}
Answers = list[tuple[int, int, int]]


@contextmanager
def serving(entry: dict[str, Any], folder: Path) -> Iterator[int]:
    """Run the application with a master and workers; the value is its port."""
    port = free_port()
    # For an interpreter that was started without them; the source tree comes last, as in our own.
    paths = [*(path for path in sys.path if path.endswith("site-packages")), str(ROOT)]
    command = [
        needs.program(PROGRAM),
        f"--http-socket=127.0.0.1:{port}",
        "--master",
        f"--processes={WORKERS}",
        "--threads=2",
        "--need-app",
        "--die-on-term",
        "--module=tests.server.uwsgi_app",
    ]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environ["UWSGI_DATABASE"] = json.dumps(entry)
    environ.pop("DJANGO_SETTINGS_MODULE", None)
    log = folder / "uwsgi.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=file, stderr=file, start_new_session=True
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            with suppress(OSError, http.client.HTTPException):
                return ask(port, 1) is not None
            return False

        until(answers, "uWSGI does not answer")
        yield port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(port: int, number: int) -> tuple[int, int, int] | None:
    """The worker, its session and the number; None: no answer within a second, or an error."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        client.request("GET", f"/{number}/")
        response = client.getresponse()
        if response.status != 200:
            return None
        worker, backend, answer = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        client.close()
    return worker, backend, answer


def wrong(port: int, requests: int) -> tuple[int, int]:
    """How many answers are wrong or missing, and how many sessions two workers have used."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(partial(ask, port), range(1, requests + 1)))
    bad = sum(
        answer is None or answer[2] != number for number, answer in enumerate(answers, start=1)
    )
    users: dict[int, set[int]] = {}
    for worker, backend, _ in filter(None, answers):
        users.setdefault(backend, set()).add(worker)
    return bad, sum(len(workers) > 1 for workers in users.values())


if FITS:

    @pytest.mark.parametrize("pool", POOLS)
    def test_workers_do_not_share_what_was_opened_before_the_fork(
        pool: str, server: Server, tmp_path: Path
    ) -> None:
        entry = server.database(
            engine=RESILIENT, options=POOLS[pool], CONN_MAX_AGE=0 if pool == "pooled" else None
        )
        with serving(entry, tmp_path) as port:
            assert wrong(port, REQUESTS) == (0, 0)

    def test_on_the_stock_engine_they_share_it(server: Server, tmp_path: Path) -> None:
        """Over one session without TLS, whose answers come to whoever reads first."""
        entry = server.database(engine=STOCK, options={"sslmode": "disable"}, CONN_MAX_AGE=None)
        with serving(entry, tmp_path) as port:
            bad, shared = wrong(port, 40)
        assert bad or shared
