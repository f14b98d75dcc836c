"""What a statement has set for its transaction alone, so that another one can be given the same."""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .lexer import ESCAPED_NAME, bare, fold
from .memory import LONGEST, remembered
from .settings import ASCII, EXACT, UNKNOWN, arguments, is_temporary, items_of, kept, setting_of

_MODE = (
    r"(?:ISOLATION\s+LEVEL\s+(?:SERIALIZABLE|REPEATABLE\s+READ|READ\s+(?:UN)?COMMITTED)"
    r"|READ\s+(?:WRITE|ONLY)|(?:NOT\s+)?DEFERRABLE)"
)
# Not SNAPSHOT: another server may have another one of that name.
_SET_TRANSACTION = re.compile(rf"SET\s+TRANSACTION\s+{_MODE}(?:(?:\s*,\s*|\s+){_MODE})*", ASCII)
_ALL_CONSTRAINTS = re.compile(r"SET\s+CONSTRAINTS\s+ALL\s+(?:DEFERRED|IMMEDIATE)", ASCII)
_SET_LOCAL = re.compile(r"SET\s+LOCAL\s+(?!\s*(?:\.|=|TO\b))", ASCII)
_OF_TRANSACTION: Final = "transaction_"
# What is set by them does not end with the transaction, or changes how texts are to be read.
_NOT_LOCAL: Final = frozenset({"seed", "standard_conforming_strings"})
_MOST_PARAMETERS: Final = 20
_LITERALLY: Final = frozenset(
    {str, int, float, bool, type(None), decimal.Decimal, uuid.UUID}
    | {datetime.date, datetime.datetime}
)


@dataclass(frozen=True, slots=True)
class Local:
    """A statement that only sets something for its transaction: another one can be given the same.

    Attributes:
        sql: its text.
        params: its parameters, ``None`` for none.
        words: what people are told; never a value.
        of_transaction: it sets the mode of the transaction itself.
    """

    sql: str = field(repr=False)
    params: Any = field(repr=False)
    words: str
    of_transaction: bool = False


def local_of(text: str, params: Any) -> Local | None:
    """What a statement has set for its transaction, if that is all it did.

    Args:
        text: without backslashes.
        params: what went with it.
    """
    if params is None:
        return _local_of_text(text)
    if isinstance(params, (list, tuple, Mapping)) and len(params) > _MOST_PARAMETERS:
        return None
    given = kept(params, _is_literal)
    return None if given is UNKNOWN else _local(text, given)


@remembered
def _local_of_text(text: str) -> Local | None:
    """Of a text without parameters; the same object each time."""
    return _local(text, None)


def _local(text: str, given: Any) -> Local | None:
    words = _local_words(text)
    if words:
        of_transaction = words.startswith(("SET TRANSACTION", f"SET LOCAL {_OF_TRANSACTION}"))
        temporary = is_temporary(text, given)
        return None if temporary else Local(text, given, words, of_transaction)
    whole = bare(text, strings=True).strip().rstrip("; \t\r\n")
    words = _locally_configured(whole, given)
    return Local(text, given, words) if words else None


@remembered
def _local_words(text: str) -> str:
    """What a SET for the transaction alone is called, or ""."""
    plain = bare(text).strip().rstrip("; \t\r\n")
    if ";" in plain or "\x00" in text or ESCAPED_NAME.search(plain) is not None:
        return ""
    if _SET_TRANSACTION.fullmatch(plain):
        return "SET TRANSACTION"
    if _ALL_CONSTRAINTS.fullmatch(plain):
        return "SET CONSTRAINTS ALL"
    match = _SET_LOCAL.match(plain)
    name = "" if match is None else setting_of(f"SET {plain[match.end() :]}")
    return f"SET LOCAL {name}" if name and " " not in name and name not in _NOT_LOCAL else ""


def _locally_configured(whole: str, params: Any) -> str:
    """The words of a ``SELECT set_config(..., true)`` that does nothing else, or ""."""
    names = []
    for name, value, local in arguments(items_of(whole), params) or ():
        if type(name) is not str or type(value) not in EXACT or local is not True:
            return ""
        name = fold(name)
        if name in _NOT_LOCAL or name.startswith(_OF_TRANSACTION) or is_temporary(str(value)):
            return ""
        names.append(name)
    return f"set_config {', '.join(names)}" if names else ""


def _is_literal(value: Any) -> bool:
    """Whether a driver makes the same of a value each time."""
    return type(value) in _LITERALLY and not (type(value) is str and len(value) > LONGEST)
