"""What a SET, a RESET or a set_config() names, and what it gives. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from .lexer import fold

RESET_ALL: Final = "reset all"
DISCARD_ALL: Final = "discard all"
ROLE: Final = "role"
AUTHORIZATION: Final = "session_authorization"

# The server folds letters, and skips blanks, of ASCII only.
ASCII: Final = re.IGNORECASE | re.ASCII
IDENT = r'(?:"(?:[^"]|"")+"|[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)'
_NAME = rf"(?P<name>{IDENT}(?:\s*\.\s*{IDENT})*)"
# Aliases of the grammar (PostgreSQL manual, SET) and the parameter each stands for.
_SPECIAL: Final = (
    (re.compile(r"(?:SET(?:\s+SESSION)?|RESET)\s+TIME\s+ZONE\b", ASCII), "timezone"),
    (
        re.compile(r"(?:SET(?:\s+SESSION)?|RESET)\s+SESSION\s+AUTHORIZATION\b", ASCII),
        AUTHORIZATION,
    ),
    (re.compile(r"SET(?:\s+SESSION)?\s+ROLE\s+(?!TO\b|=|\.)", ASCII), ROLE),
    (re.compile(r"SET(?:\s+SESSION)?\s+SCHEMA\s+(?!TO\b|=|\.)", ASCII), "search_path"),
    (
        re.compile(r"SET(?:\s+SESSION)?\s+NAMES(?=\s|\Z)(?!\s*(?:TO\b|=|\.))", ASCII),
        "client_encoding",
    ),
    (re.compile(r"SET(?:\s+SESSION)?\s+XML\s+OPTION\b", ASCII), "xmloption"),
    (re.compile(r"RESET\s+ALL\Z", ASCII), RESET_ALL),
    (re.compile(r"DISCARD\s+ALL\Z", ASCII), DISCARD_ALL),
)
_SET = re.compile(rf"SET\s+(?:SESSION\s+(?!TO\b|=))?{_NAME}\s*(?:=|\bTO\b)", ASCII)
_RESET = re.compile(rf"RESET\s+{_NAME}\s*\Z", ASCII)
_CHARACTERISTICS = re.compile(r"SET\s+SESSION\s+CHARACTERISTICS\s+AS\s+TRANSACTION\b", ASCII)

EXACT: Final = (str, int, uuid.UUID, type(None))
_BOOLEANS: Final = {"t": True, "true": True, "f": False, "false": False}

HOLDER = r"%s|%\(\w+\)s"
_LITERAL = r"'(?:[^'%]|'')*'"
_CAST = r"(?:\s*::\s*(?:text|varchar))?"
ALIAS = rf"(?:\s+AS\s+{IDENT})?"
ITEM = re.compile(
    rf"(?:pg_catalog\s*\.\s*)?set_config\s*\(\s*(?P<name>{HOLDER}|{_LITERAL}){_CAST}\s*,"
    rf"\s*(?P<value>{HOLDER}|{_LITERAL}|NULL){_CAST}\s*,"
    rf"\s*(?P<local>{HOLDER}|true|false|'(?:true|false|t|f)')(?:\s*::\s*bool(?:ean)?)?\s*\)"
    + ALIAS,
    ASCII,
)
CONFIGS = re.compile(
    re.sub(r"\?P<\w+>", "?:", rf"SELECT\s+{ITEM.pattern}(?:\s*,\s*{ITEM.pattern})*"), ASCII
)


def setting_of(plain: str) -> str:
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
    parts = re.findall(IDENT, match.group("name"))
    return fold(".".join(part.strip('"').replace('""', '"') for part in parts))


def is_temporary(text: str, params: Any = None) -> bool:
    """Whether a path may name the temporary schema: tables made along it go with the session."""
    # U& can write any letter in another way. What is not a str cannot be a name.
    values = params.values() if isinstance(params, Mapping) else params or ()
    texts = [text, *(value for value in values if isinstance(value, str))]
    return any("pg_temp" in one or "u&" in one for one in map(str.lower, texts))


def items_of(whole: str) -> tuple[tuple[str, str, str], ...]:
    """The arguments of each set_config() of a SELECT that calls nothing else; else none."""
    found = ITEM.finditer(whole) if CONFIGS.fullmatch(whole) else ()
    return tuple((one["name"], one["value"], one["local"]) for one in found)


class _Unknown:
    """A value that is not known for certain."""


UNKNOWN: Final = _Unknown()


def kept(params: Any, fits: Callable[[Any], bool]) -> Any:
    """A copy of parameters that nobody else can change, or ``UNKNOWN`` if one of them does not fit.

    ``None`` stays: there are none.
    """
    if isinstance(params, Mapping):
        return dict(params) if all(map(fits, params.values())) else UNKNOWN
    if isinstance(params, (list, tuple)):
        return tuple(params) if all(map(fits, params)) else UNKNOWN
    return None if params is None else UNKNOWN


def arguments(items: Iterable[tuple[str, ...]], params: Any) -> list[tuple[Any, Any, Any]] | None:
    """Name, value and locality that each set_config() was given.

    Args:
        items: the texts of their arguments.
        params: of the statement.

    Returns:
        ``None``: one parameter went into a comment, and which one went where is not certain. A
        value that is not known is :data:`UNKNOWN`.
    """
    positional = iter(params if isinstance(params, (list, tuple)) else ())
    found = []
    for texts in items:
        name, value, local = (value_of(text, positional, params) for text in texts)
        if isinstance(local, str):
            local = _BOOLEANS.get(local.lower())
        found.append((name, value, local))
    return found if next(positional, UNKNOWN) is UNKNOWN else None


def value_of(text: str, positional: Iterator[Any], params: Any) -> Any:
    """The value of one argument: a parameter, a literal, or UNKNOWN."""
    if text == "%s":
        return next(positional, UNKNOWN)
    if text.startswith("%("):
        return params.get(text[2:-2], UNKNOWN) if isinstance(params, Mapping) else UNKNOWN
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    return _BOOLEANS.get(text.lower())  # or NULL
