"""Who writes the state of the central objects: read in the source, so that it stays with them.

What an object is, is told by the name that it has wherever the engine handles it; which fields it
has, by what its own methods set.
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import django_resilient_pg
from django_resilient_pg.driver.link import Link
from django_resilient_pg.policy.circuit_breaker import CircuitBreaker
from django_resilient_pg.state.connector import Connector
from django_resilient_pg.state.loss import Invalidation
from django_resilient_pg.state.session import Session
from django_resilient_pg.state.shared import Resilience
from django_resilient_pg.state.transaction import TransactionState
from django_resilient_pg.state.unit_of_work import Unit
from django_resilient_pg.state.wrapper import Wrapper

pytestmark = pytest.mark.once

HOME = Path(str(django_resilient_pg.__file__)).parent
# What Wrapper.__init__ sets, and the cached property.
FIELDS = {"_link", "_transaction", "_session", "_connector", "_invalid", "resilience"}
# Methods that change what they are called on.
CHANGING = {"add", "append", "clear", "discard", "extend", "insert", "pop", "remove", "update"}


class Owned(NamedTuple):
    """A central object: its names, the modules that it is written in, and who else writes it."""

    kind: type
    names: set[str]
    home: set[str]
    others: dict[str, set[str]]


HOOKS = ("connections", "cursors", "transactions")
CLOCK = {"heard_at", "seen_at"}
OBJECTS = (
    Owned(
        Link,
        {"link", "_link"},
        {"driver.link", "driver.psycopg2", "driver.psycopg3"},
        {
            # The healthy path of a statement and of COMMIT: a call more for each would be measured.
            "cursors": CLOCK,
            "hooks.cursors": {"seen_at"},
            "hooks.transactions": CLOCK,
            # What its pool knows of it, on the way out and back.
            "pool.pool": {"seen_at", "terms"},
            "pool.fitness": {"heard_at"},
            # Cursors come and go by themselves.
            "server_cursors": {"cursors"},
            # How long it may be quiet is decided where its limits are known.
            "state.wrapper": {"quiet"},
            "connecting.settle": {"quiet"},
            "recovery.outcome": {"identity"},
        },
    ),
    Owned(
        TransactionState,
        {"transaction", "_transaction"},
        {"state.transaction"},
        # The healthy path, and the announcements that wait for its outcome.
        {
            "cursors": {"texts"},
            "hooks.transactions": {"texts"},
            "state.announce": {"announcements"},
        },
    ),
    Owned(
        Session,
        {"session", "_session", "earlier"},
        {"state.session"},
        {"state.wrapper": {"continues", "registered"}},
    ),
    Owned(
        Connector,
        {"connector", "_connector"},
        {"state.connector"},
        {"state.aside": {"budget"}},  # a connection beside it spends of the same
    ),
    Owned(
        Unit,
        {"unit", "units", "following"},
        {"state.unit_of_work"},
        # They begin and end it.
        {"middleware": {"ended"}, "transaction": {"ended"}},
    ),
    Owned(
        Invalidation,
        {"invalid", "_invalid"},
        {"state.loss"},
        {"hooks.transactions": {"rolled_back"}},
    ),
    Owned(
        Wrapper,
        {"db", "_db", "wrapper", "connection"},
        {"state.wrapper", "state.aside", *(f"hooks.{name}" for name in HOOKS)},
        {},
    ),
    Owned(
        CircuitBreaker,
        {"breaker"},
        {"policy.circuit_breaker"},
        # Only who connects knows that a server ends its sessions, or that somebody has heard of it.
        {"connecting.attempts": {"mute", "surfaced"}, "connecting.settle": {"mute"}},
    ),
    Owned(
        Resilience,
        {"resilience"},
        {"state.shared"},
        {"pool.pool": {"terms"}, "connecting.attempts": {"terms"}},
    ),
)


def written(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Each attribute that something is assigned to, taken from, or changed by a method."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, (ast.Assign, ast.Delete)):
            targets = list(node.targets)
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            targets = [node.func.value] if node.func.attr in CHANGING else []
        while targets:
            target = targets.pop()
            if isinstance(target, ast.Tuple):
                targets += target.elts
            elif isinstance(target, ast.Subscript):
                targets.append(target.value)
            elif isinstance(target, ast.Attribute):
                yield target


def init_of(path: Path) -> ast.FunctionDef:
    (init,) = (
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    return init


def fields(kind: type) -> set[str]:
    """Those of its own, not what Django has given a wrapper: all that its methods set."""
    own = ast.parse(inspect.getsource(kind))
    set_here = {target.attr for target in written(own) if name_of(target.value) == "self"}
    return FIELDS if kind is Wrapper else set_here


def name_of(value: ast.expr) -> str:
    """The name that the object of an attribute has there, such as "_link" of ``db._link``."""
    if isinstance(value, ast.Subscript):
        value = value.value
    return str(getattr(value, "id", getattr(value, "attr", "")))


def test_the_wrapper_has_few_fields_of_its_own() -> None:
    init = init_of(HOME / "state" / "wrapper.py")
    assert {target.attr for target in written(init)} | {"resilience"} == FIELDS
    assert hasattr(Wrapper, "resilience")


@pytest.mark.parametrize("owned", OBJECTS, ids=lambda owned: owned.kind.__name__)
def test_nobody_else_writes_its_fields(owned: Owned) -> None:
    writers: dict[str, set[str]] = defaultdict(set)
    for path in sorted(HOME.rglob("*.py")):
        module = ".".join(path.relative_to(HOME).with_suffix("").parts)
        if module in owned.home or module.startswith("diagnosis."):
            continue
        for target in written(ast.parse(path.read_text(encoding="utf-8"))):
            if name_of(target.value) in owned.names and target.attr in fields(owned.kind):
                writers[module].add(target.attr)
    assert writers == owned.others
