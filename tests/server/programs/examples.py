"""Programs that have broken a promise once, as short as they could be made."""

from __future__ import annotations

from typing import Final

from .language import Block, By, Call, Elsewhere, Kill, Program, Run, Step
from .texts import Control, Fate, Read, Set, Write

_BEGIN: Final = Control("BEGIN")
_COMMIT: Final = Control("COMMIT")
_ROLLBACK: Final = Control("ROLLBACK")


def _django(*texts: Write | Read | Set | Control) -> Run:
    return Run(By.DJANGO, texts)


def _raw(*texts: Write | Read | Control) -> Run:
    return Run(By.RAW, texts)


def _atomic(*body: Step) -> Block:
    return Block("atomic", body)


#: By what went wrong. Those of psycopg2 are about its own idea of a transaction.
EXAMPLES: Final[dict[str, Program]] = {
    "half a transaction": (
        _django(_BEGIN),
        _django(Write(1)),
        Kill(),
        _raw(Read()),
        _django(Write(2)),
        _django(_COMMIT),
    ),
    "a lost transaction, committed by text": (
        _django(_BEGIN),
        _django(Write(1)),
        Kill(),
        _raw(Read()),
        _django(_COMMIT),
    ),
    "a lost transaction, committed by call": (
        _django(_BEGIN),
        _django(Write(1)),
        Kill(),
        _raw(Read()),
        Call("commit"),
    ),
    "a setting that the driver has committed, and a transaction of its own that is lost": (
        _atomic(
            _django(Set("green")),
            Call("raw_commit"),
            _raw(Write(1)),
            _django(Write(2, Fate.COMMIT)),
        ),
        _raw(Read()),
    ),
    "a transaction that a refused call has hidden": (
        _django(_BEGIN),
        _django(Write(1)),
        Call("set_autocommit(False)"),
        Kill(),
        _raw(Read()),
        _django(Write(2)),
        _django(_COMMIT),
    ),
    "psycopg2: a health check within atomic() lets it commit what a text has begun": (
        _raw(_BEGIN),
        _django(Write(1)),
        _atomic(Call("is_usable")),
        Call("close"),
    ),
    "psycopg2: a write outside of a transaction that a raw text has ended": (
        _atomic(_raw(_ROLLBACK), _django(Write(1, Fate.ANSWER))),
    ),
    "psycopg2: the same with autocommit off": (
        Call("set_autocommit(False)"),
        _raw(_ROLLBACK),
        _django(Write(1, Fate.ANSWER)),
        _django(_COMMIT),
    ),
    "psycopg2: a setting outside of a transaction that a text has ended": (
        _atomic(_django(_COMMIT), _django(Set("red"))),
        Kill(),
        _django(Read()),
    ),
    "psycopg2: the same, by a raw text": (
        _atomic(_raw(_COMMIT), _django(Set("red"))),
        Kill(),
        _django(Read()),
    ),
    "psycopg2: BEGIN as text, committed by an empty block": (
        _django(_BEGIN),
        _django(Write(1)),
        _atomic(),
    ),
    "a transaction begun by text that a block has not ended": (
        _django(_BEGIN),
        _atomic(),
        Kill(),
        _raw(_BEGIN),
        _django(Read()),
    ),
    "a transaction begun by text and ended past Django": (
        _django(_BEGIN),
        _raw(_COMMIT),
        Call("set_autocommit(False)"),
        _django(Write(1, Fate.COMMIT)),
        Call("commit"),
        Call("commit"),
        _django(Read()),
    ),
    "a transaction open elsewhere, begun past Django's cursors": (
        _atomic(
            Elsewhere(Block("retry", (Elsewhere(_raw(Write(1))), _django(Write(2, Fate.COMMIT)))))
        ),
    ),
}
