"""Which thread asks a server that is down. Clocks are counted, nobody waits."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_resilient_pg.policy.circuit_breaker import CircuitBreaker, Permit
from django_resilient_pg.policy.rules import backoff


class Down:
    """A breaker whose server has just failed once, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.breaker = CircuitBreaker(clock=lambda: self.now)
        self.breaker.failed(Permit.FREE, "refused", lambda _: 1.0)


def test_while_the_server_answers_everybody_connects() -> None:
    breaker = CircuitBreaker()
    assert [breaker.begin() for _ in range(3)] == [Permit.FREE] * 3
    assert (breaker.due_in(), breaker.down) == (0.0, False)


def test_one_at_a_time_asks_and_only_when_it_is_due() -> None:
    down = Down()
    assert down.breaker.begin() is Permit.WAIT
    assert down.breaker.due_in() == 1.0
    down.now += 1.0
    assert [down.breaker.begin() for _ in range(3)] == [Permit.ASK, Permit.WAIT, Permit.WAIT]
    assert down.breaker.asking
    assert 0 < down.breaker.due_in() < 1


def test_the_next_attempt_follows_the_failure_of_the_last() -> None:
    down = Down()
    for failures in (2, 3, 4):
        down.now += 10.0
        down.breaker.failed(down.breaker.begin(), "refused", float)
        assert down.breaker.begin() is Permit.WAIT
        assert down.breaker.due_in() == failures


def test_attempts_begun_before_it_was_known_do_not_set_the_pace() -> None:
    down = Down()
    down.now += 0.9
    assert not down.breaker.failed(Permit.FREE, "refused too", lambda _: 60.0)
    assert down.breaker.due_in() == pytest.approx(0.1)
    assert (down.breaker.failures, down.breaker.said) == (1, "refused")


@pytest.mark.parametrize("permit", [Permit.ASK, Permit.FREE])
def test_an_answer_sets_everybody_free(permit: Permit) -> None:
    down = Down()
    down.now += 1.0
    assert down.breaker.begin() is Permit.ASK
    down.now += 1.0
    assert down.breaker.answered(permit) == 2.0
    assert down.breaker.answered(permit) is None
    assert [down.breaker.begin() for _ in range(2)] == [Permit.FREE] * 2
    assert down.breaker.failed(Permit.FREE, "again", float)
    assert (down.breaker.failures, down.breaker.due_in() > 0) == (1, True)


def test_an_interrupted_attempt_leaves_its_turn_to_the_next() -> None:
    down = Down()
    down.now += 1.0
    down.breaker.interrupted(down.breaker.begin())
    assert down.breaker.begin() is Permit.ASK


@pytest.mark.parametrize("verdict", ["answered", "failed"])
def test_a_verdict_wakes_those_that_wait(verdict: str) -> None:
    down = Down()
    down.now += 1.0
    assert down.breaker.begin() is Permit.ASK
    waiting = threading.Thread(target=down.breaker.wait, args=(60.0,))
    waiting.start()
    while waiting.is_alive():  # a verdict before it waits is not heard, so tell it again
        if verdict == "answered":
            down.breaker.answered(Permit.ASK)
        else:
            down.breaker.failed(Permit.ASK, "refused", lambda _: 1.0)
        waiting.join(0.01)


def test_nobody_waits_for_a_server_that_has_answered() -> None:
    CircuitBreaker().wait(60.0)


def test_a_forked_child_is_not_held_up_by_its_parents_threads() -> None:
    """Neither by the permit another thread had, nor by the lock it held."""
    down = Down()
    down.now += 1.0
    assert down.breaker.begin() is Permit.ASK
    with down.breaker._changed:
        child = os.fork()
        if child == 0:
            os._exit(0 if down.breaker.begin() is Permit.ASK else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_pause_doubles_up_to_its_bound_and_is_never_less_than_half(
    failures: int, chance: float
) -> None:
    bound = min(0.5, 0.05 * 2 ** (min(failures, 60) - 1))
    waited = backoff(failures, base=0.05, most=0.5, least=0.5, random=lambda: chance)
    assert bound / 2 <= waited <= bound
