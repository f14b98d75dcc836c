"""Where programs run one after another."""

from __future__ import annotations

from collections import Counter

from django.db.backends.base.base import BaseDatabaseWrapper

from tests.engines import RESILIENT, STOCK, Connections

from .language import Program, fresh
from .runner import Report, Runner
from .stage import Stage


class Bench:
    """Runs programs one after another on connections of one engine.

    Of this engine every other one asks the server what became of a lost COMMIT.
    """

    def __init__(self, stage: Stage, engine: str) -> None:
        self._connections = Connections(stage.server)
        self._stage, self._engine = stage, engine
        self._made: dict[bool, BaseDatabaseWrapper] = {}
        self.met: Counter[str] = Counter()

    def connection(self, number: int) -> BaseDatabaseWrapper:
        """The one for this program, open."""
        asks = self._engine == RESILIENT != STOCK and number % 2 == 1
        if asks not in self._made:
            options = {"resilience": {"commit_outcome": True}} if asks else {}
            made = self._connections(self._engine, options=options, CONN_MAX_AGE=None)
            self._made[asks] = made
        self._made[asks].ensure_connection()
        return self._made[asks]

    def run(self, number: int, program: Program) -> Report:
        runner = Runner(self._stage, self.connection(number))
        report = runner.run(fresh(program))
        self.met += runner.oracle.met
        if report.violation is not None or runner.oracle.world.django.stuck:
            self.close()  # what is left of it is not another program's
        return report

    def close(self) -> None:
        self._connections.close()
        self._made.clear()
