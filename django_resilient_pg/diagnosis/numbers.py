"""The parameters that libpq takes as whole numbers, and what to say of those that are none.

libpq parses keepalives only for TCP, and what goes with them only while they are on
(``fe-connect.c``: ``useKeepalives``, ``pqParseIntParam``).
"""

from __future__ import annotations

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
_WHOLE: Final = re.compile(r"\s*[+-]?[0-9]+\s*")


class Value(NamedTuple):
    """A value as it may be shown, and where it comes from (" (from the ...)" or "")."""

    text: str
    place: str


def whole(text: str) -> int | None:
    """The number that libpq makes of a text; ``None``: it refuses it."""
    return int(text) if _WHOLE.fullmatch(text) else None


def wrong(given: dict[str, Value], *, unix: bool) -> Iterator[tuple[str, str]]:
    """Yield the name of each value that libpq refuses, with a sentence.

    Args:
        given: what is set, by name.
        unix: no host is reached over TCP.
    """
    for name in _read(given, unix=unix):
        if name in given and whole(given[name].text) is None:
            text, place = given[name]
            yield name, f'{name} is "{text}"{place}: libpq takes {_TAKEN[name]}.'


def _read(given: dict[str, Value], *, unix: bool) -> Iterable[str]:
    """The names whose values libpq looks at."""
    if unix:
        return NAMES[:1]
    off = "keepalives" in given and whole(given["keepalives"].text) == 0
    return NAMES[:2] if off else NAMES
