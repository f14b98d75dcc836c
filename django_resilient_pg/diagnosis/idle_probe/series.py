"""Sessions left idle side by side, and the interval in which they die.

A first pass tells between which two of its times sessions die. Those that were used in time take
part in the next one, which divides that interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .sessions import Ending, Session

#: An interval is narrow enough with so many seconds, or with a twentieth of the time.
FINE: Final = 0.5
#: Passes in all.
PASSES: Final = 4
#: The shortest time that a session is left alone for, in seconds.
SHORTEST: Final = 2.0
#: Seconds within which sessions end that end together.
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
        idle: whether being idle explains it. It does not if the server gave another reason, or
            if others were good after a longer time.
        complete: whether nothing was left to wait for.
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
class _Left:
    """A session left alone.

    Attributes:
        session: the session.
        since: the clock when it was last used.
        target: seconds after which to use it again; ``None``: it waits for the next pass.
        looked: seconds that it had been idle for when it was last seen to be there.
    """

    session: Session
    since: float
    target: float | None = None
    looked: float = 0.0


@dataclass(frozen=True, slots=True)
class _Death:
    survived: float  # there after so many seconds
    died: float
    ending: Ending


class Series:
    """One series of sessions.

    Args:
        keepalives: whether they send them.
        clock: the time in seconds.
        patience: seconds to wait for an answer.
    """

    def __init__(self, keepalives: bool, clock: Callable[[], float], patience: float) -> None:
        self.keepalives = keepalives
        self._clock, self._patience = clock, patience
        self._left: list[_Left] = []
        self._sessions = 0
        self._good: list[float] = []
        self._deaths: list[_Death] = []
        self._first_death = math.inf
        self._pass = 1
        #: Whether there is nothing more to wait for.
        self.over = False

    def add(self, session: Session) -> None:
        """Take one more session in, which was used just now."""
        self._left.append(_Left(session, self._clock()))
        self._sessions += 1

    def spare(self) -> None:
        """Give the last one back, before :meth:`begin`."""
        self._left.pop().session.close()
        self._sessions -= 1

    def begin(self, seconds: float) -> None:
        """Say how long each is to be left alone, at most ``seconds``."""
        for each, target in zip(self._left, times(self._sessions, seconds), strict=True):
            each.target = target

    def tend(self) -> list[str]:
        """Look at all sessions, use those whose time has come; return what there is to tell."""
        good, deaths = max(self._good, default=0.0), len(self._deaths)
        for step in (self._look, self._use_if_due):
            for each in list(self._left):
                if each in self._left:
                    step(each)
        self._drop_older()
        told = [f"alive after {each:.1f} s idle" for each in self._good if each > good]
        for death in self._deaths[deaths:]:
            told.append(f"dead after {death.died:.1f} s idle ({death.ending.how.value})")
        if self._passed() and self._pass < PASSES and self._coarse():
            self._divide()
        self.over = self._passed()
        return told

    @property
    def alive(self) -> int:
        """How many sessions are looked after."""
        return len(self._left)

    @property
    def until(self) -> float:
        """The clock when the last session's time comes."""
        return max((each.since + (each.target or 0.0) for each in self._left), default=0.0)

    def found(self) -> Found:
        """What is known so far."""
        first = min(self._deaths, key=lambda each: each.died, default=None)
        longest = max(self._good, default=0.0)
        if first is None:
            return Found(self.keepalives, self._sessions, longest, complete=self.over)
        # Timeouts are rounded and kept by sweeps: a bit of overlap proves nothing.
        mixed = longest > first.died + max(TOGETHER, first.died / 4)
        shorter = [good for good in self._good if good < first.died]
        return Found(
            keepalives=self.keepalives,
            sessions=self._sessions,
            survived=max([first.survived, *shorter]),
            died=first.died,
            ending=first.ending,
            idle=first.ending.of_idleness and not mixed,
            complete=self.over,
        )

    def close(self) -> None:
        """Close all sessions."""
        while self._left:
            self._left.pop().session.close()

    def _passed(self) -> bool:
        """Whether a pass is over."""
        waiting = any(each.target is not None for each in self._left)
        return not waiting and self._clock() >= self._last_look()

    def _last_look(self) -> float:
        """The clock until which to wait for sessions that end together with the first."""
        seen = bool(self._deaths) and self._deaths[0].ending.how.seen
        return self._first_death + TOGETHER if seen else 0.0

    def _look(self, each: _Left) -> None:
        ending = each.session.look()
        idle = self._clock() - each.since
        if ending is None:
            each.looked = idle
        else:
            # The kernel's keepalives take their time to find out that nothing comes back.
            there = each.looked if ending.how.seen else 0.0
            self._bury(each, _Death(there, idle, ending))

    def _use_if_due(self, each: _Left) -> None:
        """One that waits for the next pass is used in time for it to be there then."""
        soon = max(self._good, default=0.0) / 2
        if self._clock() - each.since >= (soon if each.target is None else each.target):
            each.target = None
            self._use(each)

    def _use(self, each: _Left) -> None:
        idle = self._clock() - each.since
        ending = each.session.use(self._patience)
        if ending is not None:
            self._bury(each, _Death(0.0, idle, ending))
            self._drop_older()
            return
        self._good.append(idle)
        each.since, each.looked = self._clock(), 0.0

    def _bury(self, each: _Left, death: _Death) -> None:
        self._left.remove(each)
        each.session.close()
        if not self._deaths:
            self._first_death = self._clock()
        self._deaths.append(death)

    def _drop_older(self) -> None:
        """Once one has died, those that were idle for longer have nothing to tell."""
        died = self.found().died
        if died is None or self._clock() < self._last_look():
            return
        for each in list(self._left):
            if max(self._clock() - each.since, each.target or 0.0) >= died:
                self._left.remove(each)
                each.session.close()

    def _divide(self) -> None:
        """Begin the next pass, in the interval that is known."""
        self._pass += 1
        for each in list(self._left):
            if each in self._left:
                self._use(each)
        found = self.found()
        # What is left alone beyond the timeout is gone for the passes after this one: keep half.
        count = len(self._left)
        taken = self._left if self._pass == PASSES else self._left[: (count + 1) // 2]
        for number, each in enumerate(taken, 1):
            part = number / (len(taken) + 1)
            each.target = found.survived + ((found.died or 0.0) - found.survived) * part

    def _coarse(self) -> bool:
        found = self.found()
        died = found.died if found.limited else None
        return died is not None and died - found.survived > max(FINE, died / 20)


def times(count: int, seconds: float) -> tuple[float, ...]:
    """Times to leave sessions idle for, each longer than the one before by the same part.

    So short timeouts are found as exactly as long ones, in proportion.
    """
    if count < 2:
        return (seconds,) * count
    shortest = min(SHORTEST, seconds / count)
    ratio = (seconds / shortest) ** (1 / (count - 1))
    return (*(shortest * ratio**number for number in range(count - 1)), seconds)
