"""The load's accounting: a ledger blind to lost or doubled writes would prove nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest

from testproject.faults import schedule, timely
from testproject.ledger import Found, Kind, Ledger, Result, judge
from testproject.witness import count

pytestmark = pytest.mark.once_per_driver

NOTHING: dict[str, int] = {}


def fine() -> None:
    """An operation that succeeds."""


def broken() -> None:
    raise ConnectionError("the connection is gone\nsecond line")


def outcome(
    kind: Kind, work: Callable[[], None], movements: int = 0, orders: int = 0, lines: int = 0
) -> Result:
    """One attempt with token "t", of which the database then has so many rows."""
    ledger = Ledger()
    ledger.attempt(kind, work, "t")
    found = Found(*({"t": rows} if rows else {} for rows in (movements, orders, lines)))
    return judge([ledger], found, engine="engine", seconds=1.0)


def marks(result: Result) -> set[str]:
    """Which of the counts of outcomes are not zero."""
    names = ("landed", "lost", "doubled", "half_committed", "write_errors", "failed_transactions")
    return {name for name in names if getattr(result, name)}


@pytest.mark.parametrize(
    ("work", "rows", "expected"),
    [
        (fine, 1, set()),
        (fine, 0, {"lost"}),
        (fine, 2, {"doubled"}),
        (broken, 0, {"write_errors"}),
        (broken, 1, {"write_errors", "landed"}),
        (broken, 2, {"write_errors", "doubled"}),
    ],
)
def test_write_is_judged_by_its_rows(
    work: Callable[[], None], rows: int, expected: set[str]
) -> None:
    assert marks(outcome(Kind.WRITE, work, movements=rows)) == expected


@pytest.mark.parametrize(
    ("work", "orders", "lines", "expected"),
    [
        (fine, 1, 1, set()),
        (fine, 0, 0, {"lost"}),
        (fine, 2, 2, {"doubled"}),
        (fine, 2, 1, {"doubled"}),
        (fine, 1, 2, {"doubled"}),
        (fine, 1, 0, {"half_committed"}),
        (fine, 0, 1, {"half_committed"}),
        (broken, 0, 0, {"failed_transactions"}),
        (broken, 1, 1, {"failed_transactions", "landed"}),
        (broken, 1, 0, {"failed_transactions", "half_committed"}),
        (broken, 2, 2, {"failed_transactions", "doubled"}),
    ],
)
def test_transaction_is_judged_by_both_its_rows(
    work: Callable[[], None], orders: int, lines: int, expected: set[str]
) -> None:
    assert marks(outcome(Kind.TRANSACTION, work, orders=orders, lines=lines)) == expected


def test_rows_of_a_transaction_do_not_stand_for_a_write() -> None:
    assert marks(outcome(Kind.WRITE, fine, orders=1, lines=1)) == {"lost"}


def test_failed_reads_and_their_errors_are_counted() -> None:
    ledger = Ledger()
    told = [ledger.attempt(Kind.READ, work) for work in (fine, broken, broken)]
    result = judge([ledger], Found(NOTHING, NOTHING, NOTHING), engine="engine", seconds=1.0)
    assert told == [True, False, False]
    assert (result.operations["read"], result.failed_reads) == (3, 2)
    assert result.errors == {"ConnectionError: the connection is gone": 2}


def test_what_is_no_error_ends_the_load() -> None:
    ledger = Ledger()

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.attempt(Kind.READ, interrupted)


def test_ledgers_are_added_up_and_the_slowest_operation_wins() -> None:
    ledgers = [Ledger(clock) for clock in (clock_of(0, 1), clock_of(0, 7))]
    for number, ledger in enumerate(ledgers):
        ledger.attempt(Kind.WRITE, partial(ledger.count_statement), f"t{number}")
    rows = {"t0": 1, "t1": 1}
    result = judge(ledgers, Found(rows, NOTHING, NOTHING), engine="engine", seconds=1.0)
    assert result.statements == {"read": 0, "write": 2, "transaction": 0}
    assert result.total_statements == 2
    assert (result.threads, result.slowest) == (2, 7.0)
    assert marks(result) == set()


def clock_of(*seconds: float) -> Callable[[], float]:
    return partial(next, iter(seconds))


def test_failed_operation_counts_for_the_slowest() -> None:
    ledger = Ledger(clock_of(0, 9))
    ledger.attempt(Kind.READ, broken)
    assert ledger.slowest == 9.0


def test_token_used_twice_is_refused() -> None:
    ledger = Ledger()
    ledger.attempt(Kind.WRITE, fine, "t")
    with pytest.raises(ValueError, match="token t is used for a second write"):
        ledger.attempt(Kind.WRITE, fine, "t")


def test_token_used_by_two_threads_is_refused() -> None:
    ledgers = [Ledger(), Ledger()]
    for ledger in ledgers:
        ledger.attempt(Kind.WRITE, fine, "t")
    with pytest.raises(ValueError, match="token t was used by two threads"):
        judge(ledgers, Found({"t": 1}, NOTHING, NOTHING), engine="engine", seconds=1.0)


def test_rows_are_counted_per_table() -> None:
    rows = {"shop_movement": [("p-1", 1)], "shop_order": [("p-2", 2)], "shop_orderline": []}

    def ask(sql: str, params: object) -> list[tuple[str, int]]:
        assert params == ("p-",)
        return rows[sql.split(" FROM ")[1].split()[0]]

    assert count(ask, "p-") == Found({"p-1": 1}, {"p-2": 2}, {})


def test_restarts_take_their_place_among_the_kills() -> None:
    planned = list(itertools.islice(schedule(1.0, [(2.5, "immediate"), (0.5, "fast")]), 5))
    assert planned == [(0.5, "fast"), (1.0, None), (2.0, None), (2.5, "immediate"), (3.0, None)]


def test_without_kills_there_are_only_restarts() -> None:
    assert list(schedule(None, [(2.5, "fast")])) == [(2.5, "fast")]


class Clock:
    """Time that passes only when somebody waits, and is over after five seconds."""

    now = 0.0

    def elapsed(self) -> float:
        return self.now

    def wait(self, at: float) -> bool:
        self.now = max(self.now, at)
        return self.now >= 5.0


def test_kills_that_were_due_during_a_restart_are_left_out() -> None:
    clock = Clock()
    happened: list[tuple[float, str | None]] = []
    for mode in timely(schedule(1.0, [(1.5, "fast")]), clock.elapsed, clock.wait, 0.4):
        happened.append((clock.now, mode))
        if mode:
            clock.wait(3.5)  # how long the restart takes: the kills at 2 and 3 are gone
    assert happened == [(1.0, None), (1.5, "fast"), (4.0, None)]
