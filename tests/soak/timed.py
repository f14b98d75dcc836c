"""The shop with a stopwatch: what failed because it had no time left, as the guarantees allow."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from testproject.load import Operations

#: Seconds before its deadline that a call may end: it does not begin a pause that is longer.
PAUSE: Final = 1.0


class Timed:
    """Operations, and how many of them raised because their deadline was used up.

    The error has to say so, and so does the stopwatch.

    Args:
        deadline: seconds of each read, and of each transaction.
        retries: transactions run under ``retry_atomic``; others are not waited for.
        clock: for tests.
    """

    def __init__(
        self,
        shop: Operations,
        deadline: float,
        *,
        retries: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.late = 0
        self._shop, self._deadline, self._retries, self._clock = shop, deadline, retries, clock
        self._lock = threading.Lock()

    @property
    def using(self) -> str:
        return self._shop.using

    def read(self, rng: random.Random) -> None:
        with self._timing("retry_deadline"):
            self._shop.read(rng)

    def write(self, rng: random.Random, token: str) -> None:
        self._shop.write(rng, token)

    def buy(self, rng: random.Random, token: str) -> None:
        if not self._retries:
            self._shop.buy(rng, token)
            return
        with self._timing("retry_atomic's deadline"):
            self._shop.buy(rng, token)

    @contextmanager
    def _timing(self, name: str) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        except Exception as error:
            said = f"{name} ({self._deadline:g} s) is used up" in str(
                getattr(error, "__notes__", "")
            )
            if said and self._clock() - began >= self._deadline - PAUSE:
                with self._lock:
                    self.late += 1
            raise
