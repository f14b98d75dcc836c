"""What a run of somebody's tests came to, and two of them compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Ids of subtests and of parameters show the addresses of objects.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to; ``failed`` and ``skipped`` are ids of tests."""

    engine: str
    ran: int
    failed: frozenset[str]
    skipped: frozenset[str]

    @classmethod
    def of(cls, engine: str, ran: int, failed: Iterable[str], skipped: Iterable[str]) -> Outcome:
        """With the ids as they are in every run."""
        return cls(engine, ran, _ids(failed), _ids(skipped))

    def __str__(self) -> str:
        counts = f"{self.ran} ran, {len(self.skipped)} skipped, {len(self.failed)} failed"
        return f"{self.engine}: {counts}"


def compare(stock: Outcome, ours: Outcome, known: Mapping[str, str]) -> bool:
    """Print what differs; return whether nothing does that is not known.

    ``known``: parts of the ids of tests that differ, and why.
    """
    print(f"{stock}\n{ours}")
    for title, ids in (
        ("Fail on both", stock.failed & ours.failed),
        (f"Fail on {stock.engine} only", stock.failed - ours.failed),
        (f"Skipped on {ours.engine} only", ours.skipped - stock.skipped),
        (f"Fail on {ours.engine} only", ours.failed - stock.failed),
    ):
        print(f"{title}: {len(ids)}", *sorted(ids), sep="\n    ")
    worse = (ours.failed - stock.failed) | (ours.skipped - stock.skipped)
    for part, why in known.items():
        differ = {each for each in worse if part in each}
        worse -= differ
        print("".join(f"Known: {each}: {why}.\n" for each in sorted(differ)), end="")
    return not worse and ours.ran >= stock.ran


def _ids(tests: Iterable[str]) -> frozenset[str]:
    return frozenset(_ADDRESS.sub("", each) for each in tests)
