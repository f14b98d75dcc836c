"""What the page shows: requests in bins of time, counters, the event log, and what was broken."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from testproject.lab.journal import Journal
from testproject.lab.sides import SIDES

BIN: Final = 0.5  # seconds
SLOW: Final = 0.5  # seconds of a request from which it counts as slow
KEPT: Final = 150  # bins
COUNTERS: Final = ("answered", "slow", "failed", "doubled", "lost", "healed")
KINDS: Final = ("answered", "slow", "failed")


@dataclass(slots=True)
class Mark:
    """A fault in the charts. ``before``: the counters of both sides when it began."""

    key: int
    fault: str
    began: float
    before: dict[str, dict[str, int]]
    ended: float | None = None


class Measured:
    """What one application has met."""

    def __init__(self) -> None:
        self.bins: dict[int, list[int]] = {}
        self.counters = Counter(dict.fromkeys(COUNTERS, 0))
        self.waiting = 0

    def note(self, at: float, kind: str) -> None:
        """Count one request."""
        self.counters[kind] += 1
        counts = self.bins.setdefault(int(at / BIN), [0] * len(KINDS))
        counts[KINDS.index(kind)] += 1
        while len(self.bins) > KEPT:
            del self.bins[min(self.bins)]

    def since(self, first: int) -> dict[int, list[int]]:
        """The bins from this one on."""
        return {number: counts for number, counts in self.bins.items() if number >= first}

    def state(self) -> dict[str, Any]:
        """Counters, and how many requests wait."""
        return {"counters": dict(self.counters), "waiting": self.waiting}


@dataclass(frozen=True, slots=True)
class Place:
    """How far somebody has read."""

    number: int = 0
    change: int = 0


class Feed:
    """Collects from all threads, and tells each reader what is new to it."""

    def __init__(self) -> None:
        self.journal = Journal()
        self._lock = threading.Lock()
        self._sides = {side.name: Measured() for side in SIDES}
        self._marks: list[Mark] = []
        self._status: dict[str, Any] = {"fault": None, "state": "", "until": None, "standby": True}

    # Writing

    def take(self, side: str, report: Mapping[str, Any]) -> None:
        """Take the report of an application."""
        with self._lock:
            measured = self._sides[side]
            for at, seconds, answered, _ in report["done"]:
                measured.note(at, _kind(seconds, answered))
            measured.counters["healed"] += report["healed"]
            measured.waiting = report["waiting"]
            for at, level, text in report["log"]:
                self.journal.write(at, side, level, text)

    def account(self, side: str, *, doubled: int, lost: int) -> None:
        """Take what the database holds too often, or not any more."""
        with self._lock:
            self._sides[side].counters.update(
                {
                    "doubled": doubled - self._sides[side].counters["doubled"],
                    "lost": lost - self._sides[side].counters["lost"],
                }
            )

    def write(self, level: str, text: str) -> None:
        """Add a line of the lab's own to the log."""
        with self._lock:
            self.journal.write(time.time(), "lab", level, text)

    def begin(self, fault: str, text: str, seconds: float) -> None:
        """Mark the beginning of a fault."""
        with self._lock:
            self.journal.begin_chapter()
            now = time.time()
            self.journal.write(now, "lab", "INFO", text)
            before = {name: dict(side.counters) for name, side in self._sides.items()}
            self._marks.append(Mark(len(self._marks) + 1, fault, now, before))
            self._status.update(fault=fault, state="under way", until=now + seconds)

    def end(self, text: str) -> None:
        """Mark its end."""
        with self._lock:
            now = time.time()
            self._marks[-1].ended = now
            self._status.update(state="clearing up", until=None)
            self.journal.write(now, "lab", "INFO", text)

    def ready(self, *, standby: bool) -> None:
        """Another fault may begin."""
        with self._lock:
            self._status.update(fault=None, state="", until=None, standby=standby)

    # Reading

    def news(self, place: Place) -> tuple[dict[str, Any], Place]:
        """What is new since ``place``, and the place to read on from."""
        with self._lock:
            now = time.time()
            told = {
                "now": now,
                "status": dict(self._status),
                "sides": {
                    name: {**side.state(), "bins": side.since(place.number)}
                    for name, side in self._sides.items()
                },
                "marks": [asdict(mark) for mark in self._marks[-20:]],
                "log": self.journal.since(place.change),
            }
            # A report comes up to a tick late, so the last bins are told once more.
            return told, Place(int(now / BIN) - 3, self.journal.changes)


def _kind(seconds: float, answered: bool) -> str:
    if not answered:
        return "failed"
    return "slow" if seconds >= SLOW else "answered"
