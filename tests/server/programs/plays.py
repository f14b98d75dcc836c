"""Several programs at once, as plain data: to be drawn, printed, shortened and run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, cycle
from typing import Any, Final, TypeVar

from hypothesis import strategies

from .generator import Generator
from .language import Block, Elsewhere, Program, Run, Step, lines
from .ledger import Violation
from .runner import Report
from .simpler import simpler, undisturbed
from .texts import Set, Text

T = TypeVar("T")
#: Programs of a play, and turns that it may begin in any order.
MOST: Final = 3
_TURNS: Final = 24


@dataclass(frozen=True, slots=True)
class Fault:
    """Something happens to all sessions, before this turn of all programs together."""

    turn: int
    name: str

    def __str__(self) -> str:
        return f"before turn {self.turn}: {self.name}"


@dataclass(frozen=True, slots=True)
class Play:
    """Programs that run at once.

    Attributes:
        order: who is next; after that each in turn. Of programs that run ``at_once`` nobody is.
        asks: the engine asks what became of a lost COMMIT.
        calm: no session dies.
    """

    programs: tuple[Program, ...]
    order: tuple[int, ...] = ()
    faults: tuple[Fault, ...] = ()
    at_once: bool = False
    asks: bool = False
    calm: bool = False

    @property
    def turns(self) -> Iterator[int]:
        """Who is next, without end."""
        number = len(self.programs)
        return chain((one % number for one in self.order), cycle(range(number)))

    @property
    def undisturbed(self) -> Play:
        """The same, in which no session dies."""
        return replace(self, programs=tuple(map(undisturbed, self.programs)), faults=(), calm=True)

    @property
    def with_local_settings(self) -> Play:
        """The same, in which nothing is set for longer than a transaction."""
        return replace(self, programs=tuple(map(_localized, self.programs)))

    @property
    def smaller(self) -> Iterator[Play]:
        """Plays that are a little smaller: the largest cuts first."""
        for at, program in enumerate(self.programs):
            before, after = self.programs[:at], self.programs[at + 1 :]
            if before or after:
                yield replace(self, programs=before + after)
            for instead in simpler(program):
                yield replace(self, programs=(*before, instead, *after))
        for at in range(len(self.faults)):
            yield replace(self, faults=self.faults[:at] + self.faults[at + 1 :])
        yield from (replace(self, **{name: plain}) for name, plain in self._more)

    @property
    def _more(self) -> Iterator[tuple[str, Any]]:
        plain: dict[str, Any] = {"order": (), "at_once": False, "asks": False}
        return ((name, value) for name, value in plain.items() if getattr(self, name) != value)

    def __str__(self) -> str:
        how = "at once" if self.at_once else f"in turns {list(self.order)}"
        head = [f"{how}{', commit_outcome' * self.asks}", *map(str, self.faults)]
        for number, program in enumerate(self.programs):
            head += [f"program {number}:", *lines(program, "    ")]
        return "\n".join(head)


@dataclass(slots=True)
class Reported:
    """What came of a play."""

    play: Play
    reports: list[Report]

    @property
    def violation(self) -> Violation | None:
        """The first one."""
        return next((one.violation for one in self.reports if one.violation is not None), None)

    def __str__(self) -> str:
        said = [str(self.violation), str(self.play)]
        for number, report in enumerate(self.reports):
            said.append(f"of program {number}: {report.violation or 'no violation'}")
            said += [f"    {line}" for line in report.trace]
            said.append(f"    rows: {report.rows}")
        return "\n".join(said)


def _localized(program: Program) -> Program:
    return tuple(map(_localized_step, program))


def _localized_step(step: Step) -> Step:
    match step:
        case Block():
            return replace(step, body=_localized(step.body))
        case Elsewhere(inner):
            return Elsewhere(_localized_step(inner))
        case Run(by, texts):
            return Run(by, tuple(map(_localized_text, texts)))
        case _:
            return step


def _localized_text(text: Text) -> Text:
    return replace(text, value=text.value or "", local=True) if isinstance(text, Set) else text


# -- drawn by hypothesis -------------------------------------------------------------------------


class Drawn:
    """What hypothesis draws in place of a random number: the simplest comes first."""

    def __init__(self, draw: Callable[[strategies.SearchStrategy[int]], int]) -> None:
        self._draw = draw

    def random(self) -> float:
        """At its simplest nothing happens by chance."""
        return 1 - self.randint(0, 999) / 1000

    def randint(self, least: int, most: int, /) -> int:
        return self._draw(strategies.integers(least, most))

    def choice(self, options: tuple[T, ...] | list[T], /) -> T:
        return options[self.randint(0, len(options) - 1)]

    def choices(self, options: list[T], weights: list[float], /) -> list[T]:
        """One, by weights that are whole numbers."""
        left = self.randint(0, int(sum(weights)) - 1)
        for option, weight in zip(options, weights, strict=True):
            if left < weight:
                return [option]
            left -= int(weight)
        raise AssertionError(weights)


@strategies.composite
def _programs(draw: strategies.DrawFn) -> Program:
    return Generator(Drawn(draw)).program()


@strategies.composite
def plays(
    draw: strategies.DrawFn, faults: tuple[str, ...], *, at_once: bool = False, programs: int = MOST
) -> Play:
    """Any play with these faults."""
    drawn = Drawn(draw)
    found: list[Fault] = []
    for _ in range(drawn.randint(0, 2) if faults else 0):
        found.append(Fault(drawn.randint(0, _TURNS), drawn.choice(faults)))
    return Play(
        tuple(draw(strategies.lists(_programs(), min_size=1, max_size=programs))),
        tuple(draw(strategies.lists(strategies.integers(0, programs - 1), max_size=_TURNS))),
        tuple(found),
        at_once=at_once and drawn.random() < 0.5,
        asks=drawn.random() < 0.5,
    )
