"""Change one thing at a time and see whether a unit test notices. See :mod:`scripts.mutants`."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scripts.mutants import runner
from scripts.mutants.changes import Mutant, mutants
from scripts.mutants.targets import ROOT, TARGETS, path_of

EXPLAINED = Path(__file__).with_name("explained.toml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if a change survives that nobody has explained, or is explained and does not."""
    parser = argparse.ArgumentParser(prog="python -m scripts.mutants", description=__doc__)
    parser.add_argument("--modules", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--only", help="those whose names have this in them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    given = parser.parse_args(arguments)
    os.chdir(ROOT)
    began = time.monotonic()
    made = [
        each for module in given.modules for each in mutants(module, path_of(module).read_text())
    ]
    chosen = [each for each in made if not given.only or given.only in each.name]
    if not _all_pass(given.modules):
        return 1
    survivors = _survivors(chosen, given.jobs)
    if not _all_pass(given.modules):  # or not any more
        return 1
    explained = tomllib.loads(EXPLAINED.read_text())
    names = {each.name for each in survivors}
    open_ones = [each for each in survivors if each.name not in explained]
    wrong = {each.name for each in chosen} & explained.keys() - names
    if not given.only and given.modules == list(TARGETS):
        wrong |= explained.keys() - names
    _tell(chosen, survivors, open_ones, sorted(wrong))
    print(f"{time.monotonic() - began:.0f} s, {_used():.0f} s of processor time")
    return 1 if open_ones or wrong or not chosen else 0


def _all_pass(modules: Sequence[str]) -> bool:
    """Whether the tests pass without any change: otherwise every change would look noticed."""
    failing = [module for module in modules if not runner.passes_unchanged(module)]
    for module in failing:
        print(f"the tests of {module} fail without any change")
    return not failing


def _survivors(chosen: Sequence[Mutant], jobs: int) -> list[Mutant]:
    found = []
    for number, (mutant, survived) in enumerate(runner.run(chosen, jobs), start=1):
        if survived:
            found.append(mutant)
            print(f"survived: {mutant.name}", file=sys.stderr, flush=True)
        if number % 50 == 0:
            print(f"{number} of {len(chosen)}, {len(found)} survived", file=sys.stderr, flush=True)
    return found


def _tell(
    chosen: Sequence[Mutant],
    survivors: Sequence[Mutant],
    open_ones: Sequence[Mutant],
    wrong: Sequence[str],
) -> None:
    """Print what came of each module, and what has to be done."""
    all_of, left = (Counter(one.module for one in group) for group in (chosen, survivors))
    for module, number in all_of.items():
        print(
            f"{module:20}{number:5} changes,{number - left[module]:5} noticed,"
            f"{left[module]:4} survived"
        )
    for mutant in sorted(open_ones, key=lambda one: one.name):
        print(f"SURVIVED: {mutant.name}")
    for name in wrong:
        print(f"EXPLAINED, but noticed or not there: {name}")
    print(
        f"{len(chosen)} changes, {len(chosen) - len(survivors)} noticed,"
        f" {len(survivors) - len(open_ones)} survived and explained, {len(open_ones)} survived"
    )


def _used() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    sys.exit(main())
