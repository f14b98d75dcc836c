"""What a statement makes of the session it runs in, as far as its text says so for certain. Pure.

Read when a statement that is not known to be harmless has succeeded. What is recognised can be
done again on a new session; what is not recognised pins the old one: nothing is guessed.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .memory import LONGEST, remembered
from .statements import ESCAPED_NAME, analyse, bare, fold

RESET_ALL: Final = "reset all"
DISCARD_ALL: Final = "discard all"
ROLE: Final = "role"
AUTHORIZATION: Final = "session_authorization"
#: What RESET ALL leaves as it was (PostgreSQL manual, RESET).
SURVIVES_RESET: Final = frozenset({ROLE, AUTHORIZATION, DISCARD_ALL})

#: A value may be a part of what it says ('German', 'DMY'): those before count as well.
IN_PARTS: Final = frozenset({"datestyle"})

#: Not the name of a setting: words that pin, if the transaction they came in is committed.
PIN: Final = "pin"

#: How what pins a session can end, other than with the session itself: not at all (the name of a
#: seed may be hidden in it, or of a library); by DISCARD ALL; by UNLISTEN * as well; by
#: pg_advisory_unlock_all() as well. A lock that is known by its numbers has a kind of its own,
#: which begins with LOCKED.
UNTIL_CLOSE: Final = ""
UNTIL_DISCARD: Final = "until discard"
LISTENING: Final = "listening"
LOCKED: Final = "locked"

_PATH: Final = "search_path"
_TEMPORARY_PATH: Final = "search_path with pg_temp"
_MADE: Final = ("CREATE ", "SELECT INTO ")
_EXACT: Final = (str, int, uuid.UUID, type(None))
_PLAIN: Final = (str, int, float, bool, decimal.Decimal, uuid.UUID, datetime.date, type(None))
# The server folds letters, and skips blanks, of ASCII only.
_ASCII: Final = re.IGNORECASE | re.ASCII
_IDENT = r'(?:"(?:[^"]|"")+"|[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)'
_NAME = rf"(?P<name>{_IDENT}(?:\s*\.\s*{_IDENT})*)"
# Aliases of the grammar (PostgreSQL manual, SET) and the parameter each stands for.
_SPECIAL: Final = (
    (re.compile(r"(?:SET(?:\s+SESSION)?|RESET)\s+TIME\s+ZONE\b", _ASCII), "timezone"),
    (
        re.compile(r"(?:SET(?:\s+SESSION)?|RESET)\s+SESSION\s+AUTHORIZATION\b", _ASCII),
        AUTHORIZATION,
    ),
    (re.compile(r"SET(?:\s+SESSION)?\s+ROLE\s+(?!TO\b|=|\.)", _ASCII), ROLE),
    (re.compile(r"SET(?:\s+SESSION)?\s+SCHEMA\s+(?!TO\b|=|\.)", _ASCII), "search_path"),
    (re.compile(r"SET(?:\s+SESSION)?\s+NAMES\b(?!\s*(?:TO\b|=|\.))", _ASCII), "client_encoding"),
    (re.compile(r"SET(?:\s+SESSION)?\s+XML\s+OPTION\b", _ASCII), "xmloption"),
    (re.compile(r"RESET\s+ALL\Z", _ASCII), RESET_ALL),
    (re.compile(r"DISCARD\s+ALL\Z", _ASCII), DISCARD_ALL),
)
_SET = re.compile(rf"SET\s+(?:SESSION\s+(?!TO\b|=))?{_NAME}\s*(?:=|\bTO\b)", _ASCII)
_RESET = re.compile(rf"RESET\s+{_NAME}\s*\Z", _ASCII)
_CHARACTERISTICS = re.compile(r"SET\s+SESSION\s+CHARACTERISTICS\s+AS\s+TRANSACTION\b", _ASCII)
_MODE = (
    r"(?:ISOLATION\s+LEVEL\s+(?:SERIALIZABLE|REPEATABLE\s+READ|READ\s+(?:UN)?COMMITTED)"
    r"|READ\s+(?:WRITE|ONLY)|(?:NOT\s+)?DEFERRABLE)"
)
# Not SNAPSHOT: another server may have another one of that name.
_SET_TRANSACTION = re.compile(rf"SET\s+TRANSACTION\s+{_MODE}(?:(?:\s*,\s*|\s+){_MODE})*", _ASCII)
_ALL_CONSTRAINTS = re.compile(r"SET\s+CONSTRAINTS\s+ALL\s+(?:DEFERRED|IMMEDIATE)", _ASCII)
_SET_LOCAL = re.compile(r"SET\s+LOCAL\s+(?!\s*(?:\.|=|TO\b))", _ASCII)
_OF_TRANSACTION: Final = "transaction_"
# What is set by them does not end with the transaction, or changes how texts are to be read.
_NOT_LOCAL: Final = frozenset({"seed", "standard_conforming_strings"})
_MOST_PARAMETERS: Final = 20
_LITERALLY: Final = frozenset(
    {
        str,
        int,
        float,
        bool,
        decimal.Decimal,
        uuid.UUID,
        datetime.date,
        datetime.datetime,
        type(None),
    }
)
# They take from a session what a new one has not got.
_NOTHING = re.compile(
    r"DISCARD\s+(?:PLANS|SEQUENCES|TEMP|TEMPORARY)\Z|(?:CLOSE|UNLISTEN|DEALLOCATE)\b", _ASCII
)
_LISTEN = re.compile(rf"LISTEN\s+{_IDENT}", _ASCII)
_UNLISTEN_ALL = re.compile(r"UNLISTEN\s*\*", _ASCII)
# DISCARD ALL leaves them as they are, or may.
_LASTING = re.compile(r"\bload\b|\bseed\b|setseed|set_config|\\", _ASCII)
# Setting it starts a sequence of random numbers, which would start again.
_IRREPRODUCIBLE: Final = frozenset({"seed"})

# Released, but nobody knows which one: nothing is unpinned by it, and nothing pinned.
_NO_LOCK: Final = f"{LOCKED} ?"

_BOOLEANS: Final = {"t": True, "true": True, "f": False, "false": False}

_HOLDER = r"%s|%\(\w+\)s"
_LITERAL = r"'(?:[^'%]|'')*'"
_CAST = r"(?:\s*::\s*(?:text|varchar))?"
_ALIAS = rf"(?:\s+AS\s+{_IDENT})?"
_ITEM = re.compile(
    rf"(?:pg_catalog\s*\.\s*)?set_config\s*\(\s*(?P<name>{_HOLDER}|{_LITERAL}){_CAST}\s*,"
    rf"\s*(?P<value>{_HOLDER}|{_LITERAL}|NULL){_CAST}\s*,"
    rf"\s*(?P<local>{_HOLDER}|true|false|'(?:true|false|t|f)')(?:\s*::\s*bool(?:ean)?)?\s*\)"
    + _ALIAS,
    _ASCII,
)
_CONFIGS = re.compile(
    re.sub(r"\?P<\w+>", "?:", rf"SELECT\s+{_ITEM.pattern}(?:\s*,\s*{_ITEM.pattern})*"), _ASCII
)
_INTEGER = r"(?:\s*::\s*(?:bigint|integer|int[48]?))?\s*"
_ADVISORY = re.compile("advisory", _ASCII)
_ONE_LOCK = re.compile(
    r"SELECT\s+(?:pg_catalog\s*\.\s*)?pg_(?:try_)?advisory_(?P<way>lock|unlock)(?P<shared>_shared)?"
    rf"\s*\(\s*(?P<first>{_HOLDER}|-?[0-9]+){_INTEGER}"
    rf"(?:,\s*(?P<second>{_HOLDER}|-?[0-9]+){_INTEGER})?\){_ALIAS}",
    _ASCII,
)
_UNLOCK_ALL = re.compile(
    rf"SELECT\s+(?:pg_catalog\s*\.\s*)?pg_advisory_unlock_all\s*\(\s*\){_ALIAS}", _ASCII
)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One statement that gives a setting a value, or takes it away.

    Attributes:
        name: of the setting, lower case; :data:`RESET_ALL` and :data:`DISCARD_ALL` are no names.
        sql: what does it again, as the driver takes it.
        params: its parameters, ``None`` for none.
        words: what people are told; never a value.
    """

    name: str
    # Not shown: what is set may be a secret.
    sql: Any = field(repr=False)
    params: Sequence[Any] | Mapping[str, Any] | None = field(repr=False)
    words: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What a statement leaves behind: settings to make again, or words that pin, or nothing.

    ``controls``: see :class:`.statements.Statement`. ``passes``: what pins goes with its
    transaction if that is rolled back. ``kind``: how what pins can end. ``frees``: the kind of
    what has ended.
    """

    assignments: tuple[Assignment, ...] = ()
    pins: str = ""
    controls: bool = False
    passes: bool = False
    kind: str = UNTIL_CLOSE
    frees: str = ""


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
    kept = _kept_literally(params)
    return None if kept is _UNKNOWN else _local(text, kept)


@remembered
def _local_of_text(text: str) -> Local | None:
    """Of a text without parameters; the same object each time."""
    return _local(text, None)


def _local(text: str, kept: Any) -> Local | None:
    words = _local_words(text)
    if words:
        of_transaction = words.startswith(("SET TRANSACTION", f"SET LOCAL {_OF_TRANSACTION}"))
        temporary = _is_temporary(text, kept)
        return None if temporary else Local(text, kept, words, of_transaction)
    whole = bare(text, strings=True).strip().rstrip("; \t\r\n")
    words = _locally_configured(whole, kept) if _CONFIGS.fullmatch(whole) else ""
    return Local(text, kept, words) if words else None


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
    name = "" if match is None else _setting(f"SET {plain[match.end() :]}")
    return f"SET LOCAL {name}" if name and " " not in name and name not in _NOT_LOCAL else ""


def _locally_configured(whole: str, params: Any) -> str:
    """The words of a ``SELECT set_config(..., true)`` that does nothing else, or ""."""
    names = []
    positional = iter(params if isinstance(params, tuple) else ())
    for one in _ITEM.finditer(whole):
        texts = (one["name"], one["value"], one["local"])
        name, value, local = (_value(text, positional, params) for text in texts)
        if isinstance(local, str):
            local = _BOOLEANS.get(local.lower())
        if type(name) is not str or type(value) not in _EXACT or local is not True:
            return ""
        name = fold(name)
        if name in _NOT_LOCAL or name.startswith(_OF_TRANSACTION) or _is_temporary(str(value)):
            return ""
        names.append(name)
    # One of them went into a comment: which one went where is not certain.
    whole_list = next(positional, _UNKNOWN) is _UNKNOWN
    return f"set_config {', '.join(names)}" if whole_list else ""


def _kept_literally(params: Any) -> Any:
    """A copy of parameters which a driver makes the same of each time, or ``_UNKNOWN``."""
    if params is None:
        return None
    if not isinstance(params, (list, tuple, dict)) or len(params) > _MOST_PARAMETERS:
        return _UNKNOWN
    for value in params.values() if isinstance(params, dict) else params:
        if type(value) not in _LITERALLY or (type(value) is str and len(value) > LONGEST):
            return _UNKNOWN
    return dict(params) if isinstance(params, dict) else tuple(params)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the text alone says; ``settings`` names it if it is a SET or RESET.

    ``lock``: "lock" or "unlock", "_shared" or "", and one or two numbers.
    """

    pins: str = ""
    setting: str = ""
    words: str = ""
    configs: tuple[tuple[str, str, str], ...] = ()
    controls: bool = False
    passes: bool = False
    kind: str = UNTIL_CLOSE
    frees: str = ""
    lock: tuple[str, ...] = ()


def effect_of(text: str, sql: object, params: Any) -> Effect:
    """What ``sql`` has left behind in its session.

    Args:
        text: of ``sql``.
        sql: as it was given to the cursor.
        params: what went with it.
    """
    if params is None and sql is text:
        return _effect_of_text(text)
    return _effect(text, sql, params)


@remembered
def _effect_of_text(text: str) -> Effect:
    """Of a text without parameters; the same object each time."""
    return _effect(text, text, None)


def _effect(text: str, sql: object, params: Any) -> Effect:
    shape = _shape(text)
    if shape.configs:
        return _configured(shape, params)
    if shape.lock:
        return _locked(shape, params)
    if not shape.setting:
        return Effect((), shape.pins, shape.controls, shape.passes, shape.kind, shape.frees)
    kept = _kept(params)
    if kept is _UNKNOWN:
        return Effect(pins=shape.words, kind=UNTIL_DISCARD)
    if shape.setting == _PATH and _is_temporary(text, params):
        return Effect(pins=_TEMPORARY_PATH, passes=True, kind=UNTIL_DISCARD)
    frees = UNTIL_DISCARD if shape.setting == DISCARD_ALL else ""
    return Effect((Assignment(shape.setting, sql, kept, shape.words),), frees=frees)


@remembered
def _shape(text: str) -> _Shape:
    read = analyse(text)
    pins = read.pins
    if not pins:
        if _is_temporary(text) and (read.keyword == "SET" or "set_config" in text.lower()):
            # For the transaction only, but what is made there stays.
            return _Shape(pins=_TEMPORARY_PATH, passes=True, kind=UNTIL_DISCARD)
        return _Shape(controls=read.controls)
    plain = bare(text).strip().rstrip("; \t\r\n")
    # A backslash may or may not escape the end of a string; an escaped name may be any.
    if ESCAPED_NAME.search(plain):
        return _Shape(pins=pins)
    if ";" in plain or "\\" in text or "\x00" in text:
        return _Shape(pins=pins, kind=_discardable(text))
    if pins.upper().startswith(_MADE):
        return _Shape(pins=pins, passes=True, kind=_discardable(text))
    if released := _released(plain):
        return _Shape(frees=released)
    if _NOTHING.match(plain):
        return _Shape()
    if name := _setting(plain):
        first = plain.split(None, 1)[0].upper()
        words = first if name in {RESET_ALL, DISCARD_ALL} else f"{first} {name}"
        words = {RESET_ALL: "RESET ALL", DISCARD_ALL: "DISCARD ALL"}.get(name, words)
        if name in _IRREPRODUCIBLE:
            return _Shape(pins=words)
        return _Shape(setting=name, words=words)
    return _calls(text, plain, pins)


def _calls(text: str, plain: str, pins: str) -> _Shape:
    """Of a statement that pins and is no SET: whether all it does is one thing that is known."""
    whole = bare(text, strings=True).strip().rstrip("; \t\r\n")
    if _CONFIGS.fullmatch(whole):
        found = _ITEM.finditer(whole)
        items = tuple((one["name"], one["value"], one["local"]) for one in found)
        return _Shape(pins=pins, configs=items)
    if one := _ONE_LOCK.fullmatch(plain):
        numbers = filter(None, one.group("first", "second"))
        return _Shape(pins=pins, lock=(one["way"].lower(), one["shared"] or "", *numbers))
    return _Shape(pins=pins, kind=_kind(pins, plain, text))


def _released(plain: str) -> str:
    """The kind of all that a statement ends, or ""."""
    if _UNLISTEN_ALL.fullmatch(plain):
        return LISTENING
    return LOCKED if _UNLOCK_ALL.fullmatch(plain) else ""


def _kind(pins: str, plain: str, text: str) -> str:
    """How what pins can end; only what is nothing else can end like a lock or a LISTEN."""
    if _LISTEN.fullmatch(plain):
        return LISTENING
    if pins.lower().startswith("pg_") and not analyse(_ADVISORY.sub("", plain)).pins:
        return LOCKED
    return _discardable(text)


def _discardable(text: str) -> str:
    """Whether DISCARD ALL ends whatever this text may have left."""
    return UNTIL_CLOSE if _LASTING.search(text) else UNTIL_DISCARD


def _locked(shape: _Shape, params: Any) -> Effect:
    """One session lock was taken, or released once: which one, is certain of numbers only."""
    way, shared, *texts = shape.lock
    positional = iter(params if isinstance(params, (list, tuple)) else ())
    numbers = [
        int(text) if text.lstrip("-").isdigit() else _value(text, positional, params)
        for text in texts
    ]
    known = all(type(one) is int for one in numbers) and next(positional, _UNKNOWN) is _UNKNOWN
    if way == "unlock":
        return Effect(frees=_lock_kind(shared, numbers) if known else _NO_LOCK)
    return Effect(pins=shape.pins, kind=_lock_kind(shared, numbers) if known else LOCKED)


def _lock_kind(shared: str, numbers: list[int]) -> str:
    return f"{LOCKED} {'shared' if shared else 'exclusive'} {numbers}"


def _setting(plain: str) -> str:
    """The setting that a SET or RESET is about, or ""."""
    if _CHARACTERISTICS.match(plain):
        # It sets several at once: in its place stands only the very same statement.
        return " ".join(plain.lower().split()[1:])
    for pattern, name in _SPECIAL:
        if pattern.match(plain):
            return name
    match = _SET.match(plain) or _RESET.match(plain)
    if match is None:
        return ""
    parts = re.findall(_IDENT, match.group("name"))
    return fold(".".join(part.strip('"').replace('""', '"') for part in parts))


def _is_temporary(text: str, params: Any = None) -> bool:
    """Whether a path may name the temporary schema: tables made along it go with the session."""
    # U& can write any letter in another way. What is not a str cannot be a name.
    values = params.values() if isinstance(params, Mapping) else params or ()
    texts = [text, *(value for value in values if isinstance(value, str))]
    return any("pg_temp" in one or "u&" in one for one in map(str.lower, texts))


class _Unknown:
    """A value that is not known for certain."""


_UNKNOWN: Final = _Unknown()


def _kept(params: Any) -> Any:
    """A copy that nobody else can change, or ``_UNKNOWN``."""
    if params is None:
        return None
    if isinstance(params, Mapping):
        known = all(isinstance(value, _PLAIN) for value in params.values())
        return dict(params) if known else _UNKNOWN
    if isinstance(params, (list, tuple)):
        return tuple(params) if all(isinstance(value, _PLAIN) for value in params) else _UNKNOWN
    return _UNKNOWN


def _configured(shape: _Shape, params: Any) -> Effect:
    """What ``SELECT set_config(...)`` has set, its parameters filled in."""
    made = []
    positional = iter(params if isinstance(params, (list, tuple)) else ())
    for texts in shape.configs:
        name, value, local = (_value(text, positional, params) for text in texts)
        if isinstance(local, str):
            local = _BOOLEANS.get(local.lower())
        if local is True:
            continue  # it ends with its transaction
        # Nothing derived from these: what a driver makes of it need not be its str() (an Enum).
        if type(name) is not str or type(value) not in _EXACT or local is not False:
            return Effect(pins=shape.pins)
        name = fold(name)
        if name in _IRREPRODUCIBLE:
            return Effect(pins=f"set_config {name}")
        text = None if value is None else str(value)
        sql = "SELECT pg_catalog.set_config(%s::pg_catalog.text, %s::pg_catalog.text, false)"
        if name == _PATH and _is_temporary(text or ""):
            return Effect(pins=_TEMPORARY_PATH, passes=len(shape.configs) == 1)
        made.append(Assignment(name, sql, (name, text), f"set_config {name}"))
    if next(positional, _UNKNOWN) is not _UNKNOWN:
        # One of them went into a comment: which one went where is not certain.
        return Effect(pins=shape.pins)
    return Effect(tuple(made))


def _value(text: str, positional: Iterator[Any], params: Any) -> Any:
    """The value of one argument of set_config."""
    if text == "%s":
        return next(positional, _UNKNOWN)
    if text.startswith("%("):
        return params.get(text[2:-2], _UNKNOWN) if isinstance(params, Mapping) else _UNKNOWN
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    return _BOOLEANS.get(text.lower())  # or NULL
