"""What a program is made of: steps as plain data, to be generated, printed, shortened and run."""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from .texts import Text, Way, Write


class By(enum.Enum):
    """Whose cursor runs a statement."""

    DJANGO = "cursor"
    #: A cursor of Django's that was opened once and is kept, over losses too.
    KEPT = "kept_cursor"
    #: The driver's, from ``connection.connection``: the engine does not see what it does.
    RAW = "raw_cursor"
    #: A cursor of Django's within a pipeline of the driver's, which psycopg2 has not. Its texts are
    #: sent one by one.
    PIPELINE = "pipelined_cursor"


@dataclass(frozen=True, slots=True)
class Run:
    """Runs one string of one or several texts."""

    by: By
    texts: tuple[Text, ...]

    def __str__(self) -> str:
        return f'{self.by.value}.execute("{"; ".join(map(str, self.texts))}")'


@dataclass(frozen=True, slots=True)
class RunMany:
    """``executemany`` with one row for each write, all done the same way."""

    by: By
    writes: tuple[Write, ...]

    def __str__(self) -> str:
        return f"{self.by.value}.executemany([{', '.join(map(str, self.writes))}])"

    @property
    def way(self) -> Way:
        return self.writes[0].way if self.writes else Way.INSERT


@dataclass(frozen=True, slots=True)
class Call:
    """Calls a method of the connection, or of the driver's (``raw_commit``, ``raw_rollback``)."""

    name: str

    def __str__(self) -> str:
        if self.name.startswith("raw_"):
            return f"connection.connection.{self.name[4:]}()"
        if self.name.startswith("savepoint_"):
            return f"connection.{self.name}(sid)  # of the last savepoint()"
        return f"connection.{self.name}" + "()" * (not self.name.endswith(")"))


@dataclass(frozen=True, slots=True)
class Hook:
    """Registers an ``on_commit`` hook."""

    key: int

    def __str__(self) -> str:
        return f"connection.on_commit(hook {self.key})"


@dataclass(frozen=True, slots=True)
class Kill:
    """An administrator ends the session; done once, also where its block runs again."""

    def __str__(self) -> str:
        return "# the session is terminated here"


@dataclass(frozen=True, slots=True)
class Fork:
    """A forked child writes a row, by Django's cursor, and is over."""

    key: int

    def __str__(self) -> str:
        return f'if not os.fork(): cursor.execute("INSERT {self.key}"), os._exit()'


@dataclass(frozen=True, slots=True)
class Block:
    """``atomic()``, or ``retry_atomic`` around a function.

    Attributes:
        kind: ``atomic``, ``durable``, ``no savepoint`` or ``rules``.
        swallows: an error of a step is swallowed inside; otherwise it leaves the block.
        leaves: the block ends with an exception of the application's own.
    """

    kind: str
    body: tuple[Step, ...]
    swallows: bool = True
    leaves: bool = False

    @property
    def head(self) -> str:
        return {
            "atomic": "with atomic():",
            "durable": "with atomic(durable=True):",
            "no savepoint": "with atomic(savepoint=False):",
            "retry": "@retry_atomic def run():",
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Does a step on the other alias, which leads to another database; there, on the first."""

    step: Step


Step: TypeAlias = Run | RunMany | Call | Hook | Kill | Fork | Block | Elsewhere
Program: TypeAlias = tuple[Step, ...]


def lines(program: Program, indent: str = "") -> Iterator[str]:
    """The program as people read it."""
    for step in program:
        if isinstance(step, Elsewhere):
            yield indent + "# on the other alias:"
            yield from lines((step.step,), indent)
            continue
        if not isinstance(step, Block):
            yield indent + str(step)
            continue
        yield indent + step.head + "  # swallows errors" * step.swallows
        yield from lines(step.body, indent + "    ")
        if step.leaves:
            yield indent + "    raise Left"
        elif not step.body:
            yield indent + "    pass"


def fresh(program: Program) -> Program:
    """A copy whose equal steps are different objects: each ends its session itself, once."""
    return copy.deepcopy(program)
