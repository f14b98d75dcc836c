"""Every text speaks the field's language: log lines, notes, errors, help, comments, pages.

The words on the left of the glossary are refused wherever a person may read them, and so is a
duration that is printed as zero.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import django_resilient_pg

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(str(django_resilient_pg.__file__)).parent

#: What is not said, and what is said instead.
GLOSSARY = {
    r"r[ua]n(s|ning)? (\w+ )?again": "retry (a statement, a transaction), replay (a request)",
    r"(was|were|is|are|been|be) ended (by|for)|\bends? sessions|ended it\b": "terminated",
    r"authorit(y|ies)": "CA",
    r"may pass\b|passing (cause|by itself)|passes by itself|may pass by": "transient",
    r"(a|the|last|closer|next|first) looks?\b(?! (for|like))": "liveness check",
    r"look(s|ed|ing)? (at|into) the socket": "peek",
    r"the promise": "guarantees",
    r"let(s|ting)? go of|let go\b": "release",
    r"(connection|session)s? (\w+ ){0,3}g[ia]ven? up|g[ia]v(e|es|en|ing) (\w+ )?connections? up": (
        "discard, invalidate"
    ),
    r"part(s|ed|ing)? (with|from) (\w+ )*(connections|sessions)": "drop inherited connections",
    r"the way to a session": "connection stages",
    r"not in order\b": "check failed",
    r"made anew": "recreated",
    r"(, |or )else raises?\b": "otherwise raises",
    # The examples.
    r"was replaced in\b": "Reconnected ... in",
    r"takes no connections": "is not accepting connections",
    r"lost together with": "lost with",
    r"starts? clean": "call connection.close() to continue",
    r"find out who": "find what",
    r"is no number of": "invalid number of",
    r"out of bounds": "must be between",
    r"takes any server for": "does not verify the server's identity",
    r"have another one issued": "reissue it",
    r"are good after": "are still alive after",
    r"this tells no\b|left in peace": "Inconclusive",
    r"clients that are gone": "disconnected clients",
    r"nat and balancers": "NAT gateways and load balancers",
    r"gets no fixes": "is end-of-life",
    r"error tracker hears": "nothing is reported to error trackers",
    r"reaches whoever": "propagates as usual",
    r"told (four|three) times": "reported in",
    r"bounds nobody": "has no effect",
    r"(is|are) on (his|her|their) own": "nothing is retried",
    r"its outcome is unknown": "the write may already have been applied",
    # No riddles.
    r"told of\b": "say who learns what",
    r"else than": "other than",
    r"be it\b": "whether",
    r"that minds|who minds": "that refuses",
    # Numbers that can be read.
    r"\b0\.0+ s\b": "ms",
}


def texts(path: Path) -> Iterator[str]:
    """What people read of a file: of a module its strings and comments, of a page all."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield source
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    comments = [
        (token.start[0], token.string.lstrip("#: "))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    block: list[str] = []
    for number, (line, text) in enumerate(comments):
        if number and line != comments[number - 1][0] + 1:
            yield " ".join(block)
            block = []
        block.append(text)
    yield " ".join(block)


def faults(path: Path) -> list[str]:
    """Each phrase that is not said, with what surrounds it and what to say instead."""
    lines = (" ".join(text.replace("``", "").split()) for text in texts(path))
    whole, found = "\n".join(lines), []
    for phrase, instead in GLOSSARY.items():
        for match in re.finditer(rf"(?<!\w)(?:{phrase})", whole, re.IGNORECASE):
            around = whole[max(0, match.start() - 40) : match.end() + 40].replace("\n", " ")
            found.append(f'"{match.group()}" in "...{around}...": say {instead}')
    return found


def name(path: Path) -> str:
    return path.relative_to(HOME.parent if HOME in path.parents else ROOT).as_posix()


FILES = [
    *sorted(HOME.rglob("*.py")),
    *sorted((ROOT / "docs").glob("*.rst")),
    ROOT / "README.rst",
]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_it_speaks_the_fields_language(path: Path) -> None:
    assert faults(path) == []


@pytest.mark.parametrize(
    "text",
    [
        '"The statement was run again."',
        '"An administrator ended it."',
        '"replaced in 0.0 s"',
        '"replaced in 0.00 s"',
        'f"It may be run {how} again."',
        "# The connection was given up.",
        '"""A look at the socket."""',
    ],
)
def test_it_can_fail(text: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(f"how = 1\n{text}\n", encoding="utf-8")
    assert bool(faults(path)) is ("{how}" not in text)
