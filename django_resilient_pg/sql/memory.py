"""What was read in texts of SQL, kept once for all threads of the process. Pure.

Applications send the same texts again and again; reading one takes longer than sending it. Every
reader of texts keeps what it has found here. ``session.HARMLESS`` alone is a set of its own,
because the healthy path of a statement looks into it; it goes by the same bounds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping, MutableSet
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Texts longer than this (characters) are read anew each time: they are seldom the same.
LONGEST: Final = 8192
#: Texts longer than this are not lexed unless something has failed: the healthy path of a long text
#: would take several times as long as its server.
LONGEST_READ: Final = 262_144
#: More texts than this are not kept; then all are forgotten.
MOST: Final = 4096

_KEPT: Final[dict[tuple[object, ...], Any]] = {}


def remembered(read: Callable[..., T]) -> Callable[..., T]:
    """Have a reader of texts keep what it finds. Its further arguments are part of the question.

    Additions are atomic; losing one costs another reading. What ``read`` returns is shared.
    """

    @functools.wraps(read)
    def reading(text: str, **how: object) -> T:
        key = (read, text, *how.values())
        try:
            found: T = _KEPT[key]
        except KeyError:
            found = read(text, **how)
            if len(text) <= LONGEST:
                make_room(_KEPT)
                _KEPT[key] = found
        return found

    return reading


def forget() -> None:
    """Forget what was read."""
    _KEPT.clear()


def make_room(kept: MutableMapping[Any, Any] | MutableSet[str], most: int = 0) -> None:
    """Forget everything where there would be too much: more than ``most``, or ``MOST``."""
    if len(kept) >= (most or MOST):
        kept.clear()
