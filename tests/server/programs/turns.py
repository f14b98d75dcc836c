"""Who goes on while several programs run at once, each in a thread of its own.

A turn is what a program does between two steps' beginnings. Faults happen between turns, when no
step is under way.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Final

#: Seconds after which a turn that does not end is a failure of the test.
PATIENCE: Final = 60.0


class Turns(ABC):
    """Lets programs go on; ``faults``: what happens before which turn of all programs together."""

    def __init__(self, programs: int, faults: Mapping[int, Callable[[], None]]) -> None:
        self._changed = threading.Condition()
        self._here = set(range(programs))
        self._faults = dict(faults)
        self._turns = 0
        #: Why a fault did not happen, or a turn did not come.
        self.failure: Exception | None = None

    @abstractmethod
    def begin(self, program: int) -> None:
        """Wait for the first turn."""

    @abstractmethod
    def between(self, program: int) -> None:
        """End a turn and wait for the next one."""

    @abstractmethod
    def leave(self, program: int) -> None:
        """The program is over."""

    def _count(self) -> None:
        """Another turn is about to begin, and none is under way where there is a fault."""
        fault = self._faults.pop(self._turns, None)
        self._turns += 1
        if fault is None:
            return
        try:
            fault()
        except Exception as error:  # a program takes it for one of its own
            self.failure = error
            raise

    def _wait(self, until: Callable[[], bool]) -> None:
        if not self._changed.wait_for(until, PATIENCE):
            self.failure = TimeoutError(f"a program has waited {PATIENCE:g} s for its turn")
            raise self.failure


class InOrder(Turns):
    """One program at a time, in an order that is given: what happens once happens again.

    Args:
        order: who is next, over and over; whoever is over is passed over.
    """

    def __init__(
        self, programs: int, faults: Mapping[int, Callable[[], None]], order: Iterator[int]
    ) -> None:
        super().__init__(programs, faults)
        self._order = order
        self._current = self._next()

    def begin(self, program: int) -> None:
        with self._changed:
            self._wait(lambda: self._current == program)

    def between(self, program: int) -> None:
        with self._changed:
            self._count()
            self._current = self._next()
            self._changed.notify_all()
            self._wait(lambda: self._current == program)

    def leave(self, program: int) -> None:
        with self._changed:
            self._here.discard(program)
            self._current = self._next()
            self._changed.notify_all()

    def _next(self) -> int:
        return next((one for one in self._order if one in self._here), 0) if self._here else -1


class AtOnce(Turns):
    """All programs at the same time: what happens is another thing each time."""

    def __init__(self, programs: int, faults: Mapping[int, Callable[[], None]]) -> None:
        super().__init__(programs, faults)
        self._running = 0
        self._halted = False

    def begin(self, program: int) -> None:
        with self._changed:
            self._wait(lambda: not self._halted)
            self._running += 1

    def between(self, program: int) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()
            self._wait(lambda: not self._halted)
            if self._turns in self._faults:
                self._halted = True
                self._wait(lambda: self._running == 0)
            try:
                self._count()
            finally:
                self._halted = False
                self._running += 1
                self._changed.notify_all()

    def leave(self, program: int) -> None:
        with self._changed:
            self._here.discard(program)
            self._running -= 1
            self._changed.notify_all()
