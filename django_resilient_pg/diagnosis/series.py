"""Sessions left idle side by side, and the interval in which they die. Pure but for the sessions.

A first pass tells between which two of its times sessions die. Those that were used in time take
part in a second one, which divides that interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from .endings import Ending, Session

#: Seconds that a second pass would have to gain; also a twentieth of the time found.
FINE: Final = 0.5
#: The shortest time in which a first pass looks for an end, in seconds.
SHORTEST: Final = 2.0
#: Seconds in which sessions that end together are seen to do so.
TOGETHER: Final = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a series of sessions tells.

    Attributes:
        keepalives: whether they sent TCP keepalives (one a second).
        sessions: how many there were.
        survived: the longest time in seconds after which one was still good, 0 if none.
        died: the shortest after which one was dead; ``None``: none was.
        ending: how that one ended.
        idle: whether being idle explains it. If not, sessions that were idle for less ended,
            too, or the server gave another reason.
        complete: whether all times were waited for.
    """

    keepalives: bool
    sessions: int
    survived: float
    died: float | None = None
    ending: Ending | None = None
    idle: bool = True
    complete: bool = True

    @property
    def limited(self) -> bool:
        """Whether an idle timeout was found."""
        return self.died is not None and self.idle


@dataclass(slots=True)
class Left:
    """A session left alone.

    Attributes:
        session: the session.
        since: the clock when it was last used.
        target: seconds after which to use it again; ``None``: it waits for the second pass.
        looked: seconds that it had been idle for when it was last seen alive.
    """

    session: Session
    since: float
    target: float | None
    looked: float = 0.0


@dataclass(frozen=True, slots=True)
class _Death:
    survived: float  # alive for certain after so many seconds
    died: float
    ending: Ending


@dataclass(slots=True)
class Series:
    """One series, with or without keepalives.

    Attributes:
        keepalives: which of the two.
        targets: the seconds to leave sessions idle for, one each.
        patience: seconds to wait for an answer.
        left: the sessions still looked after.
    """

    keepalives: bool
    targets: tuple[float, ...]
    patience: float
    left: list[Left] = field(default_factory=list)
    _opened: int = 0
    _good: list[float] = field(default_factory=list)
    _deaths: list[_Death] = field(default_factory=list)
    _first_death: float = math.inf  # by the clock
    _divided: bool = False

    def add(self, session: Session, now: float) -> None:
        """Leave one more session alone. The longest times come first, should there be no more."""
        self.left.append(Left(session, now, self.targets[-1 - self._opened]))
        self._opened += 1

    def tend(self, clock: float) -> str:
        """Look at all sessions, use those whose time has come; return what there is to tell."""
        before = len(self._good), len(self._deaths)
        for each in list(self.left):
            self._look(each, clock)
        due = next((each for each in self.left if _due(each, clock)), None)
        if due is not None:
            self._use(due, clock)
        elif rest := next((each for each in self.left if self._restless(each, clock)), None):
            self._use(rest, clock, count=False)
        self._give_up(clock)
        self._divide(clock)
        return self._news(*before)

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for."""
        return not any(each.target is not None for each in self.left)

    @property
    def until(self) -> float:
        """The clock when the last session's time comes."""
        return max((each.since + (each.target or 0.0) for each in self.left), default=0.0)

    def found(self) -> Found:
        """What is known so far."""
        first = min(self._deaths, key=lambda each: each.died, default=None)
        longest = max(self._good, default=0.0)
        if first is None:
            return Found(self.keepalives, self._opened, longest, complete=self.over)
        # Timeouts are kept by sweeps and rounded: a bit of overlap proves nothing.
        together = longest > first.died + max(TOGETHER, first.died / 4)
        shorter = [good for good in self._good if good < first.died]
        return Found(
            keepalives=self.keepalives,
            sessions=self._opened,
            survived=max([first.survived, *shorter]),
            died=first.died,
            ending=first.ending,
            idle=first.ending.of_idleness and not together,
            complete=self.over,
        )

    def _look(self, each: Left, clock: float) -> None:
        ending = each.session.look()
        if ending is None:
            each.looked = clock - each.since
            return
        # Not while it was silent: the kernel's keepalives take their time to find out.
        seen = each.looked if ending.how.seen else 0.0
        self._bury(each, _Death(seen, clock - each.since, ending), clock)

    def _use(self, each: Left, clock: float, *, count: bool = True) -> None:
        idle = clock - each.since
        ending = each.session.use(self.patience)
        if ending is not None:
            self._bury(each, _Death(0.0, idle, ending), clock)
            return
        self._good.append(idle)
        each.since, each.looked = clock, 0.0
        if count:
            each.target = None

    def _bury(self, each: Left, death: _Death, clock: float) -> None:
        self.left.remove(each)
        each.session.close()
        self._deaths.append(death)
        self._first_death = min(self._first_death, clock)

    def _restless(self, each: Left, clock: float) -> bool:
        """Whether one that waits for the second pass has to be used, to live until then."""
        longest = max(self._good, default=0.0)
        return each.target is None and clock - each.since >= longest / 2

    def _give_up(self, clock: float) -> None:
        """Once one has died, those that were idle for longer have nothing to tell."""
        found = self.found()
        if found.died is None or found.ending is None:
            return
        wait = TOGETHER if found.ending.how.seen else 0.0
        for each in list(self.left):
            over = clock - each.since >= found.died or (each.target or 0.0) >= found.died
            if over and clock >= self._first_death + wait:
                self.left.remove(each)
                each.session.close()

    def _divide(self, clock: float) -> None:
        """Begin the second pass when the first is over, if there is something to gain."""
        found = self.found()
        waiting = [each for each in self.left if each.target is None]
        if self._divided or not self.over or not found.limited or found.died is None:
            return
        self._divided = True
        width = found.died - found.survived
        if width <= max(FINE, found.died / 20):
            return
        for each in waiting:
            self._use(each, clock)
        for number, each in enumerate(self.left, 1):
            each.target = found.survived + width * number / (len(self.left) + 1)

    def _news(self, good: int, deaths: int) -> str:
        what = "with keepalives" if self.keepalives else "without keepalives"
        if len(self._deaths) > deaths:
            death = self._deaths[-1]
            return f"{what}: dead after {death.died:.1f} s idle ({death.ending.how.value})"
        if len(self._good) > good:
            return f"{what}: alive after {self._good[-1]:.1f} s idle"
        return ""


def _due(each: Left, clock: float) -> bool:
    return each.target is not None and clock - each.since >= each.target


def times(count: int, seconds: float) -> tuple[float, ...]:
    """Times to leave sessions idle for, each longer than the one before by the same part.

    Short timeouts are found more exactly than long ones, in proportion the same.
    """
    if count == 1:
        return (seconds,)
    shortest = min(SHORTEST, seconds / count)
    ratio = (seconds / shortest) ** (1 / (count - 1))
    return (*(shortest * ratio**number for number in range(count - 1)), seconds)
