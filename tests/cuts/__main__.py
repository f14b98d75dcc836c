"""Run every case, and print for each unit what came of its cuts. See :mod:`tests.cuts`."""

from __future__ import annotations

import argparse
import difflib
import os
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import django

if TYPE_CHECKING:
    from tests.cuts.crew import Task
    from tests.cuts.theatre import Result


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if something happened that no guarantee allows, or if nothing happened."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"
    os.environ.update(
        DATABASE_ENGINE="django_resilient_pg", DATABASE_HOST="127.0.0.1", DATABASE_PORT="1"
    )
    django.setup()
    given = _parser().parse_args(arguments)
    began = time.monotonic()
    results = _repeated(given.only) if given.only else _printed(_tasks(given), given.jobs)
    if given.list or given.only:
        for result in results:
            print(f"{result.case.name}: {result.outcome.value}")
    return _told(results, time.monotonic() - began, given.shown)


def _parser() -> argparse.ArgumentParser:
    from tests.cuts.theatre import SERIES
    from tests.cuts.units import UNITS

    parser = argparse.ArgumentParser(prog="python -m tests.cuts", description=__doc__)
    parser.add_argument(
        "--series", nargs="+", choices=[one.name for one in SERIES], help="only these series"
    )
    parser.add_argument(
        "--units", nargs="+", choices=list(UNITS), metavar="UNIT", help="only these units"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these cases, by their names")
    parser.add_argument("--one-in", type=int, default=1, help="a random sample of the cases")
    parser.add_argument("--seed", default="", help="of the sample")
    parser.add_argument(
        "--jobs", type=int, default=2 * (os.cpu_count() or 1), help="processes at a time"
    )
    parser.add_argument("--list", action="store_true", help="print each case and its outcome")
    parser.add_argument("--shown", type=int, default=20, help="violations that are printed")
    return parser


def _tasks(given: argparse.Namespace) -> list[Task]:
    from tests.cuts.crew import Task
    from tests.cuts.theatre import SERIES
    from tests.cuts.units import UNITS

    return [
        Task(series, unit, given.one_in, given.seed)
        for series in given.series or [one.name for one in SERIES]
        for unit in given.units or UNITS
    ]


def _printed(tasks: Sequence[Task], jobs: int) -> list[Result]:
    """Run the tasks and print a line for each."""
    from tests.cuts import crew, matrix

    print(matrix.LEGEND)
    found: list[Result] = []
    series = ""
    for task, results in crew.run(tasks, jobs):
        if task.series != series:
            series = task.series
            print(matrix.head(series))
        print(matrix.row(task.unit, results), flush=True)
        found += results
    return found


def _repeated(names: Sequence[str]) -> list[Result]:
    from tests.cuts.theatre import SERIES, Theatre
    from tests.cuts.units import UNITS

    known = {one.name: one for one in SERIES}
    found = []
    for name in names:
        series, unit, *_ = [*name.split("/"), ""]
        if series not in known or unit not in UNITS:
            raise SystemExit(_unknown(name, [f"{one}/{unit}" for one in known for unit in UNITS]))
        with Theatre(known[series]) as theatre:
            cases = {case.name: case for case in theatre.cases(UNITS[unit])}
            if name not in cases:
                raise SystemExit(_unknown(name, cases))
            found.append(theatre.run(cases[name]))
    return found


def _unknown(name: str, valid: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.0)
    return f'There is no case "{name}"; the nearest is "{nearest[0]}".'


def _told(results: Sequence[Result], seconds: float, shown: int) -> int:
    """Print what it came to, and return the exit status."""
    from tests.cuts import matrix

    bad = [result for result in results if result.violations]
    for result in bad[:shown]:
        print(f"{result.case.name}\n    {'; '.join(result.violations)}")
    print(f"\n{matrix.totals(results)}")
    print(
        f"{len(results)} cases in {seconds:.0f} s ({_used():.0f} s of processor time),"
        f" {len(bad)} violations"
    )
    return 1 if bad or not results else 0


def _used() -> float:
    """Seconds of processor time of this process, those it has started, and their servers."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    sys.exit(main())
