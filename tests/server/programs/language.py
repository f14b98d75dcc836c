"""What a program is made of: steps as plain data, to be generated, printed, shortened and run."""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

#: The setting whose value decides what a session may see.
TENANT: Final = "app.tenant"


#: Values that look like SQL, or like what drivers and the engine look for in it.
HOSTILE: Final = (
    "'; COMMIT; --",
    "%s",
    "BEGIN",
    "100 %(id)s; ROLLBACK",
    "$$; SELECT set_config('app.tenant', 'x', false) /*",
    "\\'\"; INSERT INTO effects VALUES (0)",
)


Value: TypeAlias = str | int | None


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


class Fate(enum.Enum):
    """When a write ends its own session. The server does it, so it is certain."""

    EARLY = "early"  # while the statement runs, which has no effect
    COMMIT = "commit"  # while its transaction commits, which has no effect
    ANSWER = "answer"  # once its transaction has committed, before the client is told
    AFTER = "after"  # once the client was told


class Way(enum.Enum):
    """How a write is done. All but the first look like reads: what they call does it."""

    INSERT = "INSERT"
    FUNCTION = "SELECT put"
    DOMAIN = "SELECT domain"  # a cast to a domain, whose CHECK writes
    CAST = "SELECT cast"  # a cast whose function writes
    AGGREGATE = "SELECT keep"  # an aggregate whose transition function writes


# -- texts -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Inserts one row; ``key`` is its number within the program, ``note`` what else it holds."""

    key: int
    fate: Fate | None = None
    way: Way = Way.INSERT
    note: str = ""

    def __str__(self) -> str:
        fate = "" if self.fate is None else f" /* ends its session: {self.fate.value} */"
        return f"{self.way.value} {self.key}{f' {self.note!r}' * bool(self.note)}{fate}"


@dataclass(frozen=True, slots=True)
class Read:
    """Returns the tenant, the program's rows and ``note``; may end its own session, once."""

    dies: bool = False
    note: str = ""

    def __str__(self) -> str:
        ends = " /* ends its session */" * self.dies
        return f"SELECT tenant, rows{f', {self.note!r}' * bool(self.note)}{ends}"


@dataclass(frozen=True, slots=True)
class Set:
    """Sets the tenant, as a statement or by ``set_config``; ``None``: resets it."""

    value: str | None
    local: bool = False
    call: bool = False

    def __str__(self) -> str:
        if self.value is None:
            return f"RESET {TENANT}"
        if self.call:
            return f"SELECT set_config('{TENANT}', {literal(self.value)}, {literal(self.local)})"
        return f"SET {'LOCAL ' * self.local}{TENANT} = {literal(self.value)}"


@dataclass(frozen=True, slots=True)
class Control:
    """Controls a transaction: ``words`` and, for a savepoint, its name."""

    words: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.words} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class Fail:
    """Fails at the server, whatever the connection does."""

    def __str__(self) -> str:
        return "SELECT 1/0"


Text: TypeAlias = Write | Read | Set | Control | Fail

# -- steps -----------------------------------------------------------------------------------------


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
        kind: ``atomic``, ``durable``, ``no savepoint`` or ``retry``.
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


def literal(value: Value) -> str:
    """A value written out, as in SQL."""
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        return str(value).lower()
    return "'{}'".format(value.replace("'", "''"))


def fresh(program: Program) -> Program:
    """A copy whose equal steps are different objects: each ends its session itself, once."""
    return copy.deepcopy(program)
