"""``retry_atomic`` before it runs anything: its arguments."""

from __future__ import annotations

import re
from typing import Any

import pytest

from django_resilient_pg.transaction import retry_atomic


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"retires": 5}, 'no argument "retires": did you mean "retries"?'),
        ({"retries": -3}, "retries is -3, but must be from 0 to 100. The nearest valid value is 0"),
        ({"retries": 2.5}, "retries is 2.5, but must be a whole number"),
        ({"deadline": float("nan")}, "deadline is nan, but must be from 0 to 86400"),
        ({"deadline": "30"}, "deadline is '30', but must be a number of seconds"),
        ({"conflicts": "no"}, "conflicts is 'no', but must be True or False"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_where_they_stand(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        retry_atomic(**wrong)
    if "retires" not in wrong:
        with pytest.raises((TypeError, ValueError), match=re.escape(said)):
            retry_atomic.run(lambda: None, **wrong)
