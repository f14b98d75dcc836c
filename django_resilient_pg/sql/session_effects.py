"""What a statement makes of the session it runs in, as far as its text says so for certain. Pure.

Read when a statement that is not known to be harmless has succeeded. What is recognised can be
done again on a new session; what is not recognised pins the old one: nothing is guessed.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .lexer import ESCAPED_NAME, bare, fold
from .memory import remembered
from .settings import (
    ALIAS,
    ASCII,
    AUTHORIZATION,
    DISCARD_ALL,
    EXACT,
    HOLDER,
    IDENT,
    RESET_ALL,
    ROLE,
    UNKNOWN,
    arguments,
    is_temporary,
    items_of,
    kept,
    setting_of,
    value_of,
)
from .statements import analyse

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
_PLAIN: Final = (str, int, float, bool, decimal.Decimal, uuid.UUID, datetime.date, type(None))
# They take from a session what a new one has not got.
_NOTHING = re.compile(
    r"DISCARD\s+(?:PLANS|SEQUENCES|TEMP|TEMPORARY)\Z|(?:CLOSE|UNLISTEN|DEALLOCATE)\b", ASCII
)
_LISTEN = re.compile(rf"LISTEN\s+{IDENT}", ASCII)
_UNLISTEN_ALL = re.compile(r"UNLISTEN\s*\*", ASCII)
# DISCARD ALL leaves them as they are, or may.
_LASTING = re.compile(r"\bload\b|\bseed\b|setseed|set_config|\\", ASCII)
# Setting it starts a sequence of random numbers, which would start again.
_IRREPRODUCIBLE: Final = frozenset({"seed"})

# Released, but nobody knows which one: nothing is unpinned by it, and nothing pinned.
_NO_LOCK: Final = f"{LOCKED} ?"

_INTEGER = r"(?:\s*::\s*(?:bigint|integer|int[48]?))?\s*"
_ADVISORY = re.compile("advisory", ASCII)
_ONE_LOCK = re.compile(
    r"SELECT\s+(?:pg_catalog\s*\.\s*)?pg_(?:try_)?advisory_(?P<way>lock|unlock)(?P<shared>_shared)?"
    rf"\s*\(\s*(?P<first>{HOLDER}|-?[0-9]+){_INTEGER}"
    rf"(?:,\s*(?P<second>{HOLDER}|-?[0-9]+){_INTEGER})?\){ALIAS}",
    ASCII,
)
_UNLOCK_ALL = re.compile(
    rf"SELECT\s+(?:pg_catalog\s*\.\s*)?pg_advisory_unlock_all\s*\(\s*\){ALIAS}", ASCII
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
class _Shape:
    """What the text alone says: its effect, unless that depends on the parameters.

    ``setting`` names what a SET or RESET is about. ``lock``: "lock" or "unlock", "_shared" or "",
    and one or two numbers.
    """

    effect: Effect = Effect()
    setting: str = ""
    configs: tuple[tuple[str, str, str], ...] = ()
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


def only_sets(text: str, sql: object, params: Any) -> bool:
    """Whether all that a statement leaves, and does, is settings that a new session is given.

    Its arguments are those of :func:`effect_of`.
    """
    effect = effect_of(text, sql, params)
    more = effect.pins or effect.frees or effect.controls or effect.passes
    return bool(effect.assignments) and not more


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
        return shape.effect
    given, words = kept(params, lambda value: isinstance(value, _PLAIN)), shape.effect.pins
    if given is UNKNOWN:
        return shape.effect
    if shape.setting == _PATH and is_temporary(text, params):
        return Effect(pins=_TEMPORARY_PATH, passes=True, kind=UNTIL_DISCARD)
    frees = UNTIL_DISCARD if shape.setting == DISCARD_ALL else ""
    return Effect((Assignment(shape.setting, sql, given, words),), frees=frees)


@remembered
def _shape(text: str) -> _Shape:
    read = analyse(text)
    pins = read.pins
    if not pins:
        if is_temporary(text) and (read.keyword == "SET" or "set_config" in text.lower()):
            # For the transaction only, but what is made there stays.
            return _Shape(Effect(pins=_TEMPORARY_PATH, passes=True, kind=UNTIL_DISCARD))
        return _Shape(Effect(controls=read.controls))
    plain = bare(text).strip().rstrip("; \t\r\n")
    # A backslash may or may not escape the end of a string; an escaped name may be any.
    if ESCAPED_NAME.search(plain):
        return _Shape(Effect(pins=pins))
    if ";" in plain or "\\" in text or "\x00" in text:
        return _Shape(Effect(pins=pins, kind=_discardable(text)))
    if pins.upper().startswith(_MADE):
        return _Shape(Effect(pins=pins, passes=True, kind=_discardable(text)))
    if released := _released(plain):
        return _Shape(Effect(frees=released))
    if _NOTHING.match(plain):
        return _Shape()
    if name := setting_of(plain):
        of_one = f"{plain.split(None, 1)[0].upper()} {name}"
        words = {RESET_ALL: "RESET ALL", DISCARD_ALL: "DISCARD ALL"}.get(name, of_one)
        if name in _IRREPRODUCIBLE:
            return _Shape(Effect(pins=words))
        return _Shape(Effect(pins=words, kind=UNTIL_DISCARD), setting=name)
    return _calls(text, plain, pins)


def _calls(text: str, plain: str, pins: str) -> _Shape:
    """Of a statement that pins and is no SET: whether all it does is one thing that is known."""
    whole = bare(text, strings=True).strip().rstrip("; \t\r\n")
    if items := items_of(whole):
        return _Shape(Effect(pins=pins), configs=items)
    if one := _ONE_LOCK.fullmatch(plain):
        numbers = filter(None, one.group("first", "second"))
        return _Shape(Effect(pins=pins), lock=(one["way"].lower(), one["shared"] or "", *numbers))
    return _Shape(Effect(pins=pins, kind=_kind(pins, plain, text)))


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
        int(text) if text.lstrip("-").isdigit() else value_of(text, positional, params)
        for text in texts
    ]
    known = all(type(one) is int for one in numbers) and next(positional, UNKNOWN) is UNKNOWN
    if way == "unlock":
        return Effect(frees=_lock_kind(shared, numbers) if known else _NO_LOCK)
    return Effect(pins=shape.effect.pins, kind=_lock_kind(shared, numbers) if known else LOCKED)


def _lock_kind(shared: str, numbers: list[int]) -> str:
    return f"{LOCKED} {'shared' if shared else 'exclusive'} {numbers}"


def _configured(shape: _Shape, params: Any) -> Effect:
    """What ``SELECT set_config(...)`` has set, its parameters filled in."""
    made: list[Assignment] = []
    given = arguments(shape.configs, params)
    if given is None:
        return shape.effect
    for name, value, local in given:
        if local is True:
            continue  # it ends with its transaction
        # Nothing derived from these: what a driver makes of it need not be its str() (an Enum).
        if type(name) is not str or type(value) not in EXACT or local is not False:
            return shape.effect
        name = fold(name)
        if name in _IRREPRODUCIBLE:
            return Effect(pins=f"set_config {name}")
        text = None if value is None else str(value)
        sql = "SELECT pg_catalog.set_config(%s::pg_catalog.text, %s::pg_catalog.text, false)"
        if name == _PATH and is_temporary(text or ""):
            return Effect(pins=_TEMPORARY_PATH, passes=len(shape.configs) == 1)
        made.append(Assignment(name, sql, (name, text), f"set_config {name}"))
    return Effect(tuple(made))
