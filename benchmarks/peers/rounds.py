"""Where nothing is wrong: contestants take turns, in blocks, on loopback and on longer paths."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.copies import ROOT
from benchmarks.healthy import pin
from benchmarks.intervals import interval
from benchmarks.peers.contender import Contender, contenders, entry, witness
from benchmarks.peers.contestants import CONTESTANTS, STOCK, Contestant, engine_for
from benchmarks.peers.delayed import delayed
from benchmarks.peers.environments import Unavailable, python_of
from benchmarks.peers.paths import JOBS, PATHS
from testproject.postgres import Server

#: With whom a contestant is compared: (of a pool, of connections that are kept).
_BASELINES: Final = {
    "request": ("stock_pool", "stock_checks"),
    "atomic request": ("stock_pool", "stock_checks"),
}
_IMPORT: Final = """
import importlib, sys, time
import {before}
began = time.perf_counter()
for name in {names!r}:
    importlib.import_module(name)
print(time.perf_counter() - began)
"""
#: By path, by job, by contestant: the medians of the turns, by blocks.
Turns = dict[str, dict[str, dict[str, list[list[float]]]]]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    blocks: int
    rounds: dict[str, int]  # by alias
    imports: int


FULL: Final = Size(4, {"default": 20, "near": 16, "far": 5}, 8)
QUICK: Final = Size(1, {"default": 2, "near": 2, "far": 1}, 2)


def measure(driver: str, size: Size, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run all of it; return what the results file holds."""
    pin()
    reasons: dict[str, str] = {}
    turns: Turns = {}
    memory: dict[str, list[float]] = {}
    taking_part = [each for each in CONTESTANTS if not each.only_faults]
    with Server(settings={"max_connections": "400"}) as server, paths(server) as ports:
        entries = {
            each.name: {
                alias: entry(server, each, driver, PORT=str(port)) for alias, port in ports.items()
            }
            for each in taking_part
        }
        for block in range(size.blocks):
            tell(f"block {block + 1} of {size.blocks}")
            with contenders(taking_part, driver, entries, witness(server), reasons) as found:
                for each in found:
                    memory.setdefault(each.contestant.name, []).append(each.memory / 1024)
                _block(found, size, turns, reasons, tell)
        [(version,)] = server.execute("SHOW server_version")
    tell("imports")
    return {
        "postgresql": str(version).split()[0],
        "blocks": size.blocks,
        "rounds": {PATHS[alias][0]: number for alias, number in size.rounds.items()},
        "jobs": {
            path: {job: _summary(job, sides) for job, sides in jobs.items()}
            for path, jobs in turns.items()
        },
        "memory_mb": {name: _spread(values) for name, values in memory.items()},
        "import_ms": _imports(taking_part, driver, size.imports),
        "left_out": reasons,
    }


@contextmanager
def paths(server: Server) -> Iterator[dict[str, int]]:
    """The port of each path to a server, by alias."""
    with ExitStack() as stack:
        yield {
            alias: stack.enter_context(delayed(server.port, longer)) if longer else server.port
            for alias, (_, longer, _) in PATHS.items()
        }


def _block(
    found: list[Contender],
    size: Size,
    turns: Turns,
    reasons: dict[str, str],
    tell: Callable[[str], None],
) -> None:
    can = {each: set(each.order("jobs")) for each in found}
    for alias, (path, _, seconds) in PATHS.items():
        for job in JOBS:
            able = [each for each in found if job in can[each]]
            taken = _take_turns(able, alias, job, size.rounds[alias], seconds, reasons)
            for name, values in taken.items():
                turns.setdefault(path, {}).setdefault(job, {}).setdefault(name, []).append(values)
        tell(f"  {path}, load {os.getloadavg()[0]:.2f}")


def _take_turns(
    able: list[Contender],
    alias: str,
    job: str,
    rounds: int,
    seconds: float,
    reasons: dict[str, str],
) -> dict[str, list[float]]:
    """Medians of each contestant's turns, in us; one that cannot do the job is left out of it."""
    draw = random.Random()
    loops: dict[str, int] = {}
    for each in list(able):
        name = each.contestant.name
        try:
            once = each.order("turn", alias, job, 1)
        except Unavailable as error:
            able.remove(each)
            reasons.setdefault(f"{name}: {job}", str(error))
        else:
            loops[name] = int(max(2, min(40, seconds * 1e6 / once)))
    taken: dict[str, list[float]] = {each.contestant.name: [] for each in able}
    for _ in range(rounds):
        draw.shuffle(able)
        for each in able:
            name = each.contestant.name
            taken[name].append(each.order("turn", alias, job, loops[name]))
    return taken


def baseline(job: str, contestant: Contestant, there: Sequence[str]) -> str:
    """With whom a contestant's job is compared."""
    pooled, kept = _BASELINES.get(job, ("stock", "stock"))
    return pooled if contestant.pool and pooled in there else kept


def _summary(job: str, sides: dict[str, list[list[float]]]) -> dict[str, Any]:
    found = {}
    for each in CONTESTANTS:
        if each.name not in sides:
            continue
        blocks, compared = sides[each.name], baseline(job, each, list(sides))
        found[each.name] = {"us": _of_blocks(blocks), "beside": compared}
        if compared != each.name and compared in sides:
            pairs = zip(blocks, sides[compared], strict=True)
            ratios = [[a / b for a, b in zip(*both, strict=True)] for both in pairs]
            found[each.name]["ratio"] = _of_blocks(ratios)
    return found


def _of_blocks(blocks: list[list[float]]) -> dict[str, float]:
    """Median, 95 % interval, and the quartiles as the spread."""
    middle, low, high = interval(blocks)
    every = [value for block in blocks for value in block]
    return {"median": middle, "low": low, "high": high, **_quartiles(every), "turns": len(every)}


def _quartiles(values: list[float]) -> dict[str, float]:
    lower, _, upper = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"q1": lower, "q3": upper}


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _imports(taking_part: list[Contestant], driver: str, runs: int) -> dict[str, dict[str, float]]:
    """Milliseconds that importing a contestant takes beyond Django's engine, in turns."""
    took: dict[str, list[float]] = {}
    for number in range(runs + 1):
        for each in taking_part:
            names = [*each.apps, f"{engine_for(each, driver)}.base"] if each.django else []
            names = [name for name in names if not name.startswith(STOCK)]
            try:
                seconds = _import(
                    python_of(each, driver), names or (["sqlalchemy"], [])[each.django]
                )
            except Unavailable:
                continue
            if number:  # the first one has compiled what it imports
                took.setdefault(each.name, []).append(1000 * seconds)
    return {name: _of_blocks([values]) for name, values in took.items()}


def _imported(contestant: Contestant, driver: str) -> list[str]:
    if not contestant.django:
        return ["sqlalchemy"]
    engine = engine_for(contestant, driver)
    return [*contestant.apps, *([] if engine == STOCK else [f"{engine}.base"])]


def _import(python: str, names: list[str]) -> float:
    program = _IMPORT.format(before=f"{STOCK}.base", names=names)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as where a package is installed: compiled once
    command = [python, "-c", program]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unavailable(done.stderr.splitlines()[-1])
    return float(done.stdout)
