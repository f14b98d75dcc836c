"""Cases in several processes at once, each with a server of its own."""

from __future__ import annotations

import atexit
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import django

from tests.cuts.theatre import SERIES, Result, Theatre
from tests.cuts.units import UNITS


@dataclass(frozen=True, slots=True)
class Task:
    """The cases of one unit in one series, or a sample of them."""

    series: str
    unit: str
    one_in: int = 1
    seed: str = ""


class _Stage:
    """The theatre of this process: it stays open while the series is the same."""

    def __init__(self) -> None:
        self._theatre: Theatre | None = None

    def of(self, series: str) -> Theatre:
        """Return the theatre for this series."""
        if self._theatre is None:
            atexit.register(self.close)
        if self._theatre is None or self._theatre.series.name != series:
            self.close()
            [wanted] = [one for one in SERIES if one.name == series]
            self._theatre = Theatre(wanted)
            self._theatre.__enter__()
        return self._theatre

    def close(self) -> None:
        """End the server, if there is one."""
        theatre, self._theatre = self._theatre, None
        if theatre is not None:
            theatre.__exit__()


_STAGE = _Stage()


def run(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, list[Result]]]:
    """Run the tasks in so many processes; results come in the order of the tasks.

    Raises:
        BrokenProcessPool: one of the processes has ended early.
    """
    # Not forked: neither connections nor the state of the engine are to be inherited.
    with ProcessPoolExecutor(jobs, get_context("spawn"), django.setup) as pool:
        yield from zip(tasks, pool.map(_perform, tasks), strict=True)


def _perform(task: Task) -> list[Result]:
    draw = random.Random(f"{task.seed} {task.series} {task.unit}")
    theatre = _STAGE.of(task.series)
    return list(theatre.run_all([UNITS[task.unit]], one_in=task.one_in, draw=draw))
