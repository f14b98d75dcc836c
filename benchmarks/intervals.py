"""Medians with the interval in which they are to be expected, from turns taken in blocks."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple

_RESAMPLES = 2000


class Interval(NamedTuple):
    """A median and its 95 % interval."""

    median: float
    low: float
    high: float


def interval(blocks: Sequence[Sequence[float]]) -> Interval:
    """Bootstrap the median of all values, by blocks.

    The values of a block share a process: where its objects and its code happen to lie makes a
    difference of its own. So what is drawn anew are blocks, and values within each.
    """
    draw = random.Random(0)
    medians = []
    for _ in range(_RESAMPLES):
        chosen = draw.choices(blocks, k=len(blocks))
        medians.append(statistics.fmean(_median_of_some(block, draw) for block in chosen))
    medians.sort()
    middle = statistics.fmean(statistics.median(block) for block in blocks)
    cut = round(_RESAMPLES * 0.025)
    return Interval(middle, medians[cut], medians[-1 - cut])


def _median_of_some(block: Sequence[float], draw: random.Random) -> float:
    return statistics.median(draw.choices(block, k=len(block)))
