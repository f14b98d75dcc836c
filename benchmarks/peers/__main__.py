"""This engine beside its peers: ``make bench`` or ``python -m benchmarks.peers``.

Writes what it finds to ``benchmarks/results``, and from all that is there the page
``docs/benchmarks.rst`` and its charts. Prints which of the bounds are met. With ``--check`` the
exit status is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import page, rounds, scenes
from benchmarks.peers.environments import driver_here
from benchmarks.peers.results import FOLDER, PARTS, QUICK_FOLDER, load_average, machine, save


def main() -> int:
    """Measure what is asked for."""
    given = _arguments()
    driver = driver_here()
    for part in given.only:
        _run(part, driver, given)
    missed = _told(driver, given.folder)
    if given.folder == FOLDER and not given.quick:
        page.write()
        print(f"{page.PAGE} written")
    return int(given.check and missed)


def _told(driver: str, folder: Path) -> bool:
    """Print what came of the bounds; whether one is missed."""
    try:
        found = list(page.kept(folder, driver))
    except FileNotFoundError as error:
        print(f"bounds: not known without {error.filename}")
        return True
    for each in found:
        print(f"{each.verdict:7}{each.what}: {each.found} (at most {each.limit})")
    missed = sum(not each.met for each in found)
    print(f"{len(found)} bounds, {missed} missed")
    return bool(missed)


def _run(part: str, driver: str, given: argparse.Namespace) -> None:
    where = machine(driver)
    before = load_average()
    print(f"{part}, {driver}: {where['cpu']}, load {before[0]:.2f}", flush=True)
    measure = {"healthy": _healthy, "faults": _faults}[part]
    found = {**where, "load_before": before, **measure(driver, given.quick)}
    found["load_after"] = load_average()
    path = save(part, driver, found, quick=given.quick, folder=given.folder)
    print(page.told(part, driver, given.folder))
    print(f"{path} written")


def _healthy(driver: str, quick: bool) -> dict[str, Any]:
    return rounds.measure(driver, rounds.QUICK if quick else rounds.FULL, _tell)


def _faults(driver: str, quick: bool) -> dict[str, Any]:
    return scenes.measure(driver, scenes.QUICK if quick else scenes.FULL, _tell)


def _tell(text: str) -> None:
    print(text, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few turns only, to see it work")
    parser.add_argument("--check", action="store_true", help="status 1 if a bound is missed")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--folder", type=Path, help="where results are written")
    given = parser.parse_args()
    given.folder = given.folder or (QUICK_FOLDER if given.quick else FOLDER)
    return given


if __name__ == "__main__":
    sys.exit(main())
