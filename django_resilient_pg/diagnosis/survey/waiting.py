"""Wait until the database accepts connections; a permanent failure ends the wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

#: Seconds that one attempt may take in each of its stages.
LOOK: Final = 5.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
# What is left at the very end has to be enough for a last attempt.
_SHORTEST_LOOK: Final = 1.0


class Looked(Protocol):
    """The result of an attempt: :class:`.stages.Walk`."""

    @property
    def exit_status(self) -> int:
        """0: the database accepts connections; 1: not now; 3: waiting will not cure it."""


L = TypeVar("L", bound=Looked)


@dataclass(frozen=True, slots=True)
class Waited(Generic[L]):
    """How the wait ended.

    Attributes:
        last: the last attempt, which decides the exit status.
        seconds: waited, all attempts included.
        looks: the number of attempts, at least one.
    """

    last: L
    seconds: float
    looks: int


def wait_for(
    look: Callable[[float], L],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    report: Callable[[L, float], object] = lambda last, left: None,
) -> Waited[L]:
    """Try until the database accepts connections.

    Ends at once if it does, or if the configuration has to be changed first, and at the latest
    after ``seconds`` and the time of one attempt.

    Args:
        look: makes one attempt; gets the seconds that each stage may take, 5 at most.
        seconds: to wait; 0 for a single attempt.
        clock, sleep: for tests.
        report: called after each failed attempt, with it and the seconds that are left.

    Raises:
        ValueError: ``seconds`` is negative or not a number.
    """
    if not seconds >= 0:
        raise ValueError(f"invalid time to wait: {seconds:g} s; give 0 or more.")
    began, pause, looks = clock(), _FIRST_PAUSE, 0
    while True:
        left = began + seconds - clock()
        last = look(max(_SHORTEST_LOOK, min(LOOK, left)))
        looks += 1
        left = began + seconds - clock()
        if last.exit_status != 1 or left <= 0:
            return Waited(last, clock() - began, looks)
        report(last, left)
        sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
