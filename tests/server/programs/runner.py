"""Runs a program on a real connection, with the oracle beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.transaction import retry_atomic
from tests.engines import DRIVER, STOCK

from .blocks import Enter, Exit, Rerun
from .calls import Called, Closed, OnCommit
from .events import Statement
from .language import Block, By, Call, Hook, Kill, Program, Read, Run, RunMany, Step, Text, Write
from .ledger import Ledger, Violation
from .oracle import Oracle, World
from .postgres import Session
from .stack import Django, Driver
from .stage import Stage, backend_pid


class Left(Exception):
    """The application's own: it leaves a block with it."""


@dataclass(slots=True)
class Report:
    """What came of one program."""

    program: Program
    violation: Violation | None
    trace: list[str]
    rows: list[int]


@dataclass(slots=True)
class Runner:
    """Runs one program.

    Errors that programs swallow are those that applications see as errors of the database: all but
    the interpreter's own.
    """

    stage: Stage
    connection: BaseDatabaseWrapper
    oracle: Oracle = field(init=False)
    _kept: tuple[int, Any] | None = None  # a cursor, and when it was opened
    _savepoint: str | None = None
    _hooks: list[int] = field(default_factory=list)
    # Sessions that are to die, each once, by the step that ends them.
    _victims: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own_engine = self.connection.settings_dict["ENGINE"] != STOCK
        driver = Driver(Session(Ledger()), remembers=DRIVER == "psycopg2")
        connected = self.connection.connection is not None
        self.oracle = Oracle(World(Django(driver, own_engine, connected)))

    def run(self, program: Program) -> Report:
        self.stage.next_program()
        self._run_all(program, swallows=True)
        usable = not self.oracle.world.django.stuck
        if usable:
            self._step(Call("close"), swallows=True)
        rows = self.stage.rows()
        self.oracle.check(lambda ledger: ledger.check(rows))
        self.oracle.check(lambda ledger: self._check_hooks())
        if usable:  # and it knows nothing of what was
            self._step(Run(By.DJANGO, (Read(),)), swallows=True)
        return Report(program, self.oracle.violation, self.oracle.trace, sorted(rows.elements()))

    def _check_hooks(self) -> None:
        expected = self.oracle.world.django.ran
        if self._hooks != expected:
            raise Violation("hook", f"hooks that ran: {self._hooks}, expected: {expected}")

    # -- steps -------------------------------------------------------------------------------------

    def _run_all(self, steps: Iterable[Step], *, swallows: bool) -> None:
        for step in steps:
            if self.oracle.world.django.stuck:
                return
            self._step(step, swallows=swallows)

    def _step(self, step: Step, *, swallows: bool) -> None:
        try:
            self._dispatch(step)
        except Exception:
            if not swallows:
                raise

    def _dispatch(self, step: Step) -> None:
        match step:
            case Run(by, texts):
                if by is not By.RAW or self.connection.connection is not None:
                    victim = self._victim(step)
                    statement = Statement(by, texts)
                    self._observe(statement, lambda: self._execute(by, texts, victim))
            case RunMany(by, writes):
                if by is not By.RAW or self.connection.connection is not None:
                    victim = self._victim(step)
                    statement = Statement(by, writes, many=True)
                    self._observe(statement, lambda: self._execute_many(by, writes, victim))
            case Call(name):
                self._call(name)
            case Hook(key):
                self._observe(OnCommit(key), lambda: self._on_commit(key))
            case Kill():
                self._kill(step)
            case Block(kind="retry"):
                self._retry(step)
            case Block():
                self._atomic(step)

    def _observe(self, event: Any, act: Callable[[], Any]) -> Any:
        return self.oracle.observe(event, act)

    def _victim(self, step: Step) -> int:
        """The process that dies of a step: the one that is there when it runs first."""
        return self._victims.setdefault(id(step), backend_pid(self.connection))

    def _kill(self, step: Kill) -> None:
        if id(step) in self._victims:
            return
        if (pid := self._victim(step)) and self.stage.kill(pid):
            self.oracle.killed()

    # -- statements --------------------------------------------------------------------------------

    def _execute(self, by: By, texts: tuple[Text, ...], victim: int) -> Any:
        if len(texts) == 1 and by is not By.RAW:
            sql, parameters = self.stage.sql(texts[0], victim)
        else:
            sql, parameters = self.stage.string(texts, victim), []
        return self._with_cursor(by, lambda cursor: self._run_one(cursor, sql, parameters, texts))

    def _run_one(self, cursor: Any, sql: str, parameters: list[object], texts: Any) -> Any:
        cursor.execute(sql, parameters or None)
        if len(texts) == 1 and isinstance(texts[0], Read):
            return self.stage.seen(cursor.fetchone())
        return None

    def _execute_many(self, by: By, writes: tuple[Write, ...], victim: int) -> None:
        rows = [self.stage.sql(write, victim)[1] for write in writes]
        sql, _ = self.stage.sql(Write(0), victim)
        self._with_cursor(by, lambda cursor: cursor.executemany(sql, rows))

    def _with_cursor(self, by: By, use: Callable[[Any], Any]) -> Any:
        if by is By.KEPT:
            starts = self.oracle.world.django.starts
            if self._kept is None or self._kept[0] != starts:
                self._kept = starts, self.connection.cursor()
            return use(self._kept[1])
        owner: Any = self.connection if by is By.DJANGO else self.connection.connection
        with closing(owner.cursor()) as cursor:
            return use(cursor)

    # -- calls -------------------------------------------------------------------------------------

    def _call(self, name: str) -> None:
        if name.startswith("raw_"):
            driver: Any = self.connection.connection
            if driver is not None:
                self._observe(Called(name), getattr(driver, name[4:]))
        elif name.startswith("savepoint_"):
            if self._savepoint is not None:
                method = getattr(self.connection, name)
                self._observe(Called(name), lambda: method(self._savepoint))
        elif name == "savepoint":
            self._observe(Called(name), self._make_savepoint)
        elif name == "close_if_unusable_or_obsolete":
            event = Closed(lambda: self.connection.connection is None)
            self._observe(event, self.connection.close_if_unusable_or_obsolete)
        else:
            self._observe(Called(name), lambda: self._method(name))

    def _method(self, name: str) -> Any:
        if name.startswith("set_autocommit"):
            self.connection.set_autocommit("True" in name)
            return None
        return getattr(self.connection, name)()

    def _make_savepoint(self) -> None:
        self._savepoint = self.connection.savepoint() or self._savepoint

    def _on_commit(self, key: int) -> None:
        self.connection.on_commit(lambda: self._hooks.append(key))

    # -- blocks ------------------------------------------------------------------------------------

    def _body(self, block: Block) -> None:
        self._run_all(block.body, swallows=block.swallows)
        if block.leaves:
            raise Left

    def _atomic(self, block: Block) -> None:
        atomic: Any = transaction.atomic(
            using=self.connection.alias,
            savepoint=block.kind != "no savepoint",
            durable=block.kind == "durable",
        )
        self._observe(Enter(block.kind), atomic.__enter__)
        try:
            self._body(block)
        except Exception as error:
            way_out = (type(error), error, error.__traceback__)
            self._observe(Exit(block.kind, failed=True), lambda: atomic.__exit__(*way_out))
            raise
        self._observe(Exit(block.kind, failed=False), lambda: atomic.__exit__(None, None, None))

    def _retry(self, block: Block) -> None:
        runs: list[BaseException | None] = []

        def run() -> None:
            self._observe(Rerun() if runs else Enter("retry"), lambda: None)
            runs.append(None)
            try:
                self._body(block)
            except Exception as error:
                runs[-1] = error
                raise

        result = _attempt(lambda: self._run_again(run))
        if not runs:
            self._observe(Enter("retry"), lambda: _give(result))
        elif runs[-1] is not None and result is runs[-1]:
            self._observe(Exit("retry", failed=True), lambda: None)
            raise runs[-1]
        else:
            self._observe(Exit("retry", failed=runs[-1] is not None), lambda: _give(result))

    def _run_again(self, function: Callable[[], None]) -> None:
        if self.oracle.world.django.own_engine:
            retry_atomic.run(function, using=self.connection.alias)
            return
        if not self.connection.get_autocommit():
            raise RuntimeError("retry_atomic would not run while autocommit is off")
        with transaction.atomic(using=self.connection.alias, durable=True):
            function()


def _attempt(act: Callable[[], None]) -> Exception | None:
    try:
        act()
    except Exception as error:
        return error
    return None


def _give(error: Exception | None) -> None:
    if error is not None:
        raise error
