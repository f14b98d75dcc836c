"""docs/testing.rst says what ``django_resilient_pg.testing`` takes."""

from __future__ import annotations

import inspect

import pytest

from django_resilient_pg.testing import Outage
from tests.unit.pages import page, table

pytestmark = pytest.mark.once

PAGE = "docs/testing.rst"


def test_the_arguments_are_documented() -> None:
    given = list(inspect.signature(Outage.before).parameters.values())[1:]
    rows = table(page(PAGE), "Argument")
    assert [row[:2] for row in rows] == [[one.name, repr(one.default)] for one in given]


def test_every_fault_is_documented() -> None:
    text = page(PAGE).astext()
    faults = [name for name in vars(Outage) if not name.startswith("_")]
    assert len(faults) == 5
    assert [name for name in faults if f"\n{name}(" not in text] == []
