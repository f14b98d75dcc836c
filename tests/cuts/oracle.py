"""What the guarantees allow for one unit of work whose conversation was cut."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import Error

from django_resilient_pg import errors
from tests.cuts.surgeon import Cut, Side
from tests.cuts.units import Kind, UnitOfWork

_OWN = tuple(one for one in vars(errors).values() if isinstance(one, type))


class Outcome(enum.Enum):
    """What the application saw."""

    UNCUT = "not reached"
    HEALED = "healed"
    RAISED = "raised, no effect"
    UNKNOWN = "raised, unknown"


@dataclass(slots=True)
class Marks:
    """After which messages a loss may cost something, as counted in a run without a cut."""

    of: Mapping[Side, int] | None = None

    def set(self, counted: Mapping[Side, int]) -> None:
        """The first one counts."""
        if self.of is None:
            self.of = dict(counted)

    def passed(self, cut: Cut) -> bool:
        """Whether a cut comes after them; without any, every cut does."""
        if self.of is None:
            return True
        last = self.of[cut.side]
        return cut.message > last or (cut.message == last and cut.where == "after")


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to judge: what the application saw, and what the database has.

    Attributes:
        cuts: how many were made.
    """

    answer: Any
    error: Exception | None
    parts: Sequence[int]
    hooks: int
    cuts: int
    notes: list[str] = field(default_factory=list)


def judge(
    unit: UnitOfWork, cuts: Sequence[Cut], marks: Marks, seen: Seen
) -> tuple[Outcome, list[str]]:
    """Return what came of it, and what no guarantee allows."""
    found = [f"part {part} is there {n} times" for part, n in Counter(seen.parts).items() if n > 1]
    if seen.error is None:
        return _judge_answered(unit, seen, found)
    found += _judge_error(unit, seen.error)
    if not _may_raise(unit, cuts, marks):
        found.append(f"raised, which this cut does not excuse: {_named(seen.error)}")
    if seen.hooks:
        found.append("hooks have run although an error was raised")
    unknown = isinstance(seen.error, errors.CommitOutcomeUnknown) or unit.kind is Kind.WRITE
    whole = sorted(set(seen.parts)) == sorted(unit.parts)
    if seen.parts and not unknown:
        found.append(f"raised {_named(seen.error)}, and yet parts {list(seen.parts)} are there")
    if seen.parts and not whole and not unit.each:
        found.append(f"only parts {list(seen.parts)} are there")
    return (Outcome.UNKNOWN if unknown else Outcome.RAISED), found


def _judge_answered(unit: UnitOfWork, seen: Seen, found: list[str]) -> tuple[Outcome, list[str]]:
    if seen.answer != unit.answer:
        found.append(f"answered {seen.answer!r} instead of {unit.answer!r}")
    if set(seen.parts) != set(unit.parts):
        found.append(f"acknowledged, but parts {list(seen.parts)} are there")
    if seen.hooks != unit.hooks:
        found.append(f"{seen.hooks} hooks have run instead of {unit.hooks}")
    return (Outcome.HEALED if seen.cuts else Outcome.UNCUT), found


def _may_raise(unit: UnitOfWork, cuts: Sequence[Cut], marks: Marks) -> bool:
    if unit.kind is Kind.HEALED:
        return False
    if unit.kind is Kind.TRANSACTION:
        return marks.passed(cuts[0]) or len(cuts) > 1
    return True


def _judge_error(unit: UnitOfWork, error: Exception) -> list[str]:
    if not isinstance(error, Error) and not unit.raw:
        return [f"raised what is no error of the database: {_named(error)}"]
    if not isinstance(error, _OWN) and not getattr(error, "__notes__", None):
        return [f"raised without a note: {_named(error)}"]
    return []


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
