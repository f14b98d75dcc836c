"""A soak of some seconds; that broken engines are found out by it; what counts as growth."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from functools import partial
from typing import Final

import pytest
from django.db import OperationalError

from testproject.ledger import MOST_ERRORS, Found, Kind, Ledger, Result, judge
from tests.soak.campaign import Campaign
from tests.soak.held import ENOUGH, Held, growth
from tests.soak.processes import KINDS, violations
from tests.soak.timed import Timed

pytestmark = pytest.mark.once_per_driver

SECONDS: Final = 4.0
#: Seconds in which a broken engine is found out; it takes a few.
PATIENCE: Final = 60.0


def test_nothing_is_doubled_or_lost_or_left_behind() -> None:
    seed = secrets.token_hex(4)
    with Campaign(seed=seed, threads=3) as campaign:
        rounds = [campaign.round(SECONDS / 2), campaign.round(SECONDS / 2)]
        grown = campaign.growth()
    assert not any(one.violations for one in rounds), (seed, rounds)
    assert not grown, grown
    assert all(one.faults for one in rounds)
    assert all(result.total_statements for one in rounds for result in one.results.values())


@pytest.mark.parametrize(
    ("mutant", "told"),
    [
        ("writes in autocommit are retried", "doubled"),
        ("it goes on outside the transaction", "not those of a lost"),
    ],
)
def test_a_broken_engine_is_found_out(mutant: str, told: str) -> None:
    deadline = time.monotonic() + PATIENCE
    found: list[str] = []
    with Campaign(
        kinds=KINDS[:1],
        module=("tests.soak.broken", mutant),
        only=["cut one"],
        pause=(0.01, 0.03),
    ) as campaign:
        while not found and time.monotonic() < deadline:
            found = campaign.round(1.0).violations
    assert any(told in text for text in found), found


# -- what is a violation ------------------------------------------------------------------------


class Slow:
    """Operations that fail after so many seconds, with a note."""

    using = "default"

    def __init__(self, seconds: float, note: str) -> None:
        self.seconds, self.note = seconds, note

    def read(self, *_: object) -> None:
        error = OperationalError("server closed the connection unexpectedly")
        error.add_note(self.note)
        raise error

    write = buy = read

    def clock(self) -> Iterator[float]:
        yield 0.0
        yield self.seconds


READ = "The statement was not retried: retry_deadline (60 s) is used up. To prevent this: ..."
BUY = "The transaction was not retried: retry_atomic's deadline (60 s) is used up."


@pytest.mark.parametrize(
    ("do", "seconds", "note", "retries", "late"),
    [
        ("read", 60.0, READ, False, 1),
        ("read", 59.7, READ, True, 1),  # the next pause would have ended after it
        ("read", 40.0, READ, True, 0),  # which it says and is not so
        ("read", 60.0, "too many retries are under way in this process", True, 0),
        ("buy", 61.0, BUY, True, 1),
        ("buy", 11.0, BUY.replace("60", "10"), True, 0),  # of a deadline that nobody has set
        ("buy", 61.0, READ, False, 0),  # a transaction that nothing retries is not counted
        ("write", 61.0, READ, True, 0),
    ],
)
def test_only_what_has_used_up_its_deadline_is_late(
    do: str, seconds: float, note: str, retries: bool, late: int
) -> None:
    slow = Slow(seconds, note)
    timed = Timed(slow, 60.0, retries=retries, clock=slow.clock().__next__)
    arguments = [random.Random()] if do == "read" else [random.Random(), "token"]
    with pytest.raises(OperationalError):
        getattr(timed, do)(*arguments)
    assert timed.late == late


def of(kind: Kind, errors: list[Exception]) -> Result:
    """What came of operations that all failed."""
    ledger = Ledger()

    def fail(error: Exception) -> None:
        raise error

    for error in errors:
        ledger.attempt(kind, partial(fail, error))
    return judge([ledger], Found({}, {}, {}), engine="engine", seconds=1.0)


def test_what_is_late_is_no_violation() -> None:
    retrying = next(kind for kind in KINDS if kind.retries)
    result = of(Kind.TRANSACTION, [OperationalError("lost"), OperationalError("lost")])
    assert violations(retrying, result, [], late=2) == []
    (told,) = violations(retrying, result, [], late=1)
    assert told.startswith("retry_atomic: 1 reads, or transactions under retry_atomic, failed")


def test_an_error_of_another_class_is_seen_among_many() -> None:
    errors = [OperationalError(f"lost {n}") for n in range(2 * MOST_ERRORS)]
    result = of(Kind.WRITE, [*errors, AssertionError("a wrong answer")])
    assert violations(KINDS[0], result, [], late=0) == [
        "kept: 1 errors are not those of a lost connection"
    ]


def test_more_descriptors_and_threads_are_growth() -> None:
    steady = [Held(60.0, 10, 4)] * 3
    assert not growth([*steady, Held(60.0, 12, 6)])
    assert growth([*steady, Held(60.0, 13, 4)]) == ["descriptors grew from 10 to 13"]
    assert growth([*steady, Held(60.0, 10, 7)]) == ["threads grew from 4 to 7"]


def test_memory_is_judged_after_it_has_warmed_up() -> None:
    warm = [Held(memory, 10, 4) for memory in (50.0, 58.0, *[60.0] * ENOUGH)]
    assert not growth(warm)
    leaking = [Held(50.0 + 3.0 * n, 10, 4) for n in range(9)]
    assert growth(leaking) == ["memory grew from 62.0 to 71.0 MB"]
    assert not growth(leaking[: ENOUGH - 1])
