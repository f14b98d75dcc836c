"""What the engine says, read from its syntax tree: every sentence, with "..." for what varies."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import django_resilient_pg

HOME: Final = Path(str(django_resilient_pg.__file__)).parent
MESSAGES: Final = "policy/messages.py"
# Functions and methods that a sentence of the log is handed to.
_SAYING: Final = frozenset(
    "log outage heal surface surfaced conclude gave_up replaying retrying warning info".split()
)
_LEVELS: Final = {
    "gave_up": "WARNING",
    "heal": "INFO",
    "info": "INFO",
    "outage": "WARNING",
    "replaying": "INFO",
    "retrying": "INFO",
    "surface": "WARNING",
    "surfaced": "WARNING",
    "warning": "WARNING",
}
_WORDS: Final = re.compile(r"[A-Za-z]{2,}.* .*[A-Za-z]{2,}", re.DOTALL)


class Said(NamedTuple):
    """One sentence, the level it is logged at ("" where the call does not say), and where."""

    text: str
    level: str
    place: str


def plain(text: str) -> str:
    """A text with its holes as "...", in one line."""
    return re.sub(r"\.{3,}", "...", " ".join(re.sub(r"%[sd]", "...", text).split()))


@cache
def tree(path: str) -> ast.Module:
    """The syntax tree of a file of the engine."""
    return ast.parse((HOME / path).read_text(encoding="utf-8"))


def of_messages() -> dict[str, list[str]]:
    """The sentences of each function of ``policy/messages.py``."""
    functions = [one for one in tree(MESSAGES).body if isinstance(one, ast.FunctionDef)]
    return {one.name: list(_sentences(one)) for one in functions}


def logged() -> list[Said]:
    """Every sentence that goes to the log, whichever call hands it over."""
    files = sorted(path.relative_to(HOME).as_posix() for path in HOME.rglob("*.py"))
    return [said for path in files for said in _of_file(path)]


def _of_file(path: str) -> Iterator[Said]:
    for function in ast.walk(tree(path)):
        if isinstance(function, ast.FunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and _name(call.func) in _SAYING:
                    yield from _of_call(path, function, call)


def _of_call(path: str, function: ast.FunctionDef, call: ast.Call) -> Iterator[Said]:
    given = [text for one in call.args for text in _resolved(path, function, one)]
    level = _LEVELS.get(_name(call.func), "")
    if _name(call.func) == "log":
        level = "/".join(re.findall(r"logging\.([A-Z]+)", ast.unparse(call.args[1])))
    for text in given:
        yield Said(text, level, f"{path}:{call.lineno}")


def _resolved(path: str, function: ast.FunctionDef, node: ast.expr) -> Iterator[str]:
    """The sentences that an argument may be."""
    if isinstance(node, ast.Call):
        called = _name(node.func)
        if ast.unparse(node.func).startswith("messages."):
            yield from of_messages()[called]
        for method in _methods(path, called):
            for one in ast.walk(method):
                if isinstance(one, ast.Return) and one.value is not None:
                    yield from _resolved(path, method, one.value)
    elif isinstance(node, ast.Name):
        for value in _assigned(path, function, node.id):
            yield from _resolved(path, function, value)
    elif isinstance(node, ast.IfExp):
        yield from _resolved(path, function, node.body)
        yield from _resolved(path, function, node.orelse)
    elif (text := _template(node)) and _WORDS.search(text):
        yield plain(text)


def _methods(path: str, name: str) -> Iterator[ast.FunctionDef]:
    """The method of this file that is called, where it is one that says why."""
    for one in ast.walk(tree(path)):
        if isinstance(one, ast.FunctionDef) and one.name == name and name.startswith("_why"):
            yield one


def _assigned(path: str, function: ast.FunctionDef, name: str) -> Iterator[ast.expr]:
    for statement in [*ast.walk(function), *tree(path).body]:
        match statement:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                yield value
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                yield from (v for n, v in zip(names, values, strict=True) if _name(n) == name)
            case ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value):
                if found == name:
                    yield value


def _sentences(function: ast.FunctionDef) -> Iterator[str]:
    """All sentences of a function: each of its longest strings."""
    inner: set[int] = set()
    for node in ast.walk(ast.Module(function.body[1:], [])):
        text = _template(node) if isinstance(node, ast.expr) else None
        if text is None or id(node) in inner:
            continue
        inner.update(id(below) for below in ast.walk(node))
        if _WORDS.search(text):
            yield plain(text)


def _template(node: ast.expr) -> str | None:
    """A string with "..." in the place of each value; None: it is no string."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(
                str(one.value) if isinstance(one, ast.Constant) else "..." for one in values
            )
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            parts = _template(left), _template(right)
            return None if parts == (None, None) else "".join(part or "..." for part in parts)
    return None


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def written(left_out: tuple[str, ...]) -> list[Said]:
    """Every sentence in the engine's code, wherever it goes; files by the beginning of their path.

    Not docstrings, SQL, regular expressions, and lists of words that are split.
    """
    files = sorted(path.relative_to(HOME).as_posix() for path in HOME.rglob("*.py"))
    return [said for path in files if not path.startswith(left_out) for said in _written_in(path)]


def strings() -> list[str]:
    """Every string of the engine with a space in it, docstrings and SQL too."""
    return [
        plain(text)
        for path in HOME.rglob("*.py")
        for node in ast.walk(tree(path.relative_to(HOME).as_posix()))
        if isinstance(node, ast.expr) and (text := _template(node)) and " " in text
    ]


_LEAST: Final = 3  # words of a sentence
_WORD: Final = re.compile(r"[A-Za-z]{2,}")
_CODE: Final = re.compile(
    r"\bpg_catalog\b|\(\?|^\s*[A-Z]+(?: [A-Z]+)*\b(?! is\b).*(?:%s|[{;*]|\b[A-Z]+\b)$"
)


def _written_in(path: str) -> Iterator[Said]:
    seen = _no_texts(tree(path))
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.expr) or id(node) in seen:
            continue
        if (text := _template(node)) is None:
            continue
        seen.update(id(below) for below in ast.walk(node))
        if len(_WORD.findall(text)) >= _LEAST and _WORDS.search(text) and not _CODE.search(text):
            yield Said(plain(text), "", f"{path}:{node.lineno}")


def _no_texts(whole: ast.Module) -> set[int]:
    """Nodes of docstrings, and of lists of words."""
    found: set[int] = set()
    for node in ast.walk(whole):
        match node:
            case ast.Expr(value=ast.Constant() as text):
                found.add(id(text))
            case ast.Call(func=ast.Attribute(value=ast.Constant() as text, attr="split")):
                found.add(id(text))
    return found
