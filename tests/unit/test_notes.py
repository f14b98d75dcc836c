"""The sentences of notes and log lines."""

from __future__ import annotations

import pytest

from django_resilient_pg.policy import messages
from django_resilient_pg.policy.rules import RetryRule
from django_resilient_pg.policy.verdicts import Reason
from django_resilient_pg.recovery import statement

pytestmark = pytest.mark.once_per_driver


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0 ms"),
        (0.00004, "0.04 ms"),
        (0.0004, "0.4 ms"),
        (0.008, "8 ms"),
        (0.0994, "99 ms"),
        (0.1, "0.1 s"),
        (0.2, "0.2 s"),
        (2.0, "2.0 s"),
        (35.0, "35 s"),
        (3600.0, "3600 s"),
    ],
)
def test_durations_can_be_read(value: float, shown: str) -> None:
    assert messages.seconds(value) == shown


def test_the_sentence_of_a_loss() -> None:
    said = messages.happened("default", Reason.ADMINISTRATOR, 0.2, None, "57P01")
    assert (
        said == 'Connection "default" lost after 0.2 s idle: terminated by administrator [57P01].'
    )


def test_every_row_by_which_a_statement_is_retried_has_its_words() -> None:
    assert set(statement._RETRIED) == set(RetryRule)
