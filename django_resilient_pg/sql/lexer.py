"""What of a text is a string, a comment, a quoted identifier; how the server folds names. Pure.

PostgreSQL's lexical rules (manual, section 4.1) are followed exactly, by one pass. sqlparse is not
used for this: its lexer takes a backslash in a plain string for an escape, so it hides a second
statement that the server sees.
"""

from __future__ import annotations

import re
from string import ascii_lowercase, ascii_uppercase

# What may stand in an identifier: of what is not ASCII, everything. A string's prefix or a dollar
# that follows such a character belongs to it.
NOT_INSIDE = r"(?<![A-Za-z0-9_$\x80-\U0010ffff])"
# Strings with a line's end between them are one, of the first one's kind.
_CONTINUED = r"""(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\f\v\n\r]|--[^\n\r]*+[\n\r])*+'"""
_TOKEN = re.compile(
    rf"""
      (?P<estring>{NOT_INSIDE}[eE]'(?:[^'\\]++|\\(?:.|\Z)|''|'{_CONTINUED})*+(?:'|\Z))
    | (?P<string>(?:[uU]&|[bBxXnN])?'(?:[^']++|'')*+(?:'|\Z))
    | (?P<quoted>(?:[uU]&)?"(?:[^"]++|"")*+(?:"|\Z))
    | (?P<dollar>{NOT_INSIDE}\$
        (?P<tag>(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?)\$
        .*?(?:\$(?P=tag)\$|\Z))
    | (?P<line>--[^\n\r]*)
    | (?P<block>/\*)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_MARK = re.compile(r"/\*|\*/")
_TO_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
# Any letter of such a name can be written as its number: what it calls or sets is not known.
ESCAPED_NAME = re.compile(r'[uU]&"')


def bare(sql: str, *, strings: bool = False) -> str:
    """The text with strings and comments blanked and quoted identifiers kept.

    ``strings``: keep those as well.

    Offsets are not kept. An unterminated string or comment swallows the rest, as it would on
    the server (which then refuses the statement).
    """
    parts: list[str] = []
    position = 0
    while (match := _TOKEN.search(sql, position)) is not None:
        parts.append(sql[position : match.start()])
        position = match.end()
        comment = match.group("line") is not None or match.group("block") is not None
        if match.group("quoted") is not None or (strings and not comment):
            parts.append(match.group())
        elif match.group("block") is not None:
            position = _end_of_comment(sql, match.end())
            parts.append(" ")
        else:
            parts.append(" " if match.group("line") is not None else " '' ")
    parts.append(sql[position:])
    return "".join(parts)


def _end_of_comment(sql: str, position: int) -> int:
    """Where the block comment opened before ``position`` ends; they nest (manual, 4.1.5)."""
    depth = 1
    for mark in _COMMENT_MARK.finditer(sql, position):
        depth += 1 if mark.group() == "/*" else -1
        if not depth:
            return mark.end()
    return len(sql)


def fold(name: str) -> str:
    """An unquoted name in lower case, as the server folds it: ASCII only.

    ``str.lower()`` would make a "k" of the sign for kelvin, and another name of this one.
    """
    return name.lower() if name.isascii() else name.translate(_TO_LOWER)
