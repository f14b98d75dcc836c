"""``retry_atomic`` before it runs anything: its arguments."""

from __future__ import annotations

import re
from typing import Any

import pytest

from django_resilient_pg.transaction import retry_atomic

COUNT = "but must be a whole number from 0 to 100 times."
SECONDS = "but must be a number from 0 to 86400 seconds."


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ({"retires": 5}, TypeError, 'has no argument "retires": did you mean "retries"?'),
        ({"xyz": 5}, TypeError, '"xyz": use one of using, retries, deadline, conflicts.'),
        ({"retries": -3}, ValueError, f"retries is -3, {COUNT} The nearest valid value is 0."),
        ({"retries": 101}, ValueError, f"retries is 101, {COUNT} The nearest valid value is 100."),
        ({"retries": 2.5}, TypeError, f"retries is 2.5, {COUNT}"),
        ({"retries": 2.0}, TypeError, f"retries is 2.0, {COUNT}"),
        ({"retries": True}, TypeError, f"retries is True, {COUNT}"),
        ({"deadline": float("nan")}, ValueError, f"deadline is nan, {SECONDS}"),
        ({"deadline": 1e9}, ValueError, f"{SECONDS} The nearest valid value is 86400."),
        ({"deadline": "30"}, TypeError, f"deadline is '30', {SECONDS}"),
        ({"deadline": None}, TypeError, f"deadline is None, {SECONDS}"),
        ({"conflicts": "no"}, TypeError, "conflicts is 'no', but must be True or False."),
        ({"conflicts": 1}, TypeError, "conflicts is 1, but must be True or False."),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_where_they_stand(
    wrong: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        retry_atomic(**wrong)
    assert type(caught.value) is kind
    assert str(caught.value).startswith("retry_atomic")
    assert str(caught.value).endswith(said)
    if not {"retires", "xyz"} & set(wrong):
        with pytest.raises(kind, match=re.escape(said)):
            retry_atomic.run(lambda: None, **wrong)
