"""One side of the demo: the load on one engine, in a process of its own, under faults."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from testproject import environment
from testproject.faults import Faults
from testproject.ledger import Result
from testproject.postgres import Server
from testproject.screen import Line

ROOT = Path(__file__).resolve().parent.parent
STOCK = "django.db.backends.postgresql"
RESILIENT = "django_resilient_pg"
THREADS = 6
KILL_EVERY = 0.1  # seconds
DOWN = 1.0  # seconds the server stays down when it restarts
PATIENCE = 120.0  # seconds after the end of a load until its process is ended
OURS = ("DATABASE_", "DJANGO_")  # what the user set for another database is not for this one


@dataclass(frozen=True, slots=True)
class Side:
    """One of the engines that are compared, and how the application uses it."""

    name: str  # also of its database
    engine: str
    retries: bool = False  # transactions run under retry_atomic


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the load came to on one side, and what was done to it."""

    side: Side
    result: Result
    kills: int
    restarts: int
    log: list[str]  # lines that the engine logged: WARNING and above


def variables(server: Server, side: Side) -> dict[str, str]:
    """The environment in which the test project works with this side's engine and database."""
    entry = server.database(side.name, engine=side.engine)
    return {
        **{name: os.environ[name] for name in os.environ if not name.startswith(OURS)},
        **environment.variables(entry),
        "DJANGO_SETTINGS_MODULE": "testproject.settings",
        "DATABASE_CONN_MAX_AGE": "60",
        "DATABASE_CONN_HEALTH_CHECKS": "true",
    }


@contextlib.contextmanager
def load_process(server: Server, side: Side, seconds: float) -> Iterator[tuple[IO[str], IO[str]]]:
    """The load in a process of its own: the lines that it prints, the file that it logs to."""
    command = [sys.executable, "-m", "testproject.load", "--json"]
    command += [f"--seconds={seconds}", f"--threads={THREADS}"]
    command += ["--retry-atomic"] if side.retries else []
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            env=variables(server, side),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        watchdog = threading.Timer(seconds + PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            yield process.stdout, log
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()


def measure(server: Server, side: Side, seconds: float, line: Line) -> Outcome:
    """Run the load on one side, break its connections, and return what came of it."""
    server.create_database(side.name)
    faults = Faults(
        server, side.name, kill_every=KILL_EVERY, restarts=[(seconds / 2, "fast")], down=DOWN
    )
    line.show(f"{side.name}: creating the tables ...")
    result = None
    with load_process(server, side, seconds) as (output, log):
        output_lines = map(json.loads, output)
        first = next(output_lines, None)
        if first is not None:
            with faults:
                for message in output_lines:
                    if "result" in message:
                        result = Result(**message["result"])
                        break
                    line.show(
                        f"{side.name}: {progress(message['progress'], seconds, faults.kills)}"
                    )
        log.seek(0)
        logged = log.read().splitlines()
    if result is None:
        line.end()
        raise SystemExit(f"The load on {side.engine} broke off:\n" + "\n".join(logged[-20:]))
    line.end(f"{side.name}: {summary(result, faults)}")
    own = [text for text in logged if f" {RESILIENT}" in text]
    return Outcome(side, result, faults.kills, faults.restarts, own)


def progress(done: dict[str, Any], seconds: float, kills: int) -> str:
    """How far a load is, in less than 80 columns."""
    return (
        f"{done['seconds']:4.1f}/{seconds:g} s, {done['statements']} statements, "
        f"{kills} kills; failed: {done['failed_reads']} reads, {done['failed_writes']} writes"
    )


def summary(result: Result, faults: Faults) -> str:
    """One line on a load that is over."""
    return (
        f"{result.total_statements} statements in {result.seconds:.1f} s, "
        f"{faults.kills} sessions terminated, server restarted: {faults.restarts} time(s)"
    )


def complaints(outcome: Outcome) -> list[str]:
    """What the engine did not keep of its promise, or why the run proves nothing."""
    result, name = outcome.result, outcome.side.engine
    wrong = {
        "reads failed": result.failed_reads,
        "writes were doubled": result.doubled,
        "acknowledged writes were lost": result.lost,
        "transactions were committed by half": result.half_committed,
        "threads hang": result.hung,
    }
    if outcome.side.retries:
        wrong["transactions failed under retry_atomic"] = result.failed_transactions
    surfaced = result.failed_reads + result.failed_transactions + result.write_errors
    if name == RESILIENT:
        wrong["warnings were logged for what was healed"] = max(0, len(outcome.log) - surfaced)
    found = [f"{name}: {number} {what}." for what, number in wrong.items() if number]
    if not (result.total_statements and outcome.kills and outcome.restarts):
        found.append(
            f"{name}: nothing was terminated, restarted or done, so the run proves nothing."
        )
    return found
