"""Small changes of Python, each of which ought to break something.

Left alone: annotations, decorators, docstrings, ``__slots__`` and the like; the texts of messages
and of regular expressions.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

_SWAPPED: Final[dict[type[ast.AST], Any]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
}
_OTHERS: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
_PLAIN_METHODS: Final = frozenset({"lower", "upper", "strip", "rstrip", "lstrip"})
_TOLD: Final = frozenset({"__all__", "__slots__"})


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module.

    Attributes:
        where: the function or class, dotted; "" is the module itself.
        number: which of several that look the same, counted from 1.
        source: the whole module with it.
    """

    module: str
    where: str
    before: str
    after: str
    number: int
    source: str

    @property
    def name(self) -> str:
        """By which it is repeated and explained."""
        nth = f" #{self.number}" if self.number > 1 else ""
        place = ".".join(filter(None, (self.module, self.where)))
        return f"{place}: {self.before} -> {self.after}{nth}"


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Every change of a module, in the order of its text."""
    lines = source.encode().split(b"\n")
    seen: Counter[str] = Counter()
    for where, node, after in sorted(_changes(ast.parse(source), ""), key=_position):
        changed = _spliced(lines, node, after)
        before = " ".join((ast.get_source_segment(source, node) or "").split())
        made = Mutant(module, where, before, " ".join(after.split()), 1, changed)
        seen[made.name] += 1
        yield replace(made, number=seen[made.name])


_Change = tuple[str, ast.expr | ast.stmt, str]


def _position(change: _Change) -> tuple[int, int]:
    return change[1].lineno, change[1].col_offset


def _spliced(lines: list[bytes], node: ast.expr | ast.stmt, after: str) -> str:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    text = f"({after})" if isinstance(node, ast.expr) else after
    first, last = lines[node.lineno - 1], lines[node.end_lineno - 1]
    changed = first[: node.col_offset] + text.encode() + last[node.end_col_offset :]
    around = (lines[: node.lineno - 1], lines[node.end_lineno :])
    return b"\n".join([*around[0], changed, *around[1]]).decode()


def _changes(node: ast.AST, where: str) -> Iterator[_Change]:
    """The changes of a node and of what is in it."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        where = f"{where}.{node.name}".lstrip(".")
    if isinstance(node, ast.expr):
        yield from ((where, node, after) for after in _of_expression(node))
    elif isinstance(node, ast.stmt) and not _is_told(node):
        yield from ((where, node, after) for after in _of_statement(node))
        yield from ((where, test, f"not {ast.unparse(test)}") for test in _bare_tests(node))
    for child in _children(node):
        yield from _changes(child, where)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What is in a node, but for what only readers and type checkers see."""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.JoinedStr)) or _is_told(node):
        return
    left_out = {"annotation", "returns", "decorator_list", "bases", "keywords"}
    for name, value in ast.iter_fields(node):
        if name in left_out and not isinstance(node, ast.Call):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST) and not _is_docstring(each):
                yield each


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_told(node: ast.AST) -> bool:
    """Whether it says something of the module, not what it does."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias"
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(one, ast.Name) and one.id in _TOLD for one in targets)


# -- statements ----------------------------------------------------------------------------------


def _of_statement(node: ast.stmt) -> Iterator[str]:
    if _calls(node) or _sets_attribute(node):
        yield "pass"
    elif isinstance(node, ast.AugAssign):
        yield ast.unparse(ast.AugAssign(node.target, _SWAPPED[type(node.op)](), node.value))
    elif isinstance(node, ast.Return) and not isinstance(node.value, (ast.Constant, type(None))):
        yield "return None"
    elif isinstance(node, ast.Continue):
        yield "break"


def _bare_tests(node: ast.stmt) -> Iterator[ast.expr]:
    """The condition of a statement, where nothing else changes it."""
    if isinstance(node, (ast.If, ast.While)) and isinstance(
        node.test, (ast.Attribute, ast.Call, ast.Name)
    ):
        yield node.test


def _calls(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _sets_attribute(node: ast.stmt) -> bool:
    if not isinstance(node, (ast.Assign, ast.AugAssign)):
        return False
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    return any(isinstance(part, ast.Attribute) for part in parts)


# -- expressions ---------------------------------------------------------------------------------


def _of_expression(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Compare):
        yield from _of_comparison(node)
    elif isinstance(node, ast.BoolOp):
        yield ast.unparse(ast.BoolOp(_SWAPPED[type(node.op)](), node.values))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield ast.unparse(node.operand)
    elif isinstance(node, ast.BinOp):
        yield from _of_operation(node)
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node.value)
    elif isinstance(node, ast.Call):
        yield from _of_call(node)
    elif isinstance(node, ast.Set) and len(node.elts) > 1:
        for left_out in node.elts:
            yield ast.unparse(ast.Set([one for one in node.elts if one is not left_out]))
    elif isinstance(node, ast.IfExp) and not isinstance(node.test, ast.Compare):
        yield ast.unparse(ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse))


def _of_comparison(node: ast.Compare) -> Iterator[str]:
    for n, operator in enumerate(node.ops):
        others = [*node.ops]
        others[n] = _SWAPPED[type(operator)]()
        yield ast.unparse(ast.Compare(node.left, others, node.comparators))


def _of_operation(node: ast.BinOp) -> Iterator[str]:
    if isinstance(node.op, ast.BitOr):
        yield from (ast.unparse(node.left), ast.unparse(node.right))
    elif type(node.op) in _SWAPPED:
        yield ast.unparse(ast.BinOp(node.left, _SWAPPED[type(node.op)](), node.right))


def _of_constant(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield repr(not value)
    elif isinstance(value, (int, float)):
        yield repr(value + 1)
    elif isinstance(value, str) and value.isascii() and value.replace("_", "").isalnum():
        yield repr(f"{value}X")


def _of_call(node: ast.Call) -> Iterator[str]:
    called = node.func
    if isinstance(called, ast.Name) and called.id in _OTHERS:
        yield ast.unparse(ast.Call(ast.Name(_OTHERS[called.id]), node.args, node.keywords))
    if not isinstance(called, ast.Attribute) or node.args:
        return
    if called.attr in _PLAIN_METHODS:
        yield ast.unparse(called.value)
    elif called.attr == "split" and isinstance(called.value, ast.Constant):
        words = str(called.value.value).split()
        for left_out in words:
            yield f"{' '.join(word for word in words if word != left_out)!r}.split()"
