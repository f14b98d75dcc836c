"""Shows what the engine is for, in about half a minute: ``python -m testproject.demo``.

The same load runs twice on a PostgreSQL of its own over TLS, first on Django's engine, then on this
one, while sessions are terminated and the server restarts. ``DATABASE_ENGINE`` puts another engine
in the second place. The exit status is 1 if that engine failed a read, or doubled or lost a write.
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
A small web shop works twice under the same load: {threads} threads read, write and buy through
Django's ORM for {seconds:g} s, without any error handling of their own. All the while a database
session is terminated every {kill_every:g} s, and halfway the server is stopped and comes back
after {down:g} s.
"""

LEGEND = """\
failed reads         queries that ended in an exception in the application
failed transactions  atomic() blocks that ended in an exception
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


def second_side() -> Side:
    engine = os.environ.get("DATABASE_ENGINE") or RESILIENT
    return Side("resilient" if engine == RESILIENT else "other", engine)


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
        line.end(versions(server))
        print(*(f"{side.name:9} is the engine {side.engine}" for side in sides), sep="\n")
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
