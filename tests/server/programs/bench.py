"""Where programs run one after another."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

from django.db.backends.base.base import BaseDatabaseWrapper

from tests.engines import DRIVER, RESILIENT, STOCK, Connections

from .language import Program, fresh
from .runner import Report, Runner
from .stage import Stage
from .texts import TENANT


class Bench:
    """Runs programs one after another on connections of one engine.

    Of this engine every other one asks the server what became of a lost COMMIT. Under psycopg 3
    every third one comes from a pool.
    """

    def __init__(self, stage: Stage, engine: str) -> None:
        self._connections = Connections(stage.server)
        self._stage, self._engine = stage, engine
        self._made: dict[tuple[bool, bool], BaseDatabaseWrapper] = {}
        self._elsewhere: BaseDatabaseWrapper | None = None
        self.met: Counter[str] = Counter()

    def connection(self, number: int) -> BaseDatabaseWrapper:
        """The one for this program, open."""
        kind = (
            self._engine == RESILIENT != STOCK and number % 2 == 1,
            # A pool waits long for those that the engine that repeats blindly has dropped.
            DRIVER == "psycopg" and self._engine in {RESILIENT, STOCK} and number % 3 == 2,
        )
        if kind not in self._made:
            self._made[kind] = self._make(asks=kind[0], pooled=kind[1])
        made = self._made[kind]
        made.ensure_connection()
        if kind[1]:  # the others of the pool stay as they are
            with closing(made.connection.cursor()) as cursor:
                cursor.execute(f"RESET {TENANT}")
        return made

    def _make(self, *, asks: bool, pooled: bool) -> BaseDatabaseWrapper:
        options: dict[str, object] = {}
        if asks:
            options["resilience"] = {"commit_outcome": True}
        if pooled:
            options["pool"] = {"min_size": 2, "max_size": 2}
        max_age = 0 if pooled else None  # Django's pools allow for no other
        return self._connections(self._engine, options=options, CONN_MAX_AGE=max_age)

    def _other(self) -> BaseDatabaseWrapper:
        """The one of the other alias, perhaps not open."""
        if self._elsewhere is None:
            assert self._stage.other is not None
            database = self._stage.other.database
            self._elsewhere = self._connections(self._engine, database=database, CONN_MAX_AGE=None)
        return self._elsewhere

    def run(self, number: int, program: Program) -> Report:
        runner = Runner(self._stage, self.connection(number), self._other)
        report = runner.run(fresh(program))
        self.met += runner.oracle.met
        if report.violation is not None or runner.stuck:
            self.close()  # what is left of it is not another program's
        return report

    def close(self) -> None:
        self._connections.close()
        self._made.clear()
        self._elsewhere = None
