"""A process with one or more engines in it that does what ``compare`` has it do.

Orders come as lines of JSON on stdin, and each is answered by one on stdout. The first says which
databases there are.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from time import perf_counter_ns, sleep, thread_time_ns
from typing import Any

from benchmarks.healthy import pin
from benchmarks.jobs import JOBS

_AT_ONCE = 4
_WARM = 200
_aliases: list[str] = []
_warmed: set[str] = set()
_draw = random.Random()


def set_up(databases: dict[str, Any], folder: str) -> dict[str, str]:
    """Import the engines and connect.

    Args:
        databases: those that take turns, and those that jobs of theirs use.
        folder: where the engines are to be imported from.
    """
    pin()
    _aliases.extend(alias for alias in databases if " " not in alias)
    sys.path.insert(0, folder)
    import django
    from django.conf import settings

    first = next(iter(databases))
    settings.configure(
        DATABASES={**databases, "default": databases[first]},
        INSTALLED_APPS=["django.contrib.contenttypes"],
        USE_TZ=True,
        SECRET_KEY="benchmark",
    )
    django.setup()
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", database=first, verbosity=0)
    server = connections[first].connection.info.server_version
    return {
        "Django": django.get_version(),
        "driver": _driver(),
        "PostgreSQL": f"{server // 10000}.{server % 10000}",
    }


def _warm(job: str) -> None:
    """Run an operation until the interpreter has specialised it, before it is first measured."""
    if job in _warmed:
        return
    from django.db import connections

    _warmed.add(job)
    for alias in _aliases:
        for _ in range(_WARM // JOBS[job].weight):
            JOBS[job].run(connections[alias])
    gc.collect()
    gc.freeze()
    gc.disable()


def _driver() -> str:
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    if is_psycopg3:
        import psycopg

        of_libpq = psycopg.pq.version()
        version, kind = psycopg.__version__, psycopg.pq.__impl__
        return f"psycopg {version} ({kind}), libpq {of_libpq // 10000}"
    import psycopg2

    version = vars(psycopg2)["__version__"].split()[0]  # the stubs do not know it
    of_libpq = psycopg2.extensions.libpq_version()
    return f"psycopg2 {version}, libpq {of_libpq // 10000}"


def take_turns(job: str, loops: int) -> dict[str, tuple[float, float]]:
    """Run one operation on the engines here, by fives, in an order that is another one each time.

    The first of five is not timed: it finds the caches full of another engine, and so long after
    the last that the engine looks at its connection, as no statement of a busy request does.

    Returns:
        Per engine the lower quartiles, in us, by the clock and by CPU time of this process (with
        what it does in the kernel). What a neighbour on the machine does only ever adds to a time:
        the quicker ones are those it disturbed least.
    """
    from django.db import connections

    _warm(job)
    run, _, pause, weight, _ = JOBS[job]
    engines = [connections[alias] for alias in _aliases]
    took: dict[str, tuple[list[int], list[int]]] = {alias: ([], []) for alias in _aliases}
    for _ in range(max(1, loops // _AT_ONCE // weight)):
        _draw.shuffle(engines)
        for connection in engines:
            run(connection)
            wall, cpu = took[connection.alias]
            for _ in range(_AT_ONCE):
                if pause:
                    sleep(pause)
                began_cpu, began = thread_time_ns(), perf_counter_ns()
                run(connection)
                ended, ended_cpu = perf_counter_ns(), thread_time_ns()
                wall.append(ended - began)
                cpu.append(ended_cpu - began_cpu)
    return {
        alias: (_lower_quartile(wall) / 1000, _lower_quartile(cpu) / 1000)
        for alias, (wall, cpu) in took.items()
    }


def _lower_quartile(values: list[int]) -> float:
    return statistics.quantiles(values, n=4)[0]


def freeze_clocks() -> None:
    """Have every engine take the way that it takes in quick succession, however slow it gets."""
    from django.db import connections

    from benchmarks import counting

    for alias in _aliases:
        package = connections[alias].settings_dict["ENGINE"]
        if not package.startswith("django."):
            counting.freeze_clock(package)


def repeat(alias: str, job: str, loops: int) -> None:
    """Run one operation on one engine."""
    from django.db import connections

    _warm(job)
    run, connection = JOBS[job].run, connections[alias]
    for _ in range(loops):
        run(connection)


def count(alias: str, job: str, folder: str) -> dict[str, int]:
    """Count the bytecode of one operation (see ``counting``)."""
    from django.db import connections

    from benchmarks import counting

    repeat(alias, job, 1)
    return counting.count(JOBS[job].run, connections[alias], folder)


_ORDERS: dict[str, Callable[..., Any]] = {
    "set_up": set_up,
    "turns": take_turns,
    "count": count,
    "freeze_clocks": freeze_clocks,
    "repeat": repeat,
}


def answers(lines: Iterator[str]) -> Iterator[str]:
    """Carry out each order."""
    for line in lines:
        name, *arguments = json.loads(line)
        yield json.dumps(_ORDERS[name](*arguments))


if __name__ == "__main__":
    for answer in answers(iter(sys.stdin.readline, "")):
        print(answer, flush=True)
