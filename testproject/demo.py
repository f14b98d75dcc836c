"""Shows what the engine is for, in about half a minute: ``python -m testproject.demo``.

The same load runs twice on a PostgreSQL of its own over TLS, first on Django's engine, then on this
one, while sessions are terminated and the server restarts. ``DATABASE_ENGINE`` puts another engine
in the second place. The exit status is 1 if that engine failed a read, or doubled or lost a write.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import django
from django.core.management import CommandError, call_command

from testproject import environment
from testproject.faults import Faults
from testproject.ledger import Result
from testproject.postgres import Server
from testproject.screen import Cell, Line, print_table

ROOT = Path(__file__).resolve().parent.parent
STOCK = "django.db.backends.postgresql"
RESILIENT = "django_resilient_pg"
THREADS = 6
KILL_EVERY = 0.1  # seconds
DOWN = 1.0  # seconds the server stays down when it restarts
PATIENCE = 120.0  # seconds after the end of a load until its process is ended

INTRODUCTION = """\
A small web shop works twice under the same load: {threads} threads read, write and buy through
Django's ORM for {seconds:g} s, without any error handling of their own. All the while a database
session is terminated every {kill_every:g} s, and halfway the server is stopped and comes back
after {down:g} s.
"""

LEGEND = """\
failed reads         queries that ended in an exception in the application
failed transactions  atomic() blocks that ended in an exception; none was done by half
write errors         single INSERTs that ended in an exception: nobody can know whether they took
                     effect, so running them again might do it twice
doubled, lost        rows that are there twice; rows that are not there although the application
                     was told that they are saved
"""

HEADERS = (
    "engine",
    "statements",
    "failed reads",
    "failed transactions",
    "doubled writes",
    "lost writes",
    "write errors",
    "slowest (s)",
)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two engines that are compared."""

    name: str
    engine: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the load came to on one side, and what was done to it."""

    side: Side
    result: Result
    kills: int
    restarts: int
    log: list[str]  # lines that the engine logged


def second_side() -> Side:
    engine = os.environ.get("DATABASE_ENGINE") or RESILIENT
    return Side("resilient" if engine == RESILIENT else engine, engine)


def variables(server: Server, side: Side) -> dict[str, str]:
    """The environment in which the test project works with this side's engine and database."""
    entry = server.database(side.name, engine=side.engine)
    return {
        **os.environ,
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
                    line.show(f"{side.name}: {progress(message['progress'], seconds, faults)}")
        log.seek(0)
        logged = log.read().splitlines()
    if result is None:
        line.end()
        raise SystemExit(f"The load on {side.engine} broke off:\n" + "\n".join(logged[-20:]))
    line.end(f"{side.name}: {summary(result, faults)}")
    own = [text for text in logged if f" {RESILIENT}" in text]
    return Outcome(side, result, faults.kills, faults.restarts, own)


def progress(done: dict[str, Any], seconds: float, faults: Faults) -> str:
    return (
        f"{done['seconds']:4.1f} of {seconds:g} s, {done['statements']} statements, "
        f"{hits(faults)}; failed: {done['failed_reads']} reads, {done['failed_writes']} writes"
    )


def summary(result: Result, faults: Faults) -> str:
    return f"done; {result.total_statements} statements in {result.seconds:.1f} s, {hits(faults)}"


def hits(faults: Faults) -> str:
    return f"{faults.kills} sessions terminated, {faults.restarts} restart(s)"


def row(outcome: Outcome) -> list[Cell]:
    """The line of the table for one side."""
    result = outcome.result
    promised = (result.failed_reads, result.doubled, result.lost)
    reads, doubled, lost = (Cell(str(number), good=number == 0) for number in promised)
    return [
        Cell(outcome.side.name),
        Cell(str(result.total_statements)),
        reads,
        Cell(str(result.failed_transactions)),
        doubled,
        lost,
        Cell(str(result.write_errors)),
        Cell(f"{result.slowest:.2f}"),
    ]


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
    found = [f"{name}: {number} {what}." for what, number in wrong.items() if number]
    if not (result.total_statements and outcome.kills and outcome.restarts):
        found.append(
            f"{name}: nothing was terminated, restarted or done, so the run proves nothing."
        )
    return found


def check_connection(server: Server, side: Side) -> None:
    """Run ``manage.py checkdbconn`` for the second side, and show what it says."""
    print(f"$ manage.py checkdbconn  # with the engine {side.engine}", flush=True)
    os.environ.update(variables(server, side))
    django.setup()
    try:
        call_command("checkdbconn")
    except CommandError as error:
        print(f"checkdbconn failed: {error}", flush=True)


def demo(seconds: float) -> int:
    """Run everything; returns the exit status."""
    line = Line(sys.stdout)
    sides = (Side("stock", STOCK), second_side())
    print(INTRODUCTION.format(threads=THREADS, seconds=seconds, kill_every=KILL_EVERY, down=DOWN))
    line.show("Starting a PostgreSQL server of its own ...")
    with Server() as server:
        ((version,),) = server.execute("SHOW server_version")
        line.end(f"PostgreSQL {version} over TLS, Django {django.get_version()}.")
        outcomes = [measure(server, side, seconds, line) for side in sides]
        print(flush=True)
        print_table(HEADERS, [row(outcome) for outcome in outcomes], sys.stdout)
        print(f"\n{LEGEND}", flush=True)
        show_reasons(outcomes)
        check_connection(server, sides[1])
    broken = complaints(outcomes[1])
    print("".join(f"\n{text}" for text in broken), end="\n" if broken else "")
    return 1 if broken else 0


def show_reasons(outcomes: Sequence[Outcome]) -> None:
    """What the applications were told, and what the engine logged about it."""
    for outcome in outcomes:
        for text, number in list(outcome.result.errors.items())[:2]:
            print(f"{outcome.side.name}: {number} x {text}")
        if outcome.log:
            print(f"{outcome.side.name}: logged {len(outcome.log)} lines such as: {outcome.log[0]}")
    print(flush=True)


def main() -> None:
    """Parse the command line and run; Ctrl-C and SIGTERM leave nothing behind."""
    parser = argparse.ArgumentParser(prog="python -m testproject.demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=11.0, help="length of each load")
    seconds = parser.parse_args().seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        status = demo(seconds)
    except KeyboardInterrupt:
        print("\nStopped.")
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
