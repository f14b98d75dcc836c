"""A soak: rounds of work under faults, and what is left after each."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from testproject.ledger import Result
from testproject.postgres import Server
from tests.faults.proxy import Proxy
from tests.soak.held import Held, growth
from tests.soak.processes import KINDS, Kind, Process, violations
from tests.soak.storm import Storm

#: Seconds that the server may take to notice the end of sessions nobody has.
SETTLING = 20.0


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one round.

    Attributes:
        results: by name of the process.
        sessions: at the server when nobody works.
        violations: of the guarantees, one sentence each.
        logged: why the engine has not retried what it did not retry.
        late: what was raised because its deadline was used up.
    """

    seconds: float
    results: dict[str, Result]
    late: int
    held: dict[str, Held]
    sessions: int
    faults: int
    violations: list[str]
    logged: list[str]


class Campaign:
    """A server, a proxy before it, processes that work through it, and the faults.

    Args:
        module: see :class:`.Process`.
        storm: see :class:`.Storm`.
    """

    def __init__(
        self,
        *,
        seed: str = "",
        threads: int = 4,
        kinds: Sequence[Kind] = KINDS,
        module: Sequence[str] = ("tests.soak.worker",),
        **storm: Any,
    ) -> None:
        self._of_storm = storm
        self._seed, self._threads, self._kinds, self._module = seed, threads, kinds, module
        self._stack = ExitStack()
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._server = stack.enter_context(Server())
            self._proxy = Proxy(self._server.port)
            stack.callback(self._proxy.close)
            for kind in self._kinds:
                made = Process(
                    kind,
                    self._server,
                    self._proxy,
                    threads=self._threads,
                    module=self._module,
                    log=stack.enter_context(tempfile.TemporaryFile("w+")),
                )
                self._processes.append(stack.enter_context(made))
                made.order("prepare")
                made.answer(0)
            self.storm = Storm(
                self._server, self._proxy, random.Random(self._seed), **self._of_storm
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def rounds(self, seconds: float, length: float) -> Iterator[Round]:
        """Work for so long, in rounds of this length."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.5:
            yield self.round(min(length, left))

    def round(self, seconds: float) -> Round:
        """Work under faults for so long, then count what is there."""
        before, began = self.storm.done.total(), time.monotonic()
        with self.storm:
            for each in self._processes:
                each.order(seconds)
            time.sleep(seconds)
        results = {each.kind.name: each.result(seconds) for each in self._processes}
        logged = {each.kind.name: each.logged() for each in self._processes}
        late = {each.kind.name: each.late for each in self._processes}
        found = []
        for kind in self._kinds:
            found += violations(kind, results[kind.name], logged[kind.name], late[kind.name])
        self._proxy.let_go()
        sessions = self._settled()
        if sessions > self._kept():
            found.append(f"{sessions} sessions stay at the server, {self._kept()} are in pools")
        return Round(
            seconds=time.monotonic() - began,
            results=results,
            late=sum(late.values()),
            held={each.kind.name: each.rounds[-1] for each in self._processes},
            sessions=sessions,
            faults=self.storm.done.total() - before,
            violations=found,
            logged=[line for lines in logged.values() for line in lines],
        )

    def growth(self) -> list[str]:
        """What has grown over the rounds, one sentence each."""
        return [
            f"{each.kind.name}: {text}" for each in self._processes for text in growth(each.rounds)
        ]

    def _kept(self) -> int:
        return sum(each.kind.keeps for each in self._processes)

    def _settled(self) -> int:
        """Sessions at the server once it has noticed the end of those that nobody has."""
        deadline = time.monotonic() + SETTLING
        while (left := len(self._server.backends())) > self._kept():
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return left
