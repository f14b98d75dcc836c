"""What is sent to the server: texts as plain data."""

from __future__ import annotations

import enum
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


def literal(value: Value) -> str:
    """A value written out, as in SQL."""
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        return str(value).lower()
    return "'{}'".format(value.replace("'", "''"))
