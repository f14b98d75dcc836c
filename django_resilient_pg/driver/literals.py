"""What the drivers make of parameters: a value, or text of the statement itself.

psycopg2 writes every parameter into the statement, and so does psycopg 3 for Django unless
``server_side_binding`` is on. What the application teaches them to write may be anything:
psycopg2's ``AsIs``, an adapter of its own, a dumper with its own ``quote()``. Only what is known to
be a value is taken for one. Duck-typed, so importing this module imports no driver.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Final
from uuid import UUID

# What both drivers write as a value unless they were taught otherwise. Not what is derived from
# these: its str() is its own.
_VALUES: Final[frozenset[type]] = frozenset(
    {str, int, float, bool, type(None), bytes, bytearray, memoryview}
    | {Decimal, UUID, datetime, date, time, timedelta}
)
# psycopg2's adapters that quote whatever they are given, and psycopg 3's classes that do.
_QUOTING: Final = frozenset({"QuotedString", "Binary", "Boolean", "NoneAdapter", "Json", "Jsonb"})
_QUOTING_DUMPERS: Final = frozenset({"Dumper", "CDumper"})
# The drivers' own modules, and Django's (GeoDjango).
_OWN: Final = frozenset({"psycopg", "psycopg2", "psycopg_c", "psycopg_binary", "django"})
# Literals that call nothing, wherever they stand: a number, a string, a cast to PostgreSQL's own.
_TYPE: Final = (
    r"(?:::(?:bool|boolean|smallint|int|integer|bigint|int[248]|real|float|float[48]|numeric"
    r"|double\ precision|text|date|time|timetz|timestamp|timestamptz|interval|uuid|inet|json|jsonb"
    r"|bytea)(?:\[\])?)?"
)
_SCALAR: Final = (
    r"(?:-?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|NULL|true|false"
    rf"|'(?:[^'\\]|'')*'|E'(?:[^'\\]|''|\\\\)*'){_TYPE}"
)
# OIDs of what users make begin here.
_USERS: Final = 16384


def has_text(parameters: object, cursor: Any = None, values: Set[type] | None = None) -> bool:
    """Whether a parameter is itself text of its statement, or may be.

    Args:
        parameters: of a statement, or rows of them.
        cursor: the driver's, which writes them.
        values: classes that psycopg2 is known to write values of (:func:`known_values`); asked of
            the driver if not given.
    """
    if isinstance(parameters, (list, tuple)):  # the ordinary case, on the healthy path of psycopg2
        given: Iterable[object] = parameters
    elif isinstance(parameters, Mapping):
        given = parameters.values()
    else:
        return False  # rows that may be made as they are asked for
    if values is None:
        if hasattr(cursor, "adapters"):
            # Where the server binds them they are never text.
            return hasattr(cursor, "mogrify") and _Psycopg3(cursor).any_text(given)
        values = _unchanged()
    for value in given:  # noqa: SIM110  a generator would cost more than the loop
        if value.__class__ not in values and _is_text(value, cursor, values):
            return True
    return False


def known_values() -> Set[type]:
    """Classes that psycopg2 has been known to write values of since it was first asked.

    What it is taught after that :func:`told_by_texts` finds.
    """
    global _known
    if not _known:
        _known = _unchanged()
    return _known


def told_by_texts(texts: Iterable[str], connection: Any) -> bool:
    """Whether texts that were kept without their parameters tell what was run.

    Args:
        texts: as they were handed to the cursor.
        connection: the driver's, that they were run on or one like it.
    """
    if hasattr(connection, "adapters"):
        taught = any(map(_writes_text, _dumpers(connection)))
    else:
        taught = not known_values() <= _unchanged()
    return not (taught and any("%" in text for text in texts))


def registered_types(connection: Any) -> frozenset[int]:
    """OIDs of the types that psycopg 3 may cast parameters to, of those that users have made."""
    adapters = getattr(connection, "adapters", None)
    if adapters is None:
        return frozenset()
    return frozenset(one.oid for one in adapters.types if one.oid >= _USERS)


def _is_own(kind: Any) -> bool:
    return str(getattr(kind, "__module__", "")).partition(".")[0] in _OWN


def _is_value(literal: object) -> bool:
    """Whether a literal calls nothing and ends nothing."""
    text = bytes(literal).decode("latin-1")  # type: ignore[call-overload]
    return _value().fullmatch(text) is not None


@cache
def _value() -> re.Pattern[str]:
    """Compiled where it is first needed: the module belongs to the healthy path."""
    return re.compile(rf"\ *(?:{_SCALAR}|ARRAY\[{_SCALAR}(?:,\ *{_SCALAR})*\]{_TYPE})")


# -- psycopg2 ------------------------------------------------------------------------------------

_known: frozenset[type] = frozenset()


def _unchanged() -> frozenset[type]:
    """Classes whose adapters are the driver's own, or all of them without psycopg2."""
    extensions: Any = sys.modules.get("psycopg2.extensions")
    if extensions is None:
        return _VALUES
    found = {kind: extensions.adapters.get((kind, extensions.ISQLQuote)) for kind in _VALUES}
    return frozenset(kind for kind, one in found.items() if one is None or _is_own(one))


def _is_text(value: Any, cursor: Any, values: Set[type]) -> bool:
    extensions: Any = sys.modules.get("psycopg2.extensions")
    if extensions is None:
        return False
    kind = value.__class__
    adapter = extensions.adapters.get((kind, extensions.ISQLQuote))
    if kind is list or kind is tuple:
        if adapter is None or _is_own(adapter):
            return has_text(value, cursor, values)
    elif adapter is None and kind.__name__ in _QUOTING and _is_own(kind):
        return False  # adapts itself: Json
    if isinstance(value, (list, tuple, Mapping)) and has_text(value, cursor, values):
        return True
    try:
        adapted = extensions.adapt(value)
    except Exception:
        return False  # a row, or what fails in the statement as well
    try:
        return _writes_its_own(adapted, cursor, values)
    except Exception:
        return True


def _writes_its_own(adapted: Any, cursor: Any, values: Set[type]) -> bool:
    """Whether an adapter of psycopg2's writes what may be no value."""
    kind = type(adapted)
    if _is_own(kind):
        if kind.__module__.startswith("django.") or kind.__name__ in _QUOTING:
            return False
        if kind.__name__ in {"List", "SQL_IN"}:
            return False  # of what has been looked at
        if kind.__name__ == "HstoreAdapter":
            return has_text(adapted.wrapped, cursor, values)
        if any(one.__name__ == "RangeAdapter" for one in kind.__mro__):
            return has_text((adapted.adapted.lower, adapted.adapted.upper), cursor, values)
    # A number is what its class says, and AsIs may be one.
    if cursor is not None and hasattr(adapted, "prepare"):
        adapted.prepare(cursor.connection)
    return not _is_value(adapted.getquoted())


# -- psycopg 3 -----------------------------------------------------------------------------------


class _Psycopg3:
    """What a cursor that binds parameters itself writes for them."""

    def __init__(self, cursor: Any) -> None:
        from psycopg.adapt import PyFormat, Transformer

        self._transformer, self._format = Transformer(cursor), PyFormat.TEXT
        # Classes of values that are written as values, whatever they are.
        self._known: set[type] = set()

    def any_text(self, values: Iterable[object]) -> bool:
        """Whether one of them, or of those in them, is written as text."""
        return any(one.__class__ not in self._known and self._is_text(one) for one in values)

    def _is_text(self, value: Any) -> bool:
        try:
            dumper = self._transformer.get_dumper(value, self._format)
        except Exception:
            dumper = None  # a row, or what fails in the statement as well
        if dumper is not None and _writes_text(type(dumper)):
            try:
                return not _is_value(dumper.quote(value))
            except Exception:
                return True
        if isinstance(value, Mapping):
            return self.any_text(value.values())
        if isinstance(value, (list, tuple)):
            return self.any_text(value)
        if dumper is None:
            return False
        if _quotes(type(dumper)) or value.__class__ in _VALUES:
            self._known.add(value.__class__)
            return False
        return not _is_value(dumper.quote(value))  # a number of a class of its own


def _writes_text(dumper: type) -> bool:
    """Whether a dumper that the application has registered may write what is no value."""
    own = all(_is_own(_who_has(dumper, name)) for name in ("quote", "dump", "upgrade"))
    return not own and not (_quotes(dumper) and _is_own(_who_has(dumper, "upgrade")))


def _quotes(dumper: type) -> bool:
    """Whether a dumper quotes whatever it makes of a value."""
    who = _who_has(dumper, "quote")
    return _is_own(who) and who.__name__ in _QUOTING_DUMPERS


def _who_has(dumper: type, name: str) -> type:
    return next((one for one in dumper.__mro__ if name in vars(one)), object)


def _dumpers(connection: Any) -> set[type]:
    """All dumpers that a connection may write a parameter with."""
    from psycopg.adapt import PyFormat

    return set(connection.adapters._dumpers[PyFormat.TEXT].values())
