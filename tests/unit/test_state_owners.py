"""Who writes the state of a wrapper: read in the source, so that it stays with its owner."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import django_resilient_pg
from django_resilient_pg.state.wrapper import Wrapper

HOME = Path(str(django_resilient_pg.__file__)).parent
# What Wrapper.__init__ sets, and the cached property.
FIELDS = {"_link", "_transaction", "_session", "_connector", "_invalid", "resilience"}


def written(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Each attribute that something is assigned to."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = list(node.targets)
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        while targets:
            target = targets.pop()
            if isinstance(target, ast.Tuple):
                targets += target.elts
            elif isinstance(target, ast.Attribute):
                yield target


def test_the_wrapper_has_few_fields_of_its_own() -> None:
    (init,) = (
        node
        for node in ast.walk(ast.parse((HOME / "state" / "wrapper.py").read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    assert {target.attr for target in written(init)} | {"resilience"} == FIELDS
    assert hasattr(Wrapper, "resilience")


def test_nobody_else_writes_them() -> None:
    """A cursor has a link of its own; whoever else says ``self`` is the wrapper itself."""
    writers: dict[str, set[str]] = defaultdict(set)
    for path in sorted(HOME.rglob("*.py")):
        name = ".".join(path.relative_to(HOME).with_suffix("").parts)
        for target in written(ast.parse(path.read_text())):
            of = target.value.id if isinstance(target.value, ast.Name) else ""
            own = of == "self" and name not in {"mixins", "state.wrapper"}
            if target.attr in FIELDS and not own:
                writers[name].add(target.attr)
    assert set(writers) == {"mixins", "state.wrapper"}
