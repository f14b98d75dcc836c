"""A soak of some seconds; that broken engines are found out by it; what counts as growth."""

from __future__ import annotations

import secrets
import time
from typing import Final

import pytest

from tests.soak.campaign import Campaign
from tests.soak.held import ENOUGH, Held, growth
from tests.soak.processes import KINDS

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
