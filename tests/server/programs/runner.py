"""Runs a program on a real connection, with the oracle beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.transaction import retry_atomic

from .blocks import Enter, Exit, Rerun
from .calls import OnCommit
from .language import Block, By, Call, Elsewhere, Fork, Hook, Kill, Program, Run, RunMany, Step
from .ledger import Violation
from .steps import Steps, go_on
from .texts import Read


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
class Runner(Steps):
    """Runs one program.

    Errors that programs swallow are those that applications see as errors of the database: all but
    the interpreter's own.
    """

    #: Makes the connection of the other alias.
    reach: Callable[[], BaseDatabaseWrapper]
    other: Runner | None = None

    @property
    def stuck(self) -> bool:
        return self._django.stuck or (self.other is not None and self.other._django.stuck)

    def run(self, program: Program) -> Report:
        self.stage.next_program()
        self.perform(program)
        return self.report(program)

    def perform(self, program: Program) -> None:
        """Do its steps."""
        self._run_all(program, swallows=True)

    def report(self, program: Program) -> Report:
        """What came of it, once nothing more happens."""
        self.between = go_on
        rows = self._finish()
        violation = self.oracle.violation
        if self.other is not None:
            rows += self.other._finish()
            violation = violation or self.other.oracle.violation
        return Report(program, violation, self.oracle.trace, sorted(rows.elements()))

    def _finish(self) -> Counter[int]:
        usable = not self._django.stuck
        if usable:
            self._step(Call("close"), swallows=True)
        rows = self.stage.rows()
        self.oracle.check(lambda ledger: ledger.check(rows))
        self.oracle.check(lambda _: self._check_hooks())
        self.oracle.check(lambda _: self._check_notes())
        if usable:  # and it knows nothing of what was
            self._step(Run(By.DJANGO, (Read(),)), swallows=True)
        return rows

    def _check_hooks(self) -> None:
        ran, expected = self._application.hooks, self._django.ran
        if ran != expected:
            raise Violation("hook", f"hooks that ran: {ran}, expected: {expected}")

    def _check_notes(self) -> None:
        if altered := self.stage.altered():
            raise Violation("altered", f"rows {altered} hold something else than was given")

    # -- steps -------------------------------------------------------------------------------------

    def _run_all(self, steps: Iterable[Step], *, swallows: bool) -> None:
        for step in steps:
            if self._django.stuck:
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
            case Run() | RunMany():
                self._statement(step)
            case Call(name):
                self._call(name)
            case Hook(key):
                self._observe(OnCommit(key), lambda: self._application.on_commit(key))
            case Kill():
                self._kill(step)
            case Fork(key):
                self._fork(key)
            case Block(kind="retry"):
                self._retry(step)
            case Block():
                self._atomic(step)
            case Elsewhere(inner):
                self.oracle.met["elsewhere"] += 1
                self.elsewhere()._run_all((inner,), swallows=False)

    def elsewhere(self) -> Runner:
        """The one of the other alias."""
        if self.other is None:
            assert self.stage.other is not None
            self.other = Runner(
                self.stage.other,
                self.reach(),
                self.reach,
                other=self,
                between=lambda: self.between(),
                shares=self.shares,
            )
            oracle = self.other.oracle
            oracle.trace, oracle.where = self.oracle.trace, "on the other alias: "
            oracle.is_stormy = self.oracle.is_stormy
        return self.other

    # -- blocks ------------------------------------------------------------------------------------

    def _body(self, block: Block) -> None:
        self._run_all(block.body, swallows=block.swallows)
        if block.leaves:
            raise Left

    def _exit(self, block: Block, *, failed: bool) -> Exit:
        return Exit(block.kind, failed, lambda: self.connection.needs_rollback)

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
            self._observe(self._exit(block, failed=True), lambda: atomic.__exit__(*way_out))
            raise
        self._observe(self._exit(block, failed=False), lambda: atomic.__exit__(None, None, None))

    def _retry(self, block: Block) -> None:
        own: list[Exception | None] = []  # of each run, how its body was left
        before = self._losses_elsewhere

        def run() -> None:
            again = Rerun(self._losses_elsewhere > before)
            self._observe(again if own else Enter("retry"), lambda: None)
            own.append(None)
            try:
                self._body(block)
            except Exception as error:
                own[-1] = error
                raise

        result = _attempt(lambda: self._with_retries(run))
        last = own[-1] if own else None
        if not own:
            self._observe(Enter("retry"), lambda: _give(result))
        elif last is not None and result is last:
            self._observe(self._exit(block, failed=True), lambda: None)
            raise last
        else:
            self._observe(self._exit(block, failed=last is not None), lambda: _give(result))

    @property
    def _losses_elsewhere(self) -> int:
        return 0 if self.other is None else self.other.oracle.losses

    def _with_retries(self, function: Callable[[], None]) -> None:
        if self._django.own_engine:
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
