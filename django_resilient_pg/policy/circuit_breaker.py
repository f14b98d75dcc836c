"""Who may ask a server that is down, and what is known of it: one verdict for all threads.

While a server answers, every thread connects by itself and nothing here is locked. After a failed
attempt one thread at a time asks again (the first that comes when the next attempt is due); the
others wait for its verdict or fail at once. No thread of its own, no timer: a process that wants
nothing of its database does not disturb it.
"""

from __future__ import annotations

import enum
import os
import threading
import time
from collections.abc import Callable
from typing import Final

# Seconds after which a thread that waits for another one's attempt looks at its own budget.
_SLICE: Final = 0.25


class Permit(enum.Enum):
    """What a thread may do that wants a connection."""

    FREE = "the server is not known to be down: connect"
    ASK = "it is down, and this is the one thread that asks: connect"
    WAIT = "it is down, and another attempt is under way or not yet due"


class CircuitBreaker:
    """The verdict on one server, and the right to ask for it. Safe to use from all threads.

    Attributes:
        down: the last attempt has failed; read without a lock.
        said: the first line of how.
        failures: attempts that have failed since it is down.
        mute: it lets clients log in, and then ends the session at the first statement. A login
            alone does not end such an outage.
        surfaced: the application knows: somebody has given up waiting.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.down = self.surfaced = False
        self.said = ""
        self.failures = 0
        self.mute = False
        self._since = self._due = 0.0
        self._start_anew()

    def _start_anew(self) -> None:
        self._asking = False
        self._changed = threading.Condition()
        self._pid = os.getpid()  # last: who sees it sees the rest

    def _own(self) -> threading.Condition:
        """The lock. In a forked child a new one: another thread may have held it at the fork."""
        if self._pid != os.getpid():
            self._start_anew()
        return self._changed

    def begin(self) -> Permit:
        """Ask for a permit. After ASK one of the three below must follow."""
        if not self.down:
            return Permit.FREE
        with self._own():
            return self._permit()

    def _permit(self) -> Permit:
        if not self.down:
            return Permit.FREE
        if self._asking or self._clock() < self._due:
            return Permit.WAIT
        self._asking = True
        return Permit.ASK

    def failed(self, permit: Permit, said: str, wait: Callable[[int], float]) -> bool:
        """The server could not be reached; ``wait(failures)`` seconds until the next attempt.

        Returns:
            whether this is news.
        """
        with self._own():
            self._leave(permit)
            if self.down and permit is Permit.FREE:
                return False  # begun before it was known: not what sets the pace
            now, news = self._clock(), not self.down
            if news:
                self._since = now
            self.down = True
            self.said = said
            self.failures += 1
            self._due = now + wait(self.failures)
            self._changed.notify_all()
            return news

    def answered(self, permit: Permit) -> float | None:
        """The server has answered, if only to refuse.

        Returns:
            seconds since the first failed attempt; ``None``: it was not known to be down.
        """
        if permit is Permit.FREE and not (self.down or self.mute):
            return None
        with self._own():
            self._leave(permit)
            was_down, self.down = self.down, False
            self.failures, self.mute, self.surfaced = 0, False, False
            self._changed.notify_all()
            return self._clock() - self._since if was_down else None

    def interrupted(self, permit: Permit) -> None:
        """The attempt ended without a verdict: the next thread may ask at once."""
        if permit is Permit.ASK:
            with self._own():
                self._leave(permit)
                self._changed.notify_all()

    def _leave(self, permit: Permit) -> None:
        if permit is Permit.ASK:
            self._asking = False

    def down_for(self) -> float:
        """Seconds since the first failure of the outage under way; 0: there is none."""
        return self._clock() - self._since if self.down else 0.0

    def due_in(self) -> float:
        """Seconds until it is worth asking for a permit again; 0: nobody asks, and one is due."""
        if not self.down:
            return 0.0
        return _SLICE if self._asking else max(0.0, self._due - self._clock())

    @property
    def asking(self) -> bool:
        """Whether an attempt is under way."""
        return self._asking

    def wait(self, seconds: float) -> None:
        """Wait for the next verdict, so many seconds at most."""
        with self._own():
            if self.down:
                self._changed.wait(seconds)
