"""What was read in texts of SQL, kept once for all threads of the process. Pure.

Applications send the same texts again and again; reading one takes longer than sending it. Every
reader of texts keeps what it has found here. :data:`HARMLESS` and :data:`OPENINGS` are apart,
because the healthy path of a statement looks into them; they go by the same bounds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, MutableMapping, MutableSet
from typing import Any, Final, TypeVar

from .texts import emptied, without_strings

T = TypeVar("T")

#: Texts longer than this (characters) are read anew each time: they are seldom the same.
LONGEST: Final = 8192
#: Texts longer than this are not lexed unless something has failed: the healthy path of a long text
#: would take several times as long as its server.
LONGEST_READ: Final = 262_144
#: More texts than this are not kept; then all are forgotten.
MOST: Final = 4096

#: Texts known to leave nothing behind in a session. Shared by all threads of the process;
#: additions are atomic, and losing one costs a second look.
HARMLESS: set[str] = set()
#: Texts known to set something for their transaction (a ``local_settings.Local``), and to leave
#: nothing else in the session.
OPENINGS: Final[dict[str, Any]] = {}
# Of long ones what stands outside of their strings. A set of its own: in a short text an identifier
# may look like an emptied string.
_LONG: Final[set[str]] = set()
_MOST_LONG: Final = 128
_LONGEST_KEPT: Final = 65_536
#: First words of statements on data.
DATA_WORDS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "MERGE")
# Parts of what may leave something behind in its session.
_TRACES: Final = ("set_config", "advisory", "setseed", "pg_settings", 'u&"', ";")

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


def is_harmless(text: str) -> bool:
    """Whether a text is one statement on data that leaves session and transaction as they were.

    However it ends. Unlike :data:`HARMLESS`, in which there may be CALL, it knows long texts.
    """
    if "\\" in text:
        return False  # which may escape the end of a string
    if len(text) > LONGEST:
        outside = emptied(text)
        if len(outside) <= _LONGEST_KEPT and outside in _LONG:
            return True
    if not text[:9].upper().startswith(DATA_WORDS):
        return False
    return (text in HARMLESS and ";" not in text) or leaves_nothing(text)


def leaves_nothing(text: str, *, escapes: bool = False) -> bool:
    """Whether a statement on data certainly leaves its session as it was.

    Args:
        text: which begins with one of :data:`DATA_WORDS`.
        escapes: a backslash in it may escape the end of a string.
    """
    short = len(text) <= LONGEST
    outside = None if short or escapes else without_strings(text)
    lowered = (outside or text).lower()
    if any(trace in lowered for trace in _TRACES) or _is_temporary(lowered):
        return False
    if short:
        remember(text)
    elif outside and len(outside) <= _LONGEST_KEPT:
        make_room(_LONG, _MOST_LONG)
        _LONG.add(outside)
    return True


def _is_temporary(lowered: str) -> bool:
    """Whether there is a word for temporary tables; columns called template_id are common."""
    return "temp" in lowered and _temporary().search(lowered) is not None


@functools.cache
def _temporary() -> re.Pattern[str]:
    return re.compile(r"temp(?:orary|_\d+)?\b")


def remember(text: str) -> None:
    """Keep a text that has left nothing behind."""
    if len(text) <= LONGEST:
        make_room(HARMLESS)
        HARMLESS.add(text)
