"""The mutation check of the layers that decide: what it changes, and what is explained."""

from __future__ import annotations

import ast
import tomllib

import pytest

from scripts.mutants.__main__ import EXPLAINED
from scripts.mutants.changes import mutants
from scripts.mutants.targets import ROOT, TARGETS, files_of, path_of

pytestmark = pytest.mark.once

SOURCE = '''
"""Says something."""
from typing import TYPE_CHECKING, Final
if TYPE_CHECKING:
    import os
__all__ = ["f"]
WORDS: Final = frozenset("A B".split())

@cache
def f(x: int | None, y: bool = True) -> int:
    """More."""
    if y:
        self.x = 1
    return max(x, 2) if x is not None and not y else 0
'''


def test_it_changes_what_is_done_and_not_what_is_said() -> None:
    found = {(one.before, one.after) for one in mutants("m", SOURCE)}
    assert found >= {
        ('"A B".split()', "'B'.split()"),
        ('"A B".split()', "'A'.split()"),
        ("True", "False"),
        ("y", "not y"),
        ("self.x = 1", "pass"),
        ("max(x, 2)", "min(x, 2)"),
        ("2", "3"),
        ("x is not None", "x is None"),
        ("x is not None and not y", "x is not None or not y"),
        ("not y", "y"),
    }
    assert not {before for before, _ in found} & {"int | None", "TYPE_CHECKING", '["f"]'}


def test_each_change_is_of_one_place_and_has_a_name_of_its_own() -> None:
    made = list(mutants("m", SOURCE))
    assert len({one.name for one in made}) == len(made)
    for one in made:
        assert one.source != SOURCE
        ast.parse(one.source)


@pytest.mark.parametrize("module", TARGETS)
def test_what_is_explained_is_still_there(module: str) -> None:
    names = {one.name for one in mutants(module, path_of(module).read_text())}
    explained = tomllib.loads(EXPLAINED.read_text())
    assert {name for name in explained if name.startswith(module)} <= names
    assert all(name.startswith(tuple(TARGETS)) for name in explained)
    assert all(reason.strip() for reason in explained.values())
    assert all((ROOT / test).is_file() for test in files_of(module))
