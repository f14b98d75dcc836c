"""Shows what the engine is for, in less than a minute: ``python -m testproject.demo``.

The same load runs three times on a PostgreSQL of its own over TLS, while sessions are terminated
and the server restarts: on Django's engine, on this one, and on this one with transactions under
``retry_atomic``. ``DATABASE_ENGINE`` puts another engine in the place of the last two. The exit
status is 1 if an engine other than Django's failed a read, doubled or lost a write, or if a
transaction failed under ``retry_atomic``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import django
from django.core.management import CommandError, call_command

from testproject.comparison import (
    DOWN,
    KILL_EVERY,
    RESILIENT,
    STOCK,
    THREADS,
    Outcome,
    Side,
    complaints,
    measure,
    variables,
)
from testproject.postgres import Server
from testproject.screen import Cell, Line, print_table

INTRODUCTION = """\
A small web shop works {times} times under the same load. {threads} threads read, write and buy
through Django's ORM for {seconds:g} s, without any error handling of their own. Meanwhile a
database session is terminated every {kill_every:g} s. Halfway the server stops for {down:g} s.
"""

LEGEND = """\
failed reads         queries that ended in an exception in the application
failed transactions  atomic() blocks that ended in an exception
write errors         single INSERTs that ended in an exception: nobody can know whether they took
                     effect, so a retry might apply them twice
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


def other_sides() -> list[Side]:
    """The engine that is shown, and how."""
    engine = os.environ.get("DATABASE_ENGINE") or RESILIENT
    if engine != RESILIENT:
        return [Side("other", engine)]
    return [Side("resilient", engine), Side("retry_atomic", engine, retries=True)]


def described(side: Side) -> str:
    """What the name of a side means."""
    how = ", transactions under retry_atomic" if side.retries else ""
    return f"{side.name:12} is the engine {side.engine}{how}"


def versions(server: Server) -> str:
    """What the loads run on."""
    ((version,),) = server.execute("SHOW server_version")
    name = "psycopg" if find_spec("psycopg") else "psycopg2"
    driver = f"{name} {import_module(name).__version__.split()[0]}"
    return f"PostgreSQL {version} over TLS, Django {django.get_version()}, {driver}."


def row(outcome: Outcome) -> list[Cell]:
    """The line of the table for one side."""
    result = outcome.result
    promised = (result.failed_reads, result.doubled, result.lost)
    reads, doubled, lost = (Cell(str(number), good=number == 0) for number in promised)
    failed = result.failed_transactions
    return [
        Cell(outcome.side.name),
        Cell(str(result.total_statements)),
        reads,
        Cell(str(failed), good=failed == 0 if outcome.side.retries else None),
        doubled,
        lost,
        Cell(str(result.write_errors)),
        Cell(f"{result.slowest:.2f}"),
    ]


def check_connection(server: Server, side: Side) -> None:
    """Run ``manage.py checkdbconn`` for a side, and show what it says."""
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
    sides = (Side("stock", STOCK), *other_sides())
    times = {2: "two", 3: "three"}[len(sides)]
    given = {"threads": THREADS, "seconds": seconds, "kill_every": KILL_EVERY, "down": DOWN}
    print(INTRODUCTION.format(times=times, **given))
    line.show("Starting a PostgreSQL server of its own ...")
    with Server() as server:
        line.end(versions(server))
        print(*map(described, sides), sep="\n")
        outcomes = [measure(server, side, seconds, line) for side in sides]
        print(flush=True)
        print_table(HEADERS, [row(outcome) for outcome in outcomes], sys.stdout)
        print(f"\n{LEGEND}", flush=True)
        show_reasons(outcomes)
        check_connection(server, sides[1])
    broken = [text for outcome in outcomes[1:] for text in complaints(outcome)]
    print("".join(f"\n{text}" for text in broken), end="\n" if broken else "")
    return 1 if broken else 0


def show_reasons(outcomes: Sequence[Outcome]) -> None:
    """Which errors the applications got, and what the engine logged at WARNING and above."""
    for outcome in outcomes:
        for text, number in list(outcome.result.errors.items())[:2]:
            print(f"{outcome.side.name}: {number} x {text}")
        if log := outcome.log:
            print(f"{outcome.side.name}: logged {len(log)} warnings, such as: {log[0]}")
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
