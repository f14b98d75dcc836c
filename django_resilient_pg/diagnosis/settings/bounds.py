"""The values on the command line, checked before anything runs.

``call_command`` passes values that argparse has not seen: they are checked here too.
"""

from __future__ import annotations

import difflib
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection
from typing import TypeVar

N = TypeVar("N", int, float)

#: Seconds that anybody would wait for a database: a day.
DAY = 86_400.0


def seconds(least: float, most: float) -> Callable[[object], float]:
    """Return what argparse's ``type`` wants: it takes these seconds and no others."""

    return _within(float, "number of seconds", least, most, "{:g} s")


def whole(least: int, most: int) -> Callable[[object], int]:
    """As :func:`seconds`, of whole numbers."""

    return _within(int, "whole number", least, most, "{}")


def _within(
    kind: type[N], noun: str, least: float, most: float, written: str
) -> Callable[[object], N]:
    def parse(given: object) -> N:
        try:
            value = kind(str(given))
        except ValueError:
            raise ArgumentTypeError(f'invalid {noun}: "{given}".') from None
        if least <= value <= most:
            return value
        shown, lowest, highest = map(written.format, (value, least, most))
        raise ArgumentTypeError(f"{shown} must be between {lowest} and {highest}.")

    return parse


def one_of(known: Collection[str]) -> Callable[[object], str]:
    """As :func:`seconds`, of a few words."""

    def parse(given: object) -> str:
        if isinstance(given, str) and given in known:
            return given
        (near,) = difflib.get_close_matches(str(given), known, 1, cutoff=0) or [""]
        raise ArgumentTypeError(f'unknown value "{given}"; the closest valid value is "{near}".')

    return parse


def in_any_case(known: Collection[str]) -> Callable[[object], str]:
    """As :func:`one_of`, of words in lower case."""
    parse = one_of(known)
    return lambda given: parse(given.lower() if isinstance(given, str) else given)


def every(parse: Callable[[object], str]) -> Callable[[object], list[str]]:
    """As :func:`seconds`, of one value or several."""

    def parse_all(given: object) -> list[str]:
        values = given if isinstance(given, (list, tuple, set)) else [given]
        return [parse(value) for value in values]

    return parse_all
