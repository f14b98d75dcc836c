"""What a change of the engine costs where nothing is wrong: two versions, and stock, side by side.

Run: ``make compare ARGS="--old REVISION"``, or ``python -m benchmarks.compare --old REVISION`` with
the driver that is installed. The packages of the working tree and of a git revision are copied
under two names, the older one twice: how far its two copies differ is what chance alone does. All
of them and Django's own engine are used by one process over TLS on loopback, in turns: a few
operations by each, in random order. Some fresh processes do so one after the other. Times are the
lower quartiles of a turn; what is given are medians over the pairs of turns, with 95 % intervals.

Which copy is imported and warmed up first makes a difference of its own (two copies of one version
differed by 1.7 us in an ORM query). So from process to process each takes another one's place; in
every three of them each has had all places.

``--apart`` gives each engine a process of its own: Django's code that all share is specialised by
the interpreter for the engine that uses it, as in production, and the ratio to stock is fair.
``--instructions`` counts what an operation executes, which no neighbour on the machine disturbs
(needs valgrind; best with ``--apart``, in which two copies of one version differ by under 1 %).
Exits with status 1 if the new engine is slower than chance explains, or above the bound to stock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import callgrind
from benchmarks.copies import ROOT, copy
from benchmarks.healthy import pin
from benchmarks.intervals import Interval, interval
from benchmarks.jobs import JOBS, TABLES, pooled

STOCK = "stock"
#: alias -> the package's name.
ENGINES = {
    STOCK: "django.db.backends.postgresql",
    "old": "resilient_old",
    "control": "resilient_control",
    "new": "resilient_new",
}
HAS_POOL = find_spec("psycopg_pool") is not None
POOL = {"min_size": 1, "max_size": 2}

#: By kind, by engine: the values of each block.
Turns = dict[str, dict[str, list[list[float]]]]


class Worker:
    """A process that has some of the engines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, *order: object) -> Any:
        """Have it do something and wait for what comes of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("a process that measures has ended early; it said why above")
        return json.loads(answer)


@contextmanager
def workers(
    databases: dict[str, Any],
    folder: str,
    *,
    apart: bool = False,
    under: Sequence[str] = (),
    block: int = 0,
) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """Fresh processes by engine, one for all unless ``apart``; and the versions they have.

    The copies are imported in an order that is another one in the next ``block``.
    """
    copies = [alias for alias in ENGINES if alias != STOCK]
    first = block % len(copies)
    engines = [STOCK, *copies[first:], *copies[:first]]
    groups = [[alias] for alias in engines] if apart else [engines]
    found: dict[str, Worker] = {}
    with ExitStack() as stack:
        for group in groups:
            process = stack.enter_context(
                subprocess.Popen(
                    [*under, sys.executable, "-m", "benchmarks.worker"],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            worker = Worker(process)
            theirs = [one for each in group for one in databases if one.split()[0] == each]
            versions = worker.ask("set_up", {alias: databases[alias] for alias in theirs}, folder)
            found.update(dict.fromkeys(group, worker))
        yield found, versions


def measure(found: dict[str, Worker], job: str, rounds: int, loops: int) -> Turns:
    """Have the engines take turns: within a process, and the processes with each other."""
    draw = random.Random()
    taken: Turns = {kind: {alias: [[]] for alias in found} for kind in ("wall", "cpu")}
    each = list(dict.fromkeys(found.values()))
    for _ in range(rounds):
        draw.shuffle(each)
        for worker in each:
            for alias, (wall, cpu) in worker.ask("turns", job, loops).items():
                taken["wall"][alias][0].append(wall)
                taken["cpu"][alias][0].append(cpu)
    return taken


def differences(turns: dict[str, list[list[float]]], one: str, other: str) -> Interval:
    """By how many us the first is slower than the second."""
    pairs = zip(turns[one], turns[other], strict=True)
    return interval([[a - b for a, b in zip(*blocks, strict=True)] for blocks in pairs])


def ratios(turns: dict[str, list[list[float]]], one: str, other: str) -> Interval:
    """By what factor the first is slower than the second."""
    pairs = zip(turns[one], turns[other], strict=True)
    return interval([[a / b for a, b in zip(*blocks, strict=True)] for blocks in pairs])


def report(job: str, taken: Turns) -> bool:
    """Print the lines of one operation; True if it is slower than it may be."""
    for kind, turns in taken.items():
        stock = interval(turns[STOCK]).median
        change = differences(turns, "new", "old")
        chance = differences(turns, "control", "old")
        ratio, ratio_old = ratios(turns, "new", STOCK), ratios(turns, "old", STOCK)
        print(
            f"{job:12} {kind:4} {stock:7.1f}   {_us(change)}   {_us(chance)}   "
            f"{_factor(ratio)}   {_factor(ratio_old)}"
        )
        if kind == "wall":
            slower = change.low > max(0.0, abs(chance.low), abs(chance.high))
            missed = slower or ratio.median > JOBS[job].bound
    return missed


def _us(found: Interval) -> str:
    return f"{found.median:+6.2f} [{found.low:+6.2f},{found.high:+6.2f}]"


def _factor(found: Interval) -> str:
    return f"{found.median:.3f} [{found.low:.3f},{found.high:.3f}]"


def report_counts(databases: dict[str, Any], folder: str, jobs: list[str], *, apart: bool) -> None:
    """Print what one operation executes, as bytecode and by the machine."""
    names = ("engine", "Django", "rest", "engine calls", "calls", "C calls")
    under = callgrind.command(folder)
    with (
        workers(databases, folder, apart=apart) as (found, versions),
        workers(databases, folder, apart=apart, under=under) as (watched, _),
    ):
        describe(versions)
        for worker in (*found.values(), *watched.values()):
            worker.ask("freeze_clocks")
        for worker in set(watched.values()):
            callgrind.start(worker)
        print("bytecode instructions by whose they are, calls, machine instructions")
        print(" " * 24 + "".join(f"{name:>13}" for name in (*names, "machine")))
        for job in jobs:
            for alias in found:
                counted = found[alias].ask("count", alias, job, folder)
                print(f"{job:14}{alias:10}", end="")
                print("".join(f"{counted.get(name, 0):>13}" for name in names), end="")
                print(f"{callgrind.count(watched[alias], alias, job, folder):>13.0f}")


def main() -> int:
    """Print the tables; 1 if a bound was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", required=True, help="a git revision, or a folder with the package")
    parser.add_argument("--new", default=str(ROOT), help="the same; default: the working tree")
    parser.add_argument("--apart", action="store_true", help="a process for each engine")
    parser.add_argument("--instructions", action="store_true", help="count, do not measure")
    parser.add_argument("--blocks", type=int, default=6, help="how often to start, in threes")
    parser.add_argument("--rounds", type=int, default=40, help="turns of an engine in a block")
    parser.add_argument("--loops", type=int, default=40, help="operations in a turn")
    possible = [name for name, job in JOBS.items() if HAS_POOL or not job.pool]
    parser.add_argument("--jobs", nargs="+", choices=possible, default=possible)
    arguments = parser.parse_args()
    if arguments.blocks % 3 and not (arguments.apart or arguments.instructions):
        parser.error("--blocks: a multiple of 3, so that each copy has each place equally often")
    with tempfile.TemporaryDirectory() as folder:
        for alias, source in (
            ("old", arguments.old),
            ("control", arguments.old),
            ("new", arguments.new),
        ):
            copy(source, ENGINES[alias], Path(folder))
        missed = compare(arguments, folder)
    for job in missed:
        print(f"{job}: slower than it may be", file=sys.stderr)
    return 1 if missed else 0


def compare(arguments: argparse.Namespace, folder: str) -> list[str]:
    """Do all of it; return the operations that missed a bound."""
    from testproject.postgres import Server

    pin()
    taken: dict[str, Turns] = {}
    with Server() as server:
        databases = {
            alias: server.database(engine=engine, CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
            for alias, engine in ENGINES.items()
        }
        if HAS_POOL:
            databases |= {
                pooled(alias): server.database(engine=engine, options={"pool": POOL})
                for alias, engine in ENGINES.items()
            }
        server.execute(TABLES, database="app")
        if arguments.instructions:
            report_counts(databases, folder, arguments.jobs, apart=arguments.apart)
            return []
        for number in range(arguments.blocks):
            apart = arguments.apart
            with workers(databases, folder, apart=apart, block=number) as (found, versions):
                if number == 0:
                    describe(versions)
                for job in arguments.jobs:
                    add(taken, job, measure(found, job, arguments.rounds, arguments.loops))
    print(
        f"{'us':17} {'stock':>7}   {'new - old':24}   {'control - old':24}   "
        f"{'new : stock':19}   {'old : stock':19}"
    )
    return [job for job in arguments.jobs if report(job, taken[job])]


def add(taken: dict[str, Turns], job: str, block: Turns) -> None:
    """Put a block's turns to those of the blocks before it."""
    if job not in taken:
        taken[job] = block
        return
    for kind, turns in block.items():
        for alias, blocks in turns.items():
            taken[job][kind][alias] += blocks


def describe(versions: dict[str, str]) -> None:
    """Print where this is measured."""
    load = " ".join(f"{one:.2f}" for one in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, {platform.platform()}")
    print(f"Python {platform.python_version()}, Django {versions['Django']}, ", end="")
    print(f"{versions['driver']}, PostgreSQL {versions['PostgreSQL']}")


if __name__ == "__main__":
    raise SystemExit(main())
