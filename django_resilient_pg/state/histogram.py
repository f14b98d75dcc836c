"""How long something takes: a histogram of fixed size. Pure."""

from __future__ import annotations

import bisect
import itertools
import math
from typing import Final

from ..conf.records import Record

# Buckets per doubling: a percentile is off by at most 2 ** (1 / 8) - 1, which is 9 %.
_PER_DOUBLING: Final = 8
# From 1 us to 2 ** 31 us, which is 36 minutes.
_SHORTEST: Final = 1e-6
_BUCKETS: Final = 31 * _PER_DOUBLING


class Timings(Record):
    """How long something took.

    Attributes:
        count: how often it happened.
        p50: seconds that half of them took at most; ``None`` before the first.
        p99: seconds that 99 % of them took at most; likewise.
    """

    count: int
    p50: float | None
    p99: float | None


class Histogram:
    """Counts durations by their order of magnitude. Its owner locks it."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS

    def add(self, seconds: float) -> None:
        """One more of this duration."""
        doublings = math.log2(max(seconds, _SHORTEST) / _SHORTEST)
        self._counts[min(_BUCKETS - 1, math.ceil(doublings * _PER_DOUBLING))] += 1

    def timings(self) -> Timings:
        """What was added, in three numbers."""
        count = sum(self._counts)
        if not count:
            return Timings(0, None, None)
        return Timings(count, self._percentile(count * 0.50), self._percentile(count * 0.99))

    def _percentile(self, wanted: float) -> float:
        """The upper bound of the bucket that so many are in or below."""
        below = list(itertools.accumulate(self._counts))
        return _SHORTEST * math.exp2(bisect.bisect_left(below, wanted) / _PER_DOUBLING)
