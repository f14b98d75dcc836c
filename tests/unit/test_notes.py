"""The sentences of notes and log lines."""

from __future__ import annotations

import pytest

from django_resilient_pg import notes
from django_resilient_pg.verdicts import Reason

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
    assert notes.seconds(value) == shown


def test_the_sentence_of_a_loss() -> None:
    said = notes.happened("default", Reason.ADMINISTRATOR, 0.2, None, "57P01")
    assert (
        said == 'Connection "default" lost after 0.2 s idle: terminated by administrator [57P01].'
    )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("one line\nand another", "one line"),
        ("\x1b[31mred\x07\u202e", "\\x1b[31mred\\x07\\u202e"),
        ("not found: 'postgres://u:p@ss:w@db/x'", "not found: 'postgres://u:***@db/x'"),
        ("host=db password=secret user=app", "host=db password=*** user=app"),
        ("host=db password='a b' user=app", "host=db password=*** user=app"),
        (
            'connection to server at "::1", port 5432 failed: Connection refused',
            'connection to server at "::1", port 5432 failed: Connection refused',
        ),
        ("x" * 1000, "x" * 300 + "..."),
        ("", ""),
    ],
)
def test_what_others_say_is_shown_harmlessly(said: str, shown: str) -> None:
    assert notes.first_line(said) == shown
