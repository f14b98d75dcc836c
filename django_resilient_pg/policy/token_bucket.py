"""One bucket of tokens for all threads and aliases of the process: what stops a retry storm."""

from __future__ import annotations

import threading
from typing import Final


class TokenBucket:
    """Stops retry storms: retries cost more than successes give back.

    Figures as in the AWS SDKs (botocore ``retries/standard.py``): capacity 500, a retry costs 5
    and gives them back when it succeeds, any other success gives back 1. So what counts is how many
    retries are under way or were in vain, not how many statements a process has beside them.
    """

    CAPACITY: Final = 500
    COST: Final = 5

    __slots__ = ("_lock", "short", "tokens")

    def __init__(self) -> None:
        self.tokens = self.CAPACITY
        #: Whether anything is missing: a success looks here before it gives something back.
        self.short = False
        self._lock = threading.Lock()

    def renew_lock(self) -> None:
        """After a fork: a thread that is not here any more may hold it."""
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Pay for one retry; False when the bucket is empty and the retry must not be made."""
        with self._lock:
            if self.tokens < self.COST:
                return False
            self.tokens -= self.COST
            self.short = True
            return True

    def refund(self, tokens: int = 1) -> None:
        """Give tokens back, if any are missing: ``COST`` for a retry that has succeeded."""
        if not self.short:
            return
        with self._lock:
            self.tokens = min(self.CAPACITY, self.tokens + tokens)
            self.short = self.tokens < self.CAPACITY


#: One for the process: a storm is made of all threads and aliases together.
BUCKET = TokenBucket()
