"""Wait until the database accepts connections; a permanent failure ends the wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from .survey import Survey

#: Seconds that one attempt may take in each of its stages.
LONGEST: Final = 5.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
# What is left at the very end has to be enough for a last attempt.
_SHORTEST: Final = 1.0


def wait_for(
    attempt: Callable[[float], Survey],
    seconds: float,
    report: Callable[[Survey, float], object] = lambda last, left: None,
) -> tuple[Survey, float]:
    """Try until the database accepts connections.

    Ends at once if it does, or if the configuration has to be changed first, and at the latest
    after ``seconds`` and the time of one attempt.

    Args:
        attempt: makes one; gets the seconds that each stage may take, 5 at most.
        seconds: to wait; 0 for a single attempt.
        report: called after each failed attempt, with it and the seconds that are left.

    Returns:
        The last attempt, and the seconds waited, all attempts included.
    """
    began, pause = time.monotonic(), _FIRST_PAUSE
    while True:
        left = began + seconds - time.monotonic()
        last = attempt(max(_SHORTEST, min(LONGEST, left)))
        left = began + seconds - time.monotonic()
        if last.walk.exit_status != 1 or left <= 0:
            return last, time.monotonic() - began
        report(last, left)
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
