"""Run every case, and print for each unit what came of its cuts. See :mod:`tests.cuts`."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import django


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if something happened that no guarantee allows."""
    parser = argparse.ArgumentParser(prog="python -m tests.cuts", description=__doc__)
    parser.add_argument("--series", nargs="+", help="only these series")
    parser.add_argument("--units", nargs="+", help="only these units")
    parser.add_argument("--only", help="one case, by its name")
    parser.add_argument("--one-in", type=int, default=1, help="a random sample of the cases")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--shown", type=int, default=20, help="violations that are printed")
    given = parser.parse_args(arguments)
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"
    os.environ.update(
        DATABASE_ENGINE="django_resilient_pg", DATABASE_HOST="127.0.0.1", DATABASE_PORT="1"
    )
    django.setup()
    from tests.cuts.theatre import SERIES, Theatre
    from tests.cuts.units import UNITS

    began, cases, bad = time.monotonic(), 0, []
    wanted = given.only.split("/") if given.only else None
    for series in SERIES:
        if series.name not in (given.series or ([wanted[0]] if wanted else [series.name])):
            continue
        units = [UNITS[name] for name in given.units or ([wanted[1]] if wanted else UNITS)]
        with Theatre(series) as theatre:
            if wanted:
                [case] = [c for c in theatre.cases(units[0]) if c.name == given.only]
                results = [theatre.run(case)]
            else:
                sample = theatre.run_all(units, one_in=given.one_in, draw=random.Random(given.seed))
                results = _printed(series.name, sample)
        cases += len(results)
        bad += [result for result in results if result.violations]
    for result in bad[: given.shown]:
        print(f"{result.case.name}\n    {'; '.join(result.violations)}")
    print(f"{cases} cases in {time.monotonic() - began:.0f} s, {len(bad)} violations")
    return 1 if bad else 0


def _printed(series: str, results: Any) -> list[Any]:
    """Print a line for each unit, with how its cases ended."""
    from tests.cuts.oracle import Outcome

    found: list[Any] = []
    counts: dict[str, Counter[Any]] = {}
    print(f"{series:34}" + "".join(f"{one.value:>20}" for one in Outcome) + f"{'violations':>12}")
    for result in results:
        found.append(result)
        counts.setdefault(result.case.unit.name, Counter())[result.outcome] += 1
        if result.violations:
            counts[result.case.unit.name]["bad"] += 1
    for unit, by in counts.items():
        row = "".join(f"{by[one]:>20}" for one in Outcome)
        print(f"  {unit:32}{row}{by['bad']:>12}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
