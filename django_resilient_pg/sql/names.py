"""What a text names: read for the question that the catalogues are asked after a failure. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from .lexer import bare, fold
from .memory import remembered
from .statements import follows_a_query

_TOKEN: Final = re.compile(
    r"""
      (?P<name>"(?:[^"]|"")*+"?|[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*+)
        (?P<call>[ \t\n\r\f\v]*+\()?
    | [0-9][A-Za-z0-9_]*+
    | (?P<operator>[-+*/<>=~!@#%^&|`?]++)
    | (?P<mark>[^ \t\n\r\f\v])
    """,
    re.VERBOSE,
)
# After one of these stands the name of a result with its columns, not a function.
_BEFORE_COLUMNS: Final = frozenset({")", "as", "ordinality"})
# The names of the grammar, and what the catalogues have instead.
_OTHER_NAMES: Final = {
    "bigint": ("int8",),
    "bit": ("varbit",),
    "boolean": ("bool",),
    "char": ("bpchar",),
    "character": ("bpchar", "varchar"),
    "dec": ("numeric",),
    "decimal": ("numeric",),
    "double": ("float8",),
    "float": ("float4", "float8"),
    "int": ("int4",),
    "integer": ("int4",),
    "national": ("bpchar", "varchar"),
    "nchar": ("bpchar", "varchar"),
    "real": ("float4",),
    "smallint": ("int2",),
    "time": ("timetz",),
    "timestamp": ("timestamptz",),
}


class Names(NamedTuple):
    """What a text names, as the catalogues write it.

    Attributes:
        words: every name, those of relations and types among them, and keywords.
        calls: those before a parenthesis.
        functions: those of ``call`` that are nothing else, unless they are keywords.
        fields: those after a dot and before no parenthesis: ``t.f`` may call ``f(t)``.
        operators: each run of characters that operators are made of.
    """

    words: frozenset[str]
    calls: frozenset[str]
    functions: frozenset[str]
    fields: frozenset[str]
    operators: frozenset[str]


@remembered
def names_of(sql: str) -> Names:
    """Read one string of SQL; strings and comments name nothing."""
    text = bare(sql)
    words, calls, functions = set[str](), set[str](), set[str]()
    fields, operators = set[str](), set[str]()
    before = ""
    for token in _TOKEN.finditer(text):
        written, kind = token.group(), token.lastgroup
        if kind == "operator":
            operators.add(written)
        if kind not in {"name", "call"}:
            before = written
            continue
        written = token["name"]
        name, *others = _spellings(written)
        words.update((name, *others))
        if kind == "call":
            calls.update((name, *others))
            if before not in _BEFORE_COLUMNS and not follows_a_query(text, token.end() - 1):
                functions.add(name)
        elif before == ".":
            fields.update((name, *others))
        before = "(" if kind == "call" else name if written[0] != '"' else written
    for word in _OTHER_NAMES.keys() & words:
        words.update(_OTHER_NAMES[word])
    return Names(*map(frozenset, (words, calls, functions, fields, operators)))


def _spellings(written: str) -> tuple[str, ...]:
    """What the server makes of a name; its encoding decides whether it folds other than ASCII."""
    if written[0] == '"':
        return (written[1:].removesuffix('"').replace('""', '"'),)
    folded = fold(written)
    return (folded,) if folded.isascii() else (folded, written.lower())
