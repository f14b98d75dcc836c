"""The parameters that libpq takes as whole numbers, and what to say of those that are none.

libpq parses keepalives only for TCP, and what goes with them only while they are on
(``fe-connect.c``: ``useKeepalives``, ``pqParseIntParam``). psycopg 3 reads connect_timeout itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_TAKEN: Final = {
    "connect_timeout": "whole seconds, for example 5",
    "keepalives": "1 (on) or 0 (off)",
    "keepalives_idle": "whole seconds, for example 20",
    "keepalives_interval": "whole seconds, for example 5",
    "keepalives_count": "a whole number, for example 3",
    "tcp_user_timeout": "whole milliseconds, for example 30000",
}
NAMES: Final = tuple(_TAKEN)
# As C's strtol, with white space as C's isspace. Python makes no number of endless digits.
_WHOLE: Final = re.compile(r"\s*[+-]?[0-9]{1,1000}\s*", re.ASCII)
_LARGEST: Final = 2**31 - 1


class Value(NamedTuple):
    """A value as it may be shown, and where it comes from (" (from the ...)" or "")."""

    text: str
    place: str


def whole(text: str) -> int | None:
    """The number that libpq makes of a text; ``None``: it refuses it."""
    number = int(text) if _WHOLE.fullmatch(text) else None
    return number if number is not None and -_LARGEST - 1 <= number <= _LARGEST else None


def timeout(text: str, *, psycopg3: bool) -> float | None:
    """The number that the driver makes of ``connect_timeout``; ``None``: it refuses it."""
    if not psycopg3:
        return whole(text)
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def wrong(
    given: dict[str, Value], *, unix: bool, psycopg3: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield the name of each value that libpq refuses, with a sentence.

    Args:
        given: what is set, by name.
        unix: no host is reached over TCP.
        psycopg3: whether that is the driver.
    """
    for name in _read(given, unix=unix):
        if name not in given:
            continue
        text, place = given[name]
        own = psycopg3 and name == "connect_timeout"
        if (timeout(text, psycopg3=True) if own else whole(text)) is None:
            most = f", {_LARGEST} at most" if _WHOLE.fullmatch(text) else ""
            yield name, f'{name} is "{text}"{place}: libpq takes {_TAKEN[name]}{most}.'


def _read(given: dict[str, Value], *, unix: bool) -> Iterable[str]:
    """The names whose values libpq looks at."""
    if unix:
        return NAMES[:1]
    off = "keepalives" in given and whole(given["keepalives"].text) == 0
    return NAMES[:2] if off else NAMES
