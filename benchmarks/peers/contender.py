"""Contestants as processes, as the command sees them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.compare import Worker
from benchmarks.copies import ROOT
from benchmarks.peers.contestants import STOCK, Contestant, engine_for
from benchmarks.peers.environments import Unavailable, python_of
from benchmarks.peers.process import WITNESS
from testproject.postgres import Server


class Contender(Worker):
    """The process of a contestant."""

    def __init__(self, process: subprocess.Popen[str], contestant: Contestant) -> None:
        super().__init__(process)
        self.contestant = contestant
        self.memory = 0

    def order(self, name: str, *arguments: object, **named: object) -> Any:
        """Have it do something and wait for what comes of it.

        Raises:
            Unavailable: it cannot.
        """
        answer = self.ask(name, *arguments, named)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer["value"]


def entry(server: Server, contestant: Contestant, driver: str, **overrides: Any) -> dict[str, Any]:
    """What DATABASES holds of a contestant."""
    return server.database(
        overrides.pop("name", "app"),
        engine=engine_for(contestant, driver),
        options={**contestant.options, **overrides.pop("options", {})},
        **{**contestant.entry, **overrides},
    )


def witness(server: Server, name: str = "app", **overrides: Any) -> dict[str, Any]:
    """What DATABASES holds for counting what the database has."""
    return server.database(name, engine=STOCK, **overrides)


@contextmanager
def contender(
    contestant: Contestant, driver: str, entries: dict[str, Any], counted: dict[str, Any]
) -> Iterator[Contender]:
    """Run the process of a contestant, set up with its databases.

    Raises:
        Unavailable: it does not work here; says why.
    """
    python = python_of(contestant, driver)
    environ = {**os.environ}
    if contestant.packages:  # an environment that knows nothing of this source tree
        environ["PYTHONPATH"] = str(ROOT)
    with subprocess.Popen(
        [python, "-m", "benchmarks.peers.process"],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            found = Contender(process, contestant)
            names = (contestant.name, driver)
            found.memory = found.order("set_up", *names, entries, counted)
            yield found
        finally:
            process.kill()  # threads of a pool would keep it, and one may hang


@contextmanager
def contenders(
    contestants: Sequence[Contestant],
    driver: str,
    entries: dict[str, dict[str, Any]],
    counted: dict[str, Any],
    reasons: dict[str, str],
) -> Iterator[list[Contender]]:
    """Run all that work here; why the others do not goes to ``reasons``."""
    found = []
    with ExitStack() as stack:
        for each in contestants:
            try:
                running = contender(each, driver, entries[each.name], counted)
                found.append(stack.enter_context(running))
            except Unavailable as error:
                reasons[each.name] = str(error)
        yield found


__all__ = ["WITNESS", "Contender", "contender", "contenders", "entry", "witness"]
