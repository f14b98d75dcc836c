"""Work under faults for some minutes, print a line a minute. See :mod:`tests.soak`.

The exit status is 1 if a guarantee did not hold, or if a process holds more and more.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections import Counter
from collections.abc import Sequence

from tests.engines import DRIVER
from tests.soak.campaign import Campaign, Round

MINUTE = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if something happened that no guarantee allows, or if something grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=4, help="of each process")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of the faults")
    given = parser.parse_args(arguments)
    print(f"{DRIVER}, seed {given.seed}, {given.minutes:g} minutes", flush=True)
    rounds: list[Round] = []
    with Campaign(seed=given.seed, threads=given.threads) as campaign:
        for one in campaign.rounds(given.minutes * MINUTE, MINUTE):
            rounds.append(one)
            _show(len(rounds), one)
        bad = [text for one in rounds for text in one.violations] + campaign.growth()
        faults = ", ".join(f"{name} {n}" for name, n in sorted(campaign.storm.done.items()))
    for text in bad:
        print(f"VIOLATION: {text}")
    print(f"faults: {faults}")
    print(f"{_summed(rounds)}")
    print(f"{len(rounds)} rounds, {len(bad)} violations")
    return 1 if bad or not rounds else 0


def _show(number: int, one: Round) -> None:
    holds = "; ".join(f"{name} {held}" for name, held in one.held.items())
    results = list(one.results.values())
    print(
        f"{number:3} min: {one.faults} faults, {_summed([one])} | {holds} |"
        f" {one.sessions} sessions",
        flush=True,
    )
    for text in one.violations:
        print(f"         VIOLATION: {text}", flush=True)
    if one.violations:
        errors = sum((Counter(result.errors) for result in results), Counter[str]())
        for text, count in (errors + Counter(one.logged)).most_common(20):
            print(f"         {count} x {text}", flush=True)


def _summed(rounds: Sequence[Round]) -> str:
    results = [result for one in rounds for result in one.results.values()]

    def total(name: str) -> int:
        return sum(getattr(result, name) for result in results)

    a_second = total("total_statements") / (sum(one.seconds for one in rounds) or 1.0)
    return (
        f"{total('total_statements')} statements ({a_second:.0f} a second);"
        f" raised: {total('failed_reads')} reads,"
        f" {total('failed_transactions')} transactions, {total('write_errors')} writes,"
        f" {sum(one.late for one in rounds)} of them past their deadline;"
        f" {total('landed')} raised but applied, {total('doubled')} doubled, {total('lost')} lost;"
        f" slowest {max((result.slowest for result in results), default=0.0):.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
