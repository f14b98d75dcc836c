"""What ``connection.resilience.stats`` counts: exactly, whatever threads there are."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from django_resilient_pg.policy.verdicts import Reason
from django_resilient_pg.signals import ConnectionLost
from django_resilient_pg.state.histogram import Histogram
from django_resilient_pg.state.shared import Shared
from tests.engines import at_once

pytestmark = pytest.mark.once_per_driver


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def lost(*, healed: bool) -> ConnectionLost:
    return ConnectionLost("default", Reason.CRASH, None, "gone", 1.0, "statement", healed=healed)


@pytest.mark.usefixtures("hasty")
def test_counts_are_exact_under_threads() -> None:
    shared, threads, rounds = Shared(), 8, 300

    def work() -> None:
        for number in range(rounds):
            shared.count("lost", "CRASH")
            shared.count("retried", "statement")
            shared.took("reconnect", 0.01)
            shared.settled(lost(healed=bool(number % 3)))

    at_once(threads, work)
    stats, whole = shared.stats(), threads * rounds
    assert dict(stats.lost) == {"CRASH": whole}
    assert dict(stats.retried) == {"statement": whole}
    assert (stats.healed, stats.surfaced) == (whole * 2 // 3, whole // 3)
    assert stats.reconnects.count == whole


def test_the_last_losses_are_kept_and_no_more() -> None:
    shared = Shared()
    for number in range(100):
        shared.settled(lost(healed=number % 2 == 0))
    kept = shared.stats().last_losses
    assert len(kept) == 16
    assert not kept[-1].healed


def test_without_any_duration_there_is_no_percentile() -> None:
    timings = Histogram().timings()
    assert (timings.count, timings.p50, timings.p99) == (0, None, None)


@pytest.mark.parametrize("seconds", [0.0, 1e-7, 1e-6, 3e-5, 0.008, 0.5, 2.0, 60.0])
def test_a_percentile_is_no_more_than_a_tenth_off(seconds: float) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    timings = histogram.timings()
    shown = max(seconds, 1e-6)
    assert timings.count == 1
    assert timings.p50 is not None
    assert timings.p50 == timings.p99
    assert shown * 0.999 <= timings.p50 <= shown * 1.1


def test_percentiles_tell_the_rare_from_the_common() -> None:
    histogram = Histogram()
    for _ in range(980):
        histogram.add(0.001)
    for _ in range(20):
        histogram.add(1.0)
    timings = histogram.timings()
    assert timings.p50 is not None
    assert timings.p99 is not None
    assert timings.p50 < 0.0012
    assert timings.p99 > 0.99


def test_a_duration_beyond_all_bounds_is_counted() -> None:
    histogram = Histogram()
    histogram.add(1e9)
    assert histogram.timings().count == 1
