"""Numbers of seconds on the command line, checked before anything runs."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

#: Seconds that anybody would wait for a database: a day.
DAY = 86_400.0


def seconds(least: float, most: float) -> Callable[[object], float]:
    """Return what argparse's ``type`` wants: it takes these seconds and no others."""

    def parse(given: object) -> float:
        try:
            value = float(str(given))
        except ValueError:
            raise ArgumentTypeError(f'"{given}" is no number of seconds.') from None
        if least <= value <= most:
            return value
        nearest = most if value > most else least
        raise ArgumentTypeError(f"{value:g} s is out of bounds, the nearest is {nearest:g} s.")

    return parse
