"""The table of the promise, row by row, and what bounds it. Nothing here waits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_resilient_pg.connecting.backoff import connect_again
from django_resilient_pg.policy.rules import (
    Budget,
    Circumstances,
    RetryRule,
    backoff,
    decide,
    pace,
    was_terminated,
)
from django_resilient_pg.policy.token_bucket import TokenBucket
from django_resilient_pg.policy.verdicts import Failure, Phase, Verdict, judge
from django_resilient_pg.sql.statements import Kind

LOST = judge(
    Failure(
        Phase.STATEMENT, True, "OperationalError", None, None, "SSL SYSCALL error: EOF detected"
    )
)
NOT_SENT = judge(
    Failure(Phase.STATEMENT, True, "OperationalError", None, None, "the connection is closed")
)


def told(sqlstate: str | None, text: str) -> Verdict:
    return judge(Failure(Phase.STATEMENT, True, "OperationalError", sqlstate, "FATAL", text))


TERMINATED = told("57P01", "terminating connection due to administrator command")
CLOSED = judge(
    Failure(
        Phase.STATEMENT,
        True,
        "OperationalError",
        None,
        None,
        "SSL connection has been closed unexpectedly",
    )
)
LIMIT = told("25P04", "terminating connection due to transaction timeout")
LIMITS = [LIMIT, told("08P01", "query_timeout")]
IDLE = told("25P03", "terminating connection due to idle-in-transaction timeout")
AUTOCOMMIT = Circumstances(autocommit=True, untouched=True)
FIRST = Circumstances(autocommit=False, untouched=True)
LATER = Circumstances(autocommit=False, untouched=False)


@pytest.mark.parametrize(
    ("verdict", "kind", "at", "rule"),
    [
        (LOST, Kind.READ, AUTOCOMMIT, RetryRule.READ),
        (LOST, Kind.WRITE, AUTOCOMMIT, None),
        (LOST, Kind.OTHER, AUTOCOMMIT, None),
        (LOST, Kind.UNREPEATABLE, AUTOCOMMIT, None),
        (LOST, Kind.READ, FIRST, RetryRule.FIRST),
        (LOST, Kind.WRITE, FIRST, RetryRule.FIRST),
        (LOST, Kind.OTHER, FIRST, RetryRule.FIRST),
        (LOST, Kind.UNREPEATABLE, FIRST, None),
        (LOST, Kind.READ, LATER, None),
        (LOST, Kind.WRITE, LATER, None),
        (NOT_SENT, Kind.WRITE, AUTOCOMMIT, RetryRule.NOTHING_SENT),
        (NOT_SENT, Kind.UNREPEATABLE, AUTOCOMMIT, RetryRule.NOTHING_SENT),
        (NOT_SENT, Kind.UNREPEATABLE, FIRST, RetryRule.NOTHING_SENT),
        (NOT_SENT, Kind.READ, LATER, None),
        (IDLE, Kind.WRITE, FIRST, RetryRule.FIRST),
    ],
)
def test_each_row_of_the_promise(
    verdict: Verdict, kind: Kind, at: Circumstances, rule: RetryRule | None
) -> None:
    decision = decide(verdict, kind, at)
    assert decision.rule is rule
    assert bool(decision.why) == (rule is None), "a refusal says why"


def test_the_rows_have_the_names_that_signals_document() -> None:
    assert [row.value for row in RetryRule] == [
        "nothing was sent",
        "refused by a standby",
        "first statement of the transaction",
        "read",
        "setting of the session",
    ]


@pytest.mark.parametrize("verdict", LIMITS)
@pytest.mark.parametrize("at", [AUTOCOMMIT, FIRST, replace(AUTOCOMMIT, many=True)])
def test_what_a_limit_has_ended_is_not_run_again(verdict: Verdict, at: Circumstances) -> None:
    assert decide(verdict, Kind.READ, at).rule is None
    assert "same timeout" in decide(verdict, Kind.READ, replace(at, many=False)).why
    assert "may already have been applied" in decide(verdict, Kind.WRITE, AUTOCOMMIT).why


@pytest.mark.parametrize(
    "circumstance",
    [{"pinned_by": "SET search_path"}, {"raw_transaction": True}, {"repeatable": False}],
)
def test_what_forbids_every_row(circumstance: dict[str, object]) -> None:
    for verdict, kind in itertools.product([LOST, NOT_SENT], Kind):
        at = replace(AUTOCOMMIT, **circumstance)  # type: ignore[arg-type]
        assert decide(verdict, kind, at).rule is None


@given(st.sampled_from(list(Kind)), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_a_write_that_may_have_taken_effect_is_never_run_again(
    kind: Kind, autocommit: bool, untouched: bool, raw: bool, savepoint: bool
) -> None:
    at = Circumstances(autocommit, untouched, raw_transaction=raw, savepoint=savepoint)
    rule = decide(LOST, kind, at).rule
    if autocommit and kind is not Kind.READ and not savepoint:
        assert rule is None
    if not autocommit and not untouched:
        assert rule is None


REFUSED = replace(LOST, read_only=True)
REFUSED_SAFELY = replace(NOT_SENT, read_only=True)


@pytest.mark.parametrize("verdict", [REFUSED, REFUSED_SAFELY])
@pytest.mark.parametrize("at", [AUTOCOMMIT, FIRST])
def test_what_a_standby_refused_had_no_effect(verdict: Verdict, at: Circumstances) -> None:
    for kind in Kind:
        decision = decide(verdict, kind, at)
        assert decision.rule is (None if kind is Kind.UNREPEATABLE else RetryRule.REFUSED)
        assert bool(decision.why) == (decision.rule is None)
        assert decide(verdict, kind, LATER).rule is None


@pytest.mark.parametrize("kind", [Kind.OTHER, Kind.WRITE])
def test_settings_that_every_new_session_is_given_may_be_sent_again(kind: Kind) -> None:
    assert decide(LOST, kind, replace(AUTOCOMMIT, only_sets=True)).rule is RetryRule.SETTING
    assert decide(LOST, kind, AUTOCOMMIT).rule is None


@pytest.mark.parametrize("verdict", [LOST, NOT_SENT, REFUSED])
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("at", [AUTOCOMMIT, FIRST, LATER])
def test_many_rows_of_which_some_may_have_taken_effect(
    verdict: Verdict, kind: Kind, at: Circumstances
) -> None:
    """A transaction is lost as a whole; in autocommit only reads may run again, as reads."""
    many, one = decide(verdict, kind, replace(at, many=True)), decide(verdict, kind, at)
    if at is LATER or (at is FIRST and kind is not Kind.UNREPEATABLE):
        assert many == one
    elif kind is Kind.READ and verdict is not REFUSED:
        assert many.rule is RetryRule.READ
    else:
        assert many.rule is None
        assert "for some of its rows" in many.why


def test_djangos_own_savepoint_may_come_first() -> None:
    at = Circumstances(autocommit=False, untouched=True, savepoint=True)
    assert decide(LOST, Kind.UNREPEATABLE, at).rule is RetryRule.FIRST


def test_a_budget_is_spent_by_the_clock_alone() -> None:
    now = [100.0]
    budget = Budget(10.0, clock=lambda: now[0])
    now[0] += 4
    assert budget.remaining() == 6
    now[0] += 60
    assert budget.remaining() == 0
    assert (budget.seconds, budget.strict) == (10.0, False)
    assert Budget(10.0, strict=True).strict


def test_the_bucket_stops_a_storm_and_recovers() -> None:
    bucket = TokenBucket()
    assert sum(bucket.take() for _ in range(200)) == 100
    for _ in range(4):
        bucket.refund()
    assert not bucket.take()
    bucket.refund()
    assert bucket.take()


def test_a_retry_that_succeeds_gives_back_what_it_took() -> None:
    bucket = TokenBucket()
    assert all(bucket.take() for _ in range(3))
    bucket.refund(bucket.COST)
    assert (bucket.tokens, bucket.short) == (490, True)
    for _ in range(3):  # with successes beside it: never more than there were
        bucket.refund(bucket.COST)
    assert (bucket.tokens, bucket.short) == (500, False)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_backoff_is_full_jitter_below_a_doubling_bound(attempt: int, chance: float) -> None:
    wait = backoff(attempt, base=0.05, most=2.0, random=lambda: chance)
    assert 0 <= wait <= min(2.0, 0.05 * 2 ** (min(attempt, 60) - 1))


def test_backoff_may_begin_at_no_time_at_all() -> None:
    assert backoff(3, base=1.0, most=8.0, random=lambda: 0.0) == 0.0


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0)])
def test_backoff_that_is_at_least_a_part_of_its_bound(chance: float, wait: float) -> None:
    assert backoff(3, base=1.0, most=8.0, least=0.25, random=lambda: chance) == wait


# -- how soon a server is asked again that is down -------------------------------------------------


@given(st.integers(1, 100), st.floats(0, 1), st.floats(0, 1))
def test_a_restart_is_noticed_within_a_tenth_of_a_second(
    failures: int, lasted: float, chance: float
) -> None:
    assert pace(failures, lasted, base=0.05, most=0.5, random=lambda: chance) <= 0.1


@given(st.integers(1, 100), st.floats(0, 1e6), st.floats(0, 1))
def test_the_pace_of_an_outage_has_both_bounds(failures: int, lasted: float, chance: float) -> None:
    wait = pace(failures, lasted, base=0.05, most=0.5, random=lambda: chance)
    assert wait <= min(0.5, max(0.05, lasted / 10))
    assert wait >= 0.025
    if failures >= 5 and lasted >= 5:
        assert wait >= 0.25


def test_a_longest_wait_that_is_shorter_is_never_exceeded() -> None:
    assert pace(50, 100.0, base=0.001, most=0.05, random=lambda: 1.0) == 0.05


def test_a_first_wait_that_is_longer_is_not_cut() -> None:
    assert pace(1, 0.0, base=0.4, most=0.5, random=lambda: 1.0) == 0.4


class Passing(Exception):
    """A failure that may pass."""


class Server:
    """Refuses so many attempts, on a clock of its own."""

    def __init__(self, refusals: int) -> None:
        self.now, self.refusals, self.attempts = 0.0, refusals, 0
        self.waits: list[float] = []

    def connect(self) -> None:
        self.attempts += 1
        if self.attempts <= self.refusals:
            raise Passing(f"refused {self.attempts}")

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, seconds: float, first: Exception) -> None:
        connect_again(
            self.connect,
            first,
            passing=lambda error: isinstance(error, Passing),
            wait=lambda attempt: backoff(attempt, base=0.05, most=2.0, random=lambda: 1.0),
            remaining=Budget(seconds, clock=lambda: self.now).remaining,
            announce=lambda attempt, wait, error: self.waits.append(wait),
            sleep=self.sleep,
        )


def test_connecting_goes_on_until_the_server_is_back() -> None:
    server = Server(refusals=3)
    server.run(10.0, Passing("first"))
    assert server.attempts == 4
    assert server.waits == [0.05, 0.1, 0.2, 0.4]


def test_connecting_gives_up_within_the_budget_with_the_last_error() -> None:
    server = Server(refusals=10_000)
    with pytest.raises(Passing, match="refused"):
        server.run(10.0, Passing("first"))
    assert server.now <= 10.0


def test_a_failure_that_cannot_pass_ends_it_at_once() -> None:
    server = Server(refusals=0)
    with pytest.raises(ValueError, match="wrong password"):
        server.run(10.0, ValueError("wrong password"))
    assert (server.attempts, server.now) == (0, 0.0)


@pytest.mark.parametrize(
    ("verdict", "ran", "hides_words", "answer"),
    [
        (TERMINATED, 5.0, False, True),
        (TERMINATED, 4.9, False, False),
        (CLOSED, 5.0, True, True),
        (CLOSED, 5.0, False, False),
        (LOST, 60.0, True, False),
        (IDLE, 60.0, False, False),
    ],
)
def test_nobody_terminates_a_short_statement_by_hand(
    verdict: Verdict, ran: float, hides_words: bool, answer: bool
) -> None:
    assert was_terminated(verdict, ran, hides_words=hides_words) is answer
