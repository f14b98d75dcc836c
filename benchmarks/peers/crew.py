"""Threads of one contestant that act when told to, so that a fault can come in between."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier, BrokenBarrierError
from time import monotonic
from typing import Any, Protocol

from benchmarks.peers.sides import WatchedShop
from testproject.ledger import Kind, Ledger, judge
from testproject.load import Operations
from testproject.witness import count, independent

_ATTEMPTS = 20
_PATIENCE = 150.0  # seconds for all threads to have done one operation


class Side(Protocol):
    """What a contestant does between requests, and with the shop."""

    def between_requests(self) -> None:
        """What Django and its middleware do there."""

    def shop(self) -> Operations:
        """The shop, with its goods."""

    def hold(self, wait: Callable[[], object]) -> None:
        """Use a connection and keep it while waiting."""


class Crew:
    """Some threads, each with a ledger; an order is for all of them."""

    def __init__(self, side: Side, size: int, *, retries: bool) -> None:
        self._side = side
        self._shop = WatchedShop(side.shop(), retries=retries)
        self._threads = ThreadPoolExecutor(size)
        self._barrier = Barrier(size)
        self._random = random.Random(1)
        self._prefix = uuid.uuid4().hex[:8]
        self._ledgers = [Ledger() for _ in range(size)]
        side.between_requests()

    def connect(self) -> None:
        """Have each thread make a request, and all of them a connection at the same moment."""
        self._each(self._hold)

    def operate(self, kind: str, *, request: bool) -> float | None:
        """One operation by each; ``request``: each within a request of its own.

        Returns:
            Seconds until the first one has succeeded; None if all failed.
        """
        self._shop.succeeded.clear()
        began = monotonic()
        self._each(lambda ledger: self._act(ledger, Kind(kind), request=request))
        return min(self._shop.succeeded) - began if self._shop.succeeded else None

    def judge(self, witness: str) -> dict[str, Any]:
        """Compare what the threads were told with what the database has."""
        with independent(witness) as ask:
            found = count(ask, self._prefix)
        return judge(self._ledgers, found, engine="", seconds=0.0).as_json()

    def _each(self, work: Callable[[Ledger], None]) -> None:
        def met(ledger: Ledger) -> None:
            self._barrier.wait(_PATIENCE)  # each thread takes one, and nobody two
            work(ledger)

        for done in [self._threads.submit(met, ledger) for ledger in self._ledgers]:
            done.result(_PATIENCE)

    def _hold(self, _: Ledger) -> None:
        for _attempt in range(_ATTEMPTS):
            self._side.between_requests()
            try:
                self._side.hold(partial(self._barrier.wait, _PATIENCE))
            except BrokenBarrierError:
                raise
            except Exception:  # what an earlier fault has left behind is not what is measured now
                continue
            break
        self._side.between_requests()

    def _act(self, ledger: Ledger, kind: Kind, *, request: bool) -> None:
        if request:
            self._side.between_requests()
        if kind is Kind.READ:
            ledger.attempt(kind, lambda: self._shop.read(self._random))
        else:
            token = f"{self._prefix}-{id(ledger)}-{kind.value}-{ledger.operations[kind]}"
            do = self._shop.write if kind is Kind.WRITE else self._shop.buy
            ledger.attempt(kind, lambda: do(self._random, token), token)
        if request:
            self._side.between_requests()
