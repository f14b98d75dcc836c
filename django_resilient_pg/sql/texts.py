"""The text of what was given to a cursor, and what of it stands outside of its strings. Pure.

Where a text's strings are is told by its quotes alone: for texts too long to be lexed. That is on
the healthy path of long statements, so it goes by searches for single characters, which run at
memory speed, and leaves whatever they cannot tell to the lexer of ``statements``.
"""

from __future__ import annotations

from typing import Any, Final

# Up to here a search for each quote is quicker than taking the whole text apart.
_FEW: Final = 16


def emptied(sql: str) -> str:
    """What stands outside of quotes, with ``''`` for what is between them.

    That tells the strings only where :func:`without_strings` says so, which depends on nothing but
    this, unless there is a backslash.
    """
    parts, position = [], 0
    for _ in range(_FEW):
        begin = sql.find("'", position)
        if begin < 0:
            parts.append(sql[position:])
            return "''".join(parts)
        parts.append(sql[position:begin])
        position = sql.find("'", begin + 1) + 1
        if not position:
            return sql  # one is left open
    rest = sql[position:].split("'")
    return "''".join([*parts, *rest[::2]]) if len(rest) % 2 else sql


def without_strings(sql: str) -> str | None:
    """The text with its strings emptied; ``None`` where the quotes alone do not tell them.

    Each string that ends begins another part of the text. Where no part but the strings has
    anything in it that hides a quote (a comment, a quoted identifier that is left open, a dollar),
    none of the parts was mistaken for a string, from the first one on.
    """
    outside = emptied(sql)
    if "$" in outside or "--" in outside or "/*" in outside:
        return None
    if '"' in outside and any(part.count('"') % 2 for part in outside.split("''")):
        return None
    if "\\" in sql and ("e''" in outside or "E''" in outside):
        return None  # a backslash may escape the end of such a string
    return outside


def text_of(sql: object, driver: Any = None) -> str:
    """The text of a str, of bytes, or of a driver's composed SQL.

    Of what cannot be put into text without ``driver`` (psycopg2's composed SQL) every word is
    there, but no name and no value.
    """
    if isinstance(sql, str):
        return sql
    if isinstance(sql, bytes):
        return sql.decode("utf-8", "replace")
    return (certain_text(sql, driver) or _words(sql)) if hasattr(sql, "as_string") else str(sql)


def certain_text(sql: Any, driver: Any) -> str:
    """The whole text of a str or of a driver's composed SQL, or ""."""
    if isinstance(sql, str):
        return sql
    try:
        return str(sql.as_string(driver))
    except Exception:  # of what cannot be put into text without what only the driver has
        return ""


def _words(sql: Any) -> str:
    """What composed SQL says but for its names and values: psycopg2 quotes by a connection only."""
    kinds = {kind.__name__ for kind in type(sql).__mro__}
    inside = getattr(sql, "_wrapped", None) or getattr(sql, "_obj", None)  # psycopg2, psycopg
    if "Composed" in kinds:
        return "".join(map(_words, inside or ()))
    if "SQL" in kinds:
        return str(inside)
    return ' "x" ' if "Identifier" in kinds else " '' "
