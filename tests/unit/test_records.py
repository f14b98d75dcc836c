"""Records behave as frozen dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from django_resilient_pg.policy.verdicts import Reason, Verdict
from django_resilient_pg.signals import ConnectRetried, RequestRetried

RECORD = ConnectRetried("default", 1, 0.5, message="refused")


def test_it_is_shown_with_its_fields() -> None:
    shown = "ConnectRetried(alias='default', attempt=1, wait=0.5, message='refused')"
    assert repr(RECORD) == f"{RECORD}" == "%s" % RECORD == shown  # noqa: UP031


def test_it_is_equal_by_its_class_and_values() -> None:
    same = ConnectRetried(alias="default", attempt=1, wait=0.5, message="refused")
    assert same == RECORD
    assert hash(same) == hash(RECORD)
    assert dataclasses.replace(RECORD, attempt=2) != RECORD
    assert RequestRetried("GET", "/", 1) != ("GET", "/", 1)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECORD.alias = "other"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del RECORD.alias


@pytest.mark.parametrize(
    "made", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_it_can_be_copied_and_pickled(made: Any) -> None:
    assert made(RECORD) == RECORD


def test_it_is_a_dataclass() -> None:
    names = ("alias", "attempt", "wait", "message")
    assert tuple(field.name for field in dataclasses.fields(RECORD)) == names
    assert dataclasses.asdict(RECORD) == {name: getattr(RECORD, name) for name in names}


def test_a_default_need_not_be_given() -> None:
    verdict = Verdict(True, True, True, True, Reason.CRASH, "a rule")
    assert verdict.read_only is False
    assert dataclasses.replace(verdict, read_only=True).read_only


@pytest.mark.parametrize(
    ("values", "named"),
    [(("a",), {}), (("a", 1, 0.5, "b", "c"), {}), (("a", 1, 0.5), {"message": "b", "alias": "c"})],
)
def test_wrong_arguments_are_refused(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="alias, attempt, wait, message"):
        ConnectRetried(*values, **named)
