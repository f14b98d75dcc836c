"""The process of one contestant: waits for orders and answers each.

Orders come as lines of JSON on stdin. Each is answered by one on stdout: ``{"value": ...}``, or
``{"error": ...}`` where the contestant cannot do it. The first order names the contestant and its
databases. Modules that gevent patches are used only after it has.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.contestants import BY_NAME, POOL_SIZE, PSYCOPG2, Contestant

if TYPE_CHECKING:
    from benchmarks.peers.crew import Crew
    from benchmarks.peers.sides import DjangoSide, Job, SqlAlchemySide

#: The alias of the server itself, with Django's engine: what the database has is counted there.
WITNESS = "witness"
_WARM = 60


class Process:
    """What the orders are carried out on."""

    def __init__(self) -> None:
        self.contestant = BY_NAME["stock"]
        self.side: DjangoSide | SqlAlchemySide
        self.crew: Crew | None = None
        self._jobs: dict[str, dict[str, Job]] = {}
        self._warmed: set[tuple[str, str]] = set()

    def set_up(self, name: str, driver: str, entries: dict[str, Any], witness: Any) -> int:
        """Set Django up with the contestant's databases, and create the tables.

        Returns:
            Kilobytes of memory after the first request.
        """
        self.contestant = BY_NAME[name]
        if self.contestant.gevent:
            _patch(driver)
        _configure(self.contestant, entries, witness)
        from django.core.management import call_command

        from benchmarks.peers.sides import DjangoSide, SqlAlchemySide

        call_command("migrate", database=WITNESS, verbosity=0)
        if self.contestant.django:
            self.side = DjangoSide(self.contestant)
        else:
            self.side = SqlAlchemySide(entries, driver, POOL_SIZE)
        self._job("default", "request")()
        return _resident()

    def jobs(self) -> list[str]:
        """Which jobs the contestant can do."""
        return list(self.side.jobs("default"))

    def turn(self, alias: str, job: str, loops: int) -> float:
        """Median microseconds of some operations in a row."""
        from statistics import median
        from time import perf_counter

        run = self._job(alias, job)
        self._warm(alias, job, run, loops)
        run()  # finds the caches full of another process
        took = []
        for _ in range(loops):
            began = perf_counter()
            run()
            took.append(perf_counter() - began)
        return median(took) * 1e6

    def load(self, seconds: float, threads: int) -> dict[str, Any]:
        """Work with the shop; what came of it, and when operations succeeded."""
        from benchmarks.peers.sides import WatchedShop
        from testproject import load
        from testproject.witness import independent

        shop = WatchedShop(self.side.shop(), retries=self.contestant.retries)
        with independent(WITNESS) as ask:
            result = load.run(
                threads=threads,
                seconds=seconds,
                shop=shop,
                ask=ask,
                between_requests=self.side.between_requests,
            )
        return {"succeeded": sorted(shop.succeeded), **self._told(result.as_json())}

    def gather(self, threads: int) -> None:
        """Have so many threads, each with a connection, all at once."""
        from benchmarks.peers.crew import Crew

        self.crew = Crew(self.side, threads, retries=self.contestant.retries)
        self.crew.connect()

    def operate(self, kind: str, *, request: bool) -> float | None:
        """One operation by each thread; seconds until the first of them has succeeded."""
        assert self.crew is not None
        return self.crew.operate(kind, request=request)

    def connect(self) -> None:
        """Every thread borrows a connection, all at once."""
        assert self.crew is not None
        self.crew.connect()

    def judge(self) -> dict[str, Any]:
        """What came of the operations so far."""
        assert self.crew is not None
        return self._told(self.crew.judge(WITNESS))

    def _told(self, result: dict[str, Any]) -> dict[str, Any]:
        side = self.side
        between = {"slowest_between": side.slowest_between, "failed_requests": side.failed_requests}
        return {"result": result, **between}

    def _job(self, alias: str, job: str) -> Job:
        if alias not in self._jobs:
            self._jobs[alias] = self.side.jobs(alias)
        return self._jobs[alias][job]

    def _warm(self, alias: str, job: str, run: Job, loops: int) -> None:
        """Run it until the interpreter has specialised it, before it is first measured."""
        if (alias, job) in self._warmed:
            return
        self._warmed.add((alias, job))
        for _ in range(max(loops, _WARM if alias == "default" else 2)):
            run()
        gc.collect()
        gc.freeze()
        gc.disable()


def _patch(driver: str) -> None:
    from gevent import monkey

    monkey.patch_all()
    if driver == PSYCOPG2:
        from psycogreen.gevent import patch_psycopg

        patch_psycopg()


def _configure(contestant: Contestant, entries: dict[str, Any], witness: Any) -> None:
    import logging

    import django
    from django.conf import settings

    logging.getLogger().addHandler(logging.NullHandler())  # what fails is counted, not printed
    settings.configure(
        DATABASES={**entries, WITNESS: witness},
        INSTALLED_APPS=["django.contrib.contenttypes", "testproject.shop", *contestant.apps],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        SECRET_KEY="benchmark",
        LOGGING_CONFIG=None,
    )
    django.setup()


def _resident() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1])


def answers(process: Process, lines: Iterator[str]) -> Iterator[str]:
    """Carry out each order."""
    for line in lines:
        name, *arguments, named = json.loads(line)
        do: Callable[..., Any] = getattr(process, name)
        try:
            yield json.dumps({"value": do(*arguments, **named)})
        except Exception as error:  # of whatever kind: it is what the contestant cannot do
            yield json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0]})


if __name__ == "__main__":
    for answer in answers(Process(), iter(sys.stdin.readline, "")):
        print(answer, flush=True)
