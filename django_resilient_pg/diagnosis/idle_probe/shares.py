"""How many sessions the idle probe may have at a time: a small pool is the application's. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from ...facts import Path
from ..survey.survey import Survey

#: Of a pool whose size is not known: as many are tried, and half of them kept.
TRIED: Final = 8


class Share(NamedTuple):
    """A part of a pool.

    Attributes:
        tried: sessions to open.
        kept: those of them to keep.
        why: half a sentence.
    """

    tried: int
    kept: int
    why: str


def half(sessions: int) -> int:
    """Half of a pool, but two if there are two: one for each series."""
    return max(min(2, sessions), sessions // 2)


def share_of(survey: Survey) -> Share | None:
    """Return what may be taken, ``None`` without a bound.

    Where a pooler shares sessions, idle ones have no server.
    """
    pooler, facts = survey.pooler, survey.facts
    if facts is None or facts.path is not Path.POOLER:
        return None
    if pooler is not None and pooler.mode in {"transaction", "statement"}:
        return None
    if pooler is None or pooler.pool_size is None:
        why = "the size of the pool is unknown, and the application needs it"
        return Share(TRIED, half(TRIED), why)
    size = pooler.pool_size
    why = f"the pooler has {size} servers for this database, and the application needs the others"
    return Share(half(size), half(size), why)
