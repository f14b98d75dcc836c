"""Where plays are run: each program in a thread of its own, all on connections of one alias."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from typing import Any, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.engines import NUMBERS, Connections

from .language import fresh
from .plays import MOST, Fault, Play, Reported
from .runner import Report, Runner
from .stage import Stage
from .steps import go_on
from .texts import TENANT
from .turns import AtOnce, InOrder, Turns

T = TypeVar("T")


class Company:
    """Runs plays one after another; the connections of its threads stay open.

    Args:
        entry: of DATABASES, by whether it asks what became of a lost COMMIT, and whether it is that
            of the other alias.
        faults: what may happen to all sessions, by its name.
        shares: see :class:`.steps.Steps`.
        stormy: sessions may die at any moment, without any fault.
        calm: waits until nothing more happens, so that what came of it can be looked at.
    """

    def __init__(
        self,
        stage: Stage,
        entry: Callable[[bool, bool], dict[str, Any]],
        faults: dict[str, Callable[[], object]],
        *,
        shares: bool = False,
        stormy: bool = False,
        calm: Callable[[], None] = go_on,
    ) -> None:
        self.stage, self.faults, self._shares = stage, faults, shares
        self._connections = Connections(stage.server)
        self._aliases = {
            key: self._connections.register(f"play-{next(NUMBERS)}", entry(*key)).alias
            for key in itertools.product((False, True), repeat=2)
        }
        self._threads = [ThreadPoolExecutor(1, f"program-{n}") for n in range(MOST)]
        #: Whether sessions may die at any moment.
        self.stormy = False
        self._always_stormy = stormy
        self._calm = calm
        self.runners: list[Runner] = []
        #: What came of losses, see :attr:`.oracle.Oracle.met`, and which faults there were.
        self.met: Counter[str] = Counter()
        self.turns: Turns

    # -- a play ------------------------------------------------------------------------------------

    def run(self, play: Play) -> Reported:
        """Run all of it; whatever is left of a violation is no other play's."""
        if self._shares:
            play = play.with_local_settings
        self.stormy = self._always_stormy and not play.calm
        self.runners = self._in_threads(partial(self._ready, play), len(play.programs))
        faults = {fault.turn: partial(self._happen, fault) for fault in play.faults}
        number = len(play.programs)
        self.turns = AtOnce(number, faults) if play.at_once else InOrder(number, faults, play.turns)
        self._in_threads(partial(self._perform, play), number)
        self._calm()
        if self.turns.failure is not None:
            raise self.turns.failure
        reports = self._in_threads(partial(self._report, play), number)
        found = Reported(play, reports)
        for runner in self.runners:
            self.met += runner.oracle.met
        if found.violation is not None or any(one.stuck for one in self.runners):
            self.disconnect()
        return found

    def _in_threads(self, work: Callable[[int], T], number: int) -> list[T]:
        asked = [self._threads[n].submit(work, n) for n in range(number)]
        return [one.result() for one in asked]

    def _ready(self, play: Play, number: int) -> Runner:
        connection = self._open(play.asks)
        runner = Runner(
            self.stage.beside(),
            connection,
            lambda: connections[self._aliases[play.asks, True]],
            between=lambda: self.turns.between(number),
            shares=self._shares,
        )
        runner.oracle.is_stormy = lambda: self.stormy
        runner.stage.next_program()
        return runner

    def _open(self, asks: bool) -> BaseDatabaseWrapper:
        made: BaseDatabaseWrapper = connections[self._aliases[asks, False]]
        # They may have been killed in a play in which they had no part.
        for one in (made, connections[self._aliases[asks, True]]):
            one.close()
        made.ensure_connection()
        if "pool" in made.settings_dict["OPTIONS"]:  # the others of the pool stay as they are
            with closing(made.connection.cursor()) as cursor:
                cursor.execute(f"RESET {TENANT}")
        return made

    def _perform(self, play: Play, number: int) -> None:
        self.turns.begin(number)
        try:
            self.runners[number].perform(fresh(play.programs[number]))
        finally:
            self.turns.leave(number)

    def _report(self, play: Play, number: int) -> Report:
        return self.runners[number].report(play.programs[number])

    def _happen(self, fault: Fault) -> None:
        self.met[fault.name] += 1
        self.faults[fault.name]()
        for runner in self.runners:
            runner.oracle.killed()

    # -- its end -----------------------------------------------------------------------------------

    def disconnect(self) -> None:
        """Close what the threads have open."""
        self._in_threads(self._disconnect, MOST)

    def _disconnect(self, number: int) -> None:
        for alias in self._aliases.values():
            made = connections[alias]
            del connections[alias]
            made.in_atomic_block = False  # Django would keep what was closed in a block
            with suppress(Exception):
                made.close()

    def close(self) -> None:
        """Close all."""
        self.disconnect()
        for thread in self._threads:
            thread.shutdown()
        self._connections.close()
