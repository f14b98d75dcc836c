"""The load: several threads work with the shop while somebody breaks the connections.

    python -m testproject.load --seconds 10 --threads 6 [--json]

Every operation is done as an application would do it, with no retry of its own. About five of them
make a "request": between requests every thread calls ``close_old_connections()`` as Django's
request signals do, and an error ends the request. So the stock engine gets every chance it has
behind a web server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import django
from django.core.management import call_command
from django.db import close_old_connections, connections

from testproject.ledger import Kind, Ledger, Result, judge
from testproject.witness import Ask, count, independent

if TYPE_CHECKING:
    from testproject.faults import Faults

MIX = {Kind.READ: 12, Kind.WRITE: 4, Kind.TRANSACTION: 4}
REQUEST = range(3, 8)  # operations per request
THINK = 0.01  # longest pause after an operation, seconds: idle connections are to be killed too
PAUSE_AFTER_ERROR = 0.05  # seconds: nobody asks again at once
GRACE = 60.0  # seconds for the threads to come back after the end
LOOK = 0.5  # seconds between two reports of progress


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load has come."""

    seconds: float
    statements: int
    failed_reads: int
    failed_writes: int  # alone or in transactions


class Operations(Protocol):
    """What a load does; the shop of :mod:`testproject.shop.operations` is one."""

    @property
    def using(self) -> str:
        """The alias."""

    def read(self, rng: random.Random) -> None:
        """One read, in autocommit."""

    def write(self, rng: random.Random, token: str) -> None:
        """One row, in autocommit."""

    def buy(self, rng: random.Random, token: str) -> None:
        """One transaction."""


class Worker(threading.Thread):
    """One thread of the application, with a connection of its own."""

    def __init__(
        self,
        shop: Operations,
        name: str,
        seed: str,
        stop: threading.Event,
        between_requests: Callable[[], None],
    ) -> None:
        super().__init__(name=f"load {name}", daemon=True)
        self.shop = shop
        self._between_requests = between_requests
        self.ledger = Ledger()
        self.defect: BaseException | None = None  # of the load itself
        self._prefix = name
        self._random = random.Random(seed)
        self._stopping = stop

    def run(self) -> None:
        """Make requests until told to stop."""
        try:
            with contextlib.ExitStack() as end:
                end.callback(connections.close_all)
                end.enter_context(connections[self.shop.using].execute_wrapper(self._count))
                while not self._stopping.is_set():
                    self._request()
        except BaseException as error:  # raised again by the main thread
            self.defect = error

    def _request(self) -> None:
        self._between_requests()
        succeeded = all(self._operation() for _ in range(self._random.choice(REQUEST)))
        self._between_requests()
        if not succeeded:
            self._stopping.wait(PAUSE_AFTER_ERROR)

    def _operation(self) -> bool:
        (kind,) = self._random.choices(list(MIX), weights=list(MIX.values()))
        if kind is Kind.READ:
            succeeded = self.ledger.attempt(kind, partial(self.shop.read, self._random))
        else:
            token = f"{self._prefix}-{kind.value}-{self.ledger.operations[kind]}"
            do = self.shop.write if kind is Kind.WRITE else self.shop.buy
            succeeded = self.ledger.attempt(kind, partial(do, self._random, token), token)
        self._stopping.wait(self._random.uniform(0, THINK))
        return succeeded

    def _count(self, execute: Callable[..., Any], *args: Any) -> Any:
        self.ledger.count_statement()
        return execute(*args)


def run(
    using: str = "default",
    *,
    threads: int = 6,
    seconds: float = 10.0,
    operations: int | None = None,
    seed: int = 1,
    faults: Faults | None = None,
    ask: Ask | None = None,
    watch: Callable[[Progress], None] | None = None,
    retries: bool = False,
    shop: Operations | None = None,
    between_requests: Callable[[], None] = close_old_connections,
) -> Result:
    """Load the alias ``using`` for ``seconds`` and account for every operation.

    ``operations``: so many at least, however long that takes; what ``faults`` has for seconds are
    operations then. They begin with the load and end with its last thread. ``ask(sql, params)``
    answers from the same database over a connection that has nothing to do with the load; by
    default one of the stock engine. ``watch`` is called about twice a second, first when the load
    begins. ``retries``: transactions run under ``retry_atomic``. ``shop``: stocked up already.
    ``between_requests``: what the application does there. Raises what the load itself does wrong;
    errors of the database are counted.
    """
    # Imported late: models can be imported only when Django is set up.
    from testproject.shop.operations import stock_up

    prefix = uuid.uuid4().hex[:8]
    stop = threading.Event()
    shop = shop or stock_up(using, retries=retries)
    workers = [
        Worker(shop, f"{prefix}-{n}", f"{seed}-{n}", stop, between_requests) for n in range(threads)
    ]
    if faults and operations is not None:
        faults.done = partial(_done, workers)
    with faults or contextlib.nullcontext():
        try:
            for worker in workers:
                worker.start()
            elapsed = _wait(workers, seconds, operations, watch)
        finally:
            stop.set()
        hung = _join(workers)
    with contextlib.nullcontext(ask) if ask else independent(using) as asking:
        found = count(asking, prefix)
    ledgers = [worker.ledger for worker in workers]
    engine = str(connections[using].settings_dict["ENGINE"])
    return judge(ledgers, found, engine=engine, seconds=elapsed, hung=hung)


def _done(workers: Sequence[Worker]) -> int:
    return sum(worker.ledger.operations.total() for worker in workers)


def _wait(
    workers: Sequence[Worker],
    seconds: float,
    operations: int | None,
    watch: Callable[[Progress], None] | None,
) -> float:
    """Let the workers work; returns the seconds it took."""
    start = time.monotonic()
    elapsed = 0.0
    while all(worker.defect is None for worker in workers):
        left = seconds - elapsed if operations is None else operations - _done(workers)
        if left <= 0:
            break
        if watch:
            watch(_progress([worker.ledger for worker in workers], elapsed))
        time.sleep(min(LOOK, left) if operations is None else LOOK)
        elapsed = time.monotonic() - start
    return elapsed


def _progress(ledgers: Sequence[Ledger], elapsed: float) -> Progress:
    failed = [ledger.failed for ledger in ledgers]
    return Progress(
        seconds=elapsed,
        statements=sum(ledger.statements.total() for ledger in ledgers),
        failed_reads=sum(each[Kind.READ] for each in failed),
        failed_writes=sum(each[Kind.WRITE] + each[Kind.TRANSACTION] for each in failed),
    )


def _join(workers: Sequence[Worker]) -> int:
    """Wait for the workers; returns how many did not come back. Raises a defect of a worker."""
    deadline = time.monotonic() + GRACE
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        if worker.defect is not None:
            raise worker.defect
    return sum(worker.is_alive() for worker in workers)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m testproject.load",
        description="Loads the database of the settings and accounts for every operation.",
    )
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line: progress, then the result"
    )
    parser.add_argument(
        "--retry-atomic", action="store_true", help="run transactions under retry_atomic"
    )
    return parser.parse_args(argv)


def _show(progress: Progress) -> None:
    print(json.dumps({"progress": asdict(progress)}), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Create the tables, run the load, print the result."""
    given = _arguments(argv)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    django.setup()
    call_command("migrate", verbosity=0)
    result = run(
        threads=given.threads,
        seconds=given.seconds,
        seed=given.seed,
        watch=_show if given.json else None,
        retries=given.retry_atomic,
    )
    if given.json:
        print(json.dumps({"result": asdict(result)}), flush=True)
    else:
        json.dump(asdict(result), sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
