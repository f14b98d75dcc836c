"""Where plays are run by processes: the first program forks one for each of the others."""

from __future__ import annotations

import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.engines import NUMBERS, Connections

from .language import Program, fresh
from .ledger import Violation
from .plays import Play, Reported
from .runner import Report, Runner
from .stage import Stage, watched

#: What a fault is: nothing happens to sessions.
FORKED: Final = "a child is forked"
#: Seconds after which a child that has not ended is ended, which is a violation.
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Child:
    """A forked process, and what it will say."""

    pid: int
    answer: int
    program: Program

    def report(self) -> Report:
        """Wait for its end; what came of its program."""
        with watched(self.pid) as is_gone, open(self.answer, "rb") as pipe:
            hangs = not is_gone(PATIENCE)
            if hangs:
                os.kill(self.pid, signal.SIGKILL)
            said = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if hangs or code or not said:
            why = "did not end" if hangs else f"ended with code {code}"
            return Report(self.program, Violation("refused", f"the child {why}"), [], [])
        kind, text, trace, rows = pickle.loads(said)
        return Report(self.program, Violation(kind, text) if kind else None, trace, rows)


class Family:
    """Runs plays; a fault is the turn of the first program at which the next child is forked."""

    faults = (FORKED,)

    def __init__(self, stage: Stage, entry: Callable[[bool, bool], dict[str, Any]]) -> None:
        self.stage = stage
        self._connections = Connections(stage.server)
        self.met: Counter[str] = Counter()
        self._aliases = {
            (asks, other): self._register(entry(asks, other))
            for asks in (False, True)
            for other in (False, True)
        }

    def _register(self, entry: dict[str, Any]) -> str:
        return self._connections.register(f"family-{next(NUMBERS)}", entry).alias

    def run(self, play: Play) -> Reported:
        """Run all of it."""
        self.met[FORKED] += len(play.programs) - 1

        def reach(*, other: bool = True) -> BaseDatabaseWrapper:
            return connections[self._aliases[play.asks, other]]

        generation = _Generation(self.stage, play, reach)
        found = generation.run()
        self.met += generation.parent.oracle.met
        return found

    def close(self) -> None:
        """Close all."""
        self._connections.close()


class _Generation:
    """One play: the parent, and its children. ``reach``: the connection of an alias."""

    def __init__(self, stage: Stage, play: Play, reach: Callable[..., BaseDatabaseWrapper]) -> None:
        self._stage, self._play, self._reach = stage, play, reach
        self._children: list[Child] = []
        self._turns = 0
        self._due = sorted(fault.turn for fault in play.faults)
        self._connection.ensure_connection()
        self.parent = Runner(stage.beside(), self._connection, reach, between=self._between)

    @property
    def _connection(self) -> BaseDatabaseWrapper:
        return self._reach(other=False)

    @property
    def _unborn(self) -> int:
        return len(self._play.programs) - 1 - len(self._children)

    def run(self) -> Reported:
        program, *_ = self._play.programs
        self.parent.stage.next_program()
        self.parent.perform(fresh(program))
        report = self.parent.report(program)
        if report.violation is not None or self.parent.stuck:
            self._start_over()
        while self._unborn:
            self._bear()
        return Reported(self._play, [report, *(child.report() for child in self._children)])

    def _start_over(self) -> None:
        for connection in (self._connection, self._reach()):
            connection.in_atomic_block = False  # Django would keep what is closed in a block
            connection.close()
            del connections[connection.alias]

    def _between(self) -> None:
        self._turns += 1
        if self._unborn and self._due and self._turns > self._due[0] and _is_calm(self.parent):
            del self._due[0]
            self._bear()

    def _bear(self) -> None:
        program = self._play.programs[len(self._children) + 1]
        stage = self._stage.beside()
        stage.next_program()
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            self._live(stage, program, writer)
        os.close(writer)
        self._children.append(Child(pid, reader, program))

    def _live(self, stage: Stage, program: Program, answer: int) -> NoReturn:
        """Run a program in a child, and tell what came of it."""
        code = 1
        try:
            stage.move(stage.server)
            runner = Runner(stage, self._connection, self._reach, shares=True)
            # What was inherited is no session of its own.
            runner.oracle.world.at_risk = runner.elsewhere().oracle.world.at_risk = True
            runner.perform(fresh(program))
            report = runner.report(program)
            violation = report.violation
            kind = violation.kind if violation else ""
            text = str(violation).removeprefix(f"{kind}: ")
            with open(answer, "wb") as pipe:
                pickle.dump((kind, text, report.trace, report.rows), pipe)
            code = 0
        finally:
            os._exit(code)


def _is_calm(runner: Runner) -> bool:
    """Whether nothing is under way on either alias that would be the child's as well."""
    return all(map(_has_left, filter(None, (runner, runner.other))))


def _has_left(runner: Runner) -> bool:
    world = runner.oracle.world
    django = world.django
    return (
        world.lost is None
        and django.autocommit
        and not (django.in_atomic_block or django.hooks or django.hooks_due)
        and django.session.transaction is None
    )
