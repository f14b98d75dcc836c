"""Where cases run one after another: a server, a surgeon before it, connections through it."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Self

from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.errors import SessionLost
from django_resilient_pg.policy.token_bucket import BUCKET
from testproject.postgres import Server
from tests.cuts import requests
from tests.cuts.oracle import Marks, Outcome, Seen, judge
from tests.cuts.surgeon import HOWS, SIDES, WHERES, Cut, Side, Surgeon
from tests.cuts.units import SCHEMA, TABLE, UNITS, Kind, UnitOfWork, Work
from tests.engines import DRIVER, PATIENCE, RESILIENT, STOCK, Connections, until

#: Statements after a case.
_AFTER: Final = 2
_OTHERS: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND usename = 'app'"
    " AND backend_type = 'client backend' AND NOT pid = ANY(%s)"
)
#: Seconds before the first further attempt to connect: no case is about how long it is.
_BACKOFF: Final = 0.001
_SETTINGS: Final = {"autovacuum": "off"}
_TRUST: Final = "local all all trust\nhost all all all trust\n"
_LOGGERS: Final = ("django_resilient_pg", "psycopg", "psycopg.pool", "django.request")


@dataclass(frozen=True, slots=True)
class Series:
    """Conversations of one kind.

    Attributes:
        opened: the connection is open before a unit begins; otherwise its start-up is cut too.
        size: bytes of the pieces that TLS is cut into; 0: not over TLS, by messages.
        pooled: connections come from a pool (psycopg 3).
        again: the next connection is cut as well, at this message of the server's.
    """

    name: str
    opened: bool = True
    size: int = 0
    pooled: bool = False
    again: tuple[int, ...] = ()


SERIES: Final = (
    Series("plain"),
    Series("start", opened=False),
    Series("tls", size=41),
    *([Series("pooled", pooled=True)] if DRIVER == "psycopg" else []),
    Series("twice", again=(3, 8, 14, 17, 20)),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One unit of work, cut in one way."""

    series: Series
    unit: UnitOfWork
    cuts: tuple[Cut, ...]

    @property
    def name(self) -> str:
        """By which it is repeated."""
        return "/".join([self.series.name, self.unit.name, *map(str, self.cuts)])


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a case: the outcome, and what no guarantee allows."""

    case: Case
    outcome: Outcome
    violations: tuple[str, ...]


class Theatre:
    """One series on a server of its own.

    Raises:
        TimeoutError: a session stays at the server although nobody has it.
    """

    def __init__(self, series: Series, engine: str = RESILIENT) -> None:
        self.series, self._engine = series, engine
        self._stack = ExitStack()
        self._number = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            server = stack.enter_context(
                Server(tls=self.series.size > 0, settings={"autovacuum": "off"})
            )
            # Logging in is most of the time that a replaced connection takes.
            (server.data / "pg_hba.conf").write_text(
                "local all all trust\nhost all all all trust\n"
            )
            server.execute("SELECT pg_reload_conf()")
            for statement in SCHEMA:
                server.execute(statement, database="app")
            self._surgeon = stack.enter_context(Surgeon(server.port, size=self.series.size))
            self._connections = Connections(server)
            stack.callback(self._connections.close)
            self._admin = self._connections(STOCK, user=server.superuser, CONN_MAX_AGE=None)
            self._usual = self._through(server)
            self._asking = self._through(server, commit_outcome=True)
            stack.enter_context(_quiet())
            stack.enter_context(requests.routed())
            # The first transaction of a process asks the server who it is.
            self._measure(UNITS["atomic_that_asks"])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _through(self, server: Server, **resilience: Any) -> BaseDatabaseWrapper:
        pool: dict[str, object] = {"pool": {"min_size": 1, "max_size": 1}}
        name = server.database()["NAME"]
        made = self._connections(
            self._engine,
            database=name,
            CONN_MAX_AGE=0 if self.series.pooled else None,
            PORT=str(self._surgeon.port),
            options={"gssencmode": "disable", **(pool if self.series.pooled else {})},
            backoff=_BACKOFF,
            **resilience,
        )
        return made

    # -- cases ------------------------------------------------------------------------------

    def cases(self, unit: UnitOfWork) -> Iterator[Case]:
        """Every cut of a unit, from a run in which nothing is cut."""
        counted, _ = self._measure(unit)
        for side in SIDES:
            for message in range(1, counted[side] + 1):
                for where in WHERES:
                    for how in HOWS:
                        cut = Cut(side, message, where, how)
                        if not self.series.again:
                            yield Case(self.series, unit, (cut,))
                        for second in self.series.again if how == "rst" else ():
                            again = Cut("server", second, "after", "rst")
                            yield Case(self.series, unit, (cut, again))

    def _measure(self, unit: UnitOfWork) -> tuple[dict[Side, int], Marks]:
        marks = Marks()
        work = self._begin(unit)
        self._surgeon.plan()
        work.mark = lambda: marks.set(self._surgeon.counted())
        unit.run(work)
        counted = self._surgeon.counted()
        self._end(work.connection)
        return counted, marks

    def run(self, case: Case) -> Result:
        """Run one case and judge it."""
        _, marks = self._measure(case.unit)
        return self._perform(case, marks)

    def run_all(
        self, units: Sequence[UnitOfWork], *, one_in: int = 1, draw: random.Random | None = None
    ) -> Iterator[Result]:
        """Run the cases of these units, or a sample of them."""
        chosen = draw or random.Random(0)
        for unit in units:
            _, marks = self._measure(unit)
            until(
                lambda: self._surgeon.idle, "the proxy still forwards a connection that is closed"
            )
            held = _held()
            for case in list(self.cases(unit)):
                if one_in == 1 or chosen.randrange(one_in) == 0:
                    yield self._perform(case, marks)
            self._settle()
            if left := self._left_behind(held):
                whole = Case(self.series, unit, ())
                yield Result(whole, Outcome.HEALED, (f"left behind: {left}",))

    def _left_behind(self, held: dict[str, int]) -> dict[str, int]:
        """What is held beyond ``held`` when everything that ends has had the time to."""
        deadline = time.monotonic() + PATIENCE
        while True:
            left = {name: now - held[name] for name, now in _held().items() if now > held[name] + 2}
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.001)

    def _begin(self, unit: UnitOfWork) -> Work:
        connection = self._asking if unit.asks else self._usual
        self._number += 1
        if self.series.opened:
            connection.ensure_connection()
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        return Work(connection, f"t{self._number}", lambda: None)

    def _perform(self, case: Case, marks: Marks) -> Result:
        work = self._begin(case.unit)
        self._surgeon.plan(case.cuts)
        answer: Any = None
        error: Exception | None = None
        try:
            answer = case.unit.run(work)
        except Exception as raised:
            error = raised
        cut = self._surgeon.done
        self._surgeon.let_go()
        violations = self._use(case.unit, work)
        self._end(work.connection)
        sessions = self._settle()
        seen = Seen(answer, error, self._parts(work.token), len(work.hooks), cut)
        outcome, found = judge(case.unit, case.cuts, marks, seen)
        return Result(case, outcome, (*found, *violations, *sessions))

    def _use(self, unit: UnitOfWork, work: Work) -> list[str]:
        """The connection is usable afterwards, after ``close()`` at the latest where it says so."""
        connection = work.connection
        if connection.in_atomic_block:
            return ["the connection is left in an atomic block"]
        try:
            if unit.kind is Kind.PINNED:
                with suppress(SessionLost):
                    work.run("SELECT 1")
                connection.close()
            for _ in range(_AFTER):
                work.run("SELECT 1")
            # In an application hundreds of statements come between two losses.
            BUCKET.tokens, BUCKET.short = BUCKET.CAPACITY, False
        except Exception as error:
            return [f"unusable afterwards: {type(error).__name__}: {error}"]
        return []

    def _end(self, connection: BaseDatabaseWrapper) -> None:
        self._surgeon.plan()
        connection.close()
        if self.series.pooled:
            connection.close_pool()  # type: ignore[attr-defined]

    def _settle(self) -> list[str]:
        """Wait until the server has no session that nobody has."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._admin.cursor() as cursor:
                cursor.execute(_OTHERS, [[]])
                [(left,)] = cursor.fetchall()
            if not left:
                return []
            if time.monotonic() > deadline:
                return [f"{left} sessions stay at the server"]
            time.sleep(0.001)

    def _parts(self, token: str) -> list[int]:
        with self._admin.cursor() as cursor:
            cursor.execute(f"SELECT part FROM {TABLE} WHERE token = %s ORDER BY id", [token])
            return [part for (part,) in cursor.fetchall()]


def _held() -> dict[str, int]:
    """What a process holds that could be left behind."""
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Logs would be thousands of lines of what is meant to happen."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.disabled = was
