"""What the transaction under way has done: each transition of its state, and its invariants."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from django_resilient_pg.driver.link import ACTIVE, FAILED, IDLE, IN_TRANSACTION, UNKNOWN
from django_resilient_pg.sql.local_settings import Local
from django_resilient_pg.state.transaction import (
    AUTO,
    CLEAN,
    DIRTY,
    MANUAL,
    OPENED,
    SPLIT,
    Phase,
    TransactionState,
)
from django_resilient_pg.state.unit_of_work import LONGEST_TEXT, MOST_TEXTS, NO_TEXT

STATUSES = (IDLE, ACTIVE, IN_TRANSACTION, FAILED, UNKNOWN)


class Splits(list[bool]):
    """What ``on_split`` was called with."""


def state(phase: Phase = AUTO, splits: Splits | None = None) -> TransactionState:
    made = TransactionState((Splits() if splits is None else splits).append)
    if phase is MANUAL:
        made.observe(IN_TRANSACTION, True)
    if phase >= CLEAN:
        made.begin()
    if phase is OPENED:
        made.control(lambda sid: None, "s1", IDLE, False)
        made.opening.saved("s1")
    if phase >= DIRTY:
        assert made.enter(IDLE, False)
        made.ran("INSERT")
    if phase is SPLIT:
        made.observe(IDLE, False)
    assert made.phase is phase
    return made


@pytest.mark.parametrize(
    ("before", "status", "autocommit", "after", "first"),
    [
        (AUTO, IDLE, True, AUTO, True),
        (AUTO, IN_TRANSACTION, True, MANUAL, False),
        (AUTO, ACTIVE, True, AUTO, False),  # in a pipeline
        (AUTO, UNKNOWN, True, AUTO, False),
        (AUTO, FAILED, True, MANUAL, False),
        (MANUAL, IDLE, True, AUTO, True),
        (MANUAL, FAILED, True, MANUAL, False),
        (MANUAL, UNKNOWN, True, MANUAL, False),  # a dead connection says nothing
        (CLEAN, IDLE, False, DIRTY, True),
        (CLEAN, IN_TRANSACTION, False, DIRTY, False),  # begun past Django's cursors
        (CLEAN, UNKNOWN, False, DIRTY, False),
        (OPENED, IN_TRANSACTION, False, DIRTY, True),
        (OPENED, FAILED, False, DIRTY, False),
        (OPENED, IDLE, False, SPLIT, False),  # its savepoints are gone
        (DIRTY, IN_TRANSACTION, False, DIRTY, False),
        (DIRTY, FAILED, False, DIRTY, False),
        (DIRTY, IDLE, False, SPLIT, False),
        (SPLIT, IDLE, False, SPLIT, False),
        (SPLIT, IN_TRANSACTION, False, SPLIT, False),
        (AUTO, IDLE, False, DIRTY, True),  # AUTOCOMMIT is off for the alias
        (DIRTY, ACTIVE, True, AUTO, False),
        (DIRTY, IDLE, True, AUTO, True),  # autocommit was turned on without a word
    ],
)
def test_a_statement_enters(
    before: Phase, status: int, autocommit: bool, after: Phase, first: bool
) -> None:
    made = state(before)
    assert made.enter(status, autocommit) is first
    assert made.phase is after


def test_at_first_nothing_is_under_way_or_due() -> None:
    made = state()
    assert (made.phase, made.controlling, made.hooks_due) == (AUTO, False, 0)


def test_entering_what_a_text_has_begun_does_not_make_it_clean() -> None:
    made = state(MANUAL)
    made.begin()
    assert made.begun
    assert NO_TEXT in made.texts


def test_a_failed_statement_is_never_all_that_was_run() -> None:
    made = state(CLEAN)
    made.enter(IDLE, False)
    made.failed(IN_TRANSACTION)
    assert not made.texts
    made.failed(FAILED)
    assert NO_TEXT in made.texts


def test_a_transaction_that_the_driver_has_ended_is_told_once() -> None:
    splits = Splits()
    made = state(DIRTY, splits)
    made.observe(IDLE, False)
    made.observe(IDLE, False)
    assert splits == [False]
    made.split(by_text=True)  # what ran since has taken effect as well
    assert splits == [False, True]


def test_what_was_begun_past_django_is_never_taken_for_read() -> None:
    made = state(CLEAN)
    made.observe(IN_TRANSACTION, False)
    assert made.begun
    assert NO_TEXT in made.texts


def test_a_first_statement_that_the_driver_refused_leaves_it_clean() -> None:
    made = state(CLEAN)
    first = made.enter(IDLE, False)
    made.unsent(first, IDLE)
    assert not made.begun
    made.enter(IDLE, False)
    made.unsent(False, IDLE)
    assert made.begun


def test_a_later_statement_of_no_rows_leaves_what_ran_before() -> None:
    made = state(DIRTY)
    made.sent_nothing(False, IN_TRANSACTION)
    assert made.begun


@pytest.mark.parametrize(
    ("before", "autocommit", "manual", "after"),
    [
        (AUTO, True, False, AUTO),
        (AUTO, True, True, MANUAL),
        (CLEAN, False, False, SPLIT),
        (DIRTY, False, True, SPLIT),
    ],
)
def test_a_loss_that_the_driver_was_told_alone(
    before: Phase, autocommit: bool, manual: bool, after: Phase
) -> None:
    splits = Splits()
    made = state(before, splits)
    made.lost_unseen(autocommit, manual=manual)
    assert made.phase is after
    assert (NO_TEXT in made.texts) is (after is SPLIT)
    assert splits == ([False] if after is SPLIT else [])


@pytest.mark.parametrize(("status", "after"), [(IDLE, CLEAN), (IN_TRANSACTION, OPENED)])
def test_a_statement_of_no_rows_leaves_it_restorable(status: int, after: Phase) -> None:
    made = state(CLEAN)
    made.sent_nothing(made.enter(IDLE, False), status)
    assert made.phase is after


def test_savepoints_leave_it_restorable() -> None:
    made = state(CLEAN)
    made.control(lambda sid: None, "s1", IDLE, False)
    made.opening.saved("s1")
    assert made.phase is OPENED
    assert made.enter(IN_TRANSACTION, False)
    made.control(lambda sid: None, "s2", IN_TRANSACTION, False)
    made.opening.saved("s2")
    assert (made.phase, made.opening) == (DIRTY, ["s1", "s2"])
    made.opening.rolled_back_to("s1")
    assert made.opening == ["s1"]
    made.opening.released("s1")
    assert made.opening == []
    for name in ("s1", "s2", "s3"):
        made.opening.saved(name)
    made.opening.rolled_back_to("s2")
    assert made.opening == ["s1", "s2"]


SETTING = Local("SET LOCAL a.b = '1'", None, "SET LOCAL a.b")
MODE = Local("SET TRANSACTION READ ONLY", None, "SET TRANSACTION", of_transaction=True)


def began_with(made: TransactionState, setting: Local, read: Callable[[], int | None]) -> None:
    assert made.enter(IDLE if made.phase is CLEAN else IN_TRANSACTION, False)
    made.ran(setting.sql)
    made.began_with(setting, read)


def test_settings_of_its_own_leave_it_restorable() -> None:
    made, read = state(CLEAN), [100]
    began_with(made, MODE, lambda: read[0])
    assert (made.phase, made.opening.has_savepoints, made.has_run_nothing) == (OPENED, False, True)
    made.control(lambda sid: read.append(read.pop() + 20), "s1", IN_TRANSACTION, False)
    made.opening.saved("s1")
    began_with(made, SETTING, lambda: read[0])
    made.control(lambda sid: None, "s2", IN_TRANSACTION, False)
    made.opening.saved("s2")
    assert (made.opening, made.phase) == ([MODE, "s1", SETTING, "s2"], OPENED)
    assert made.opening.has_savepoints
    made.opening.released("s1")
    assert made.opening == [MODE, SETTING], "what was set in a savepoint stays set"
    assert made.enter(IN_TRANSACTION, False)
    assert made.phase is DIRTY
    began = list(made.opening)
    made.moved(False)
    made.restored(began)
    assert (made.phase, made.opening, len(made.texts)) == (OPENED, [MODE, SETTING], 2)
    made.over(0)
    assert (made.phase, made.opening) == (AUTO, [])


@pytest.mark.parametrize("opening", [[SETTING], ["s1", SETTING]], ids=["alone", "in a savepoint"])
@pytest.mark.parametrize(
    ("read", "after"), [([7, 7], OPENED), ([7, 9], DIRTY), ([None], DIRTY)], ids=str
)
def test_settings_that_were_replayed_are_watched_as_before(
    opening: list[Local | str], read: list[int | None], after: Phase
) -> None:
    made = state(CLEAN)
    made.restored(list(opening))
    made.replayed(list(reversed(read)).pop)
    made.observe(IN_TRANSACTION, False)
    assert made.phase is after


def test_savepoints_that_were_replayed_need_no_watch() -> None:
    made = state(CLEAN)
    made.restored(["s1", "s2"])
    made.replayed(lambda: None)
    made.observe(IN_TRANSACTION, False)
    assert made.phase is OPENED


def test_where_nothing_is_to_be_replayed_it_stays_clean() -> None:
    made = state(CLEAN)
    made.restored([])
    assert made.phase is CLEAN


def test_before_anything_was_read_a_savepoint_leaves_settings_as_they_were() -> None:
    made = state(CLEAN)
    began_with(made, SETTING, lambda: 0)
    made.control(lambda sid: None, "s1", IN_TRANSACTION, False)
    made.observe(IN_TRANSACTION, False)
    assert made.phase is OPENED


def test_what_was_set_in_a_savepoint_is_undone_with_it() -> None:
    made = state(OPENED)
    began_with(made, SETTING, lambda: 1)
    made.opening.rolled_back_to("s1")
    assert (made.phase, made.opening) == (OPENED, ["s1"])


@pytest.mark.parametrize(
    ("more", "after"),
    [(0, OPENED), (1, OPENED), (2, DIRTY), (-1, DIRTY), (None, DIRTY)],
    ids=["nothing", "the end of the stream", "an answer", "another socket", "no socket"],
)
def test_what_is_read_past_djangos_cursors_makes_it_dirty(more: int | None, after: Phase) -> None:
    for status, expected in ((IN_TRANSACTION, after), (FAILED, DIRTY), (UNKNOWN, OPENED)):
        made = state(CLEAN)
        read: list[int | None] = [None if more is None else 100 + more, 100]
        began_with(made, SETTING, read.pop)
        made.observe(status, False)
        assert made.phase is expected, status
        assert (NO_TEXT in made.texts) == (expected is DIRTY)


def test_where_nobody_knows_what_is_read_a_setting_is_a_statement() -> None:
    made = state(CLEAN)
    began_with(made, SETTING, lambda: None)
    assert (made.phase, made.opening) == (DIRTY, [])


def test_no_more_settings_are_kept_than_some() -> None:
    made = state(CLEAN)
    for _ in range(50):
        began_with(made, SETTING, lambda: 1)
    began_with(made, SETTING, lambda: 1)
    assert (made.phase, len(made.opening)) == (DIRTY, 50)


def test_a_savepoint_that_fails_counts_as_a_statement() -> None:
    made = state(CLEAN)

    def fails(sid: str) -> None:
        made.enter(IDLE, False)
        raise RuntimeError(sid)

    with pytest.raises(RuntimeError):
        made.control(fails, "s1", IDLE, False)
    assert made.phase is DIRTY
    assert not made.controlling


def test_a_savepoint_in_what_was_begun_past_django_does_not_make_it_restorable() -> None:
    made = state(CLEAN)
    controlling: list[bool] = []
    made.control(lambda sid: controlling.append(made.controlling), "s1", IN_TRANSACTION, False)
    assert made.phase is DIRTY
    assert NO_TEXT in made.texts
    assert controlling == [True]


def test_a_split_takes_savepoints_with_it() -> None:
    made = state(OPENED)
    made.split(by_text=True)
    assert (made.phase, made.opening) == (SPLIT, [])


def test_a_savepoint_after_a_split_does_not_count_as_restorable() -> None:
    made = state(SPLIT)
    made.control(lambda sid: None, "s1", IDLE, False)
    assert made.phase is SPLIT


def test_texts_of_savepoints_are_not_kept() -> None:
    made = state(DIRTY)
    made.control(lambda sid: made.ran("SAVEPOINT s1"), "s1", IN_TRANSACTION, False)
    assert made.texts == {"INSERT"}


def test_another_connection_begins_anew_but_for_what_was_split() -> None:
    made = state(DIRTY)
    made.moved(False)
    assert (made.phase, made.texts, made.opening) == (CLEAN, set(), [])
    made.restored(["s1"])
    assert (made.phase, made.opening) == (OPENED, ["s1"])
    made.moved(False, split=True)
    assert (made.phase, made.opening) == (SPLIT, [])
    made.restored(["s1"])
    assert made.phase is SPLIT
    made.moved(True)
    assert (made.phase, made.opening) == (AUTO, [])


def test_its_end_leaves_nothing_but_the_hooks_that_are_due() -> None:
    made = state(SPLIT)
    made.over(2)
    assert (made.phase, made.texts, made.opening, made.hooks_due) == (AUTO, set(), [], 2)
    made.over(0)
    assert made.hooks_due == 0


@pytest.mark.parametrize(("autocommit", "after"), [(True, MANUAL), (False, SPLIT)])
def test_an_unknown_outcome_is_never_taken_for_rolled_back(autocommit: bool, after: Phase) -> None:
    made = state(DIRTY)
    made.outcome_unknown(autocommit)
    assert made.phase is after
    assert made.was_split
    assert not made.has_run_nothing
    assert (made.texts, made.hooks_due) == (set(), 0)


def test_copy_dirties_it() -> None:
    for before in (CLEAN, OPENED):
        made = state(before)
        made.dirtied()
        assert made.begun


def test_no_more_texts_are_kept_than_can_be_told_apart() -> None:
    made = state(CLEAN)
    for number in range(MOST_TEXTS + 5):
        made.ran(f"SELECT {number}")
    assert len(made.texts) == MOST_TEXTS


def test_of_a_text_that_is_long_only_its_id_is_kept() -> None:
    made, other = state(CLEAN), object()
    kept, long = "x" * LONGEST_TEXT, "x" * (LONGEST_TEXT + 1)
    for each in (kept, long, other):
        made.ran(each)
    assert made.texts == {kept, id(long), id(other)}


def test_texts_set_aside_come_back() -> None:
    made = state(DIRTY)
    aside = made.set_texts_aside()
    made.ran("UPDATE")
    assert made.texts == {"UPDATE"}
    made.take_texts_back(aside)
    assert made.texts == {"INSERT", "UPDATE"}


def test_only_what_may_lowers_the_phase() -> None:
    """Whatever the driver says and whatever is sent, a block's phase never goes back by itself."""
    steps: list[Callable[[TransactionState, int], object]] = [
        lambda made, status: made.observe(status, False),
        lambda made, status: made.enter(status, False),
        lambda made, status: made.dirtied(),
        lambda made, status: made.control(lambda sid: None, "s", status, False),
        lambda made, status: made.split(by_text=True),
    ]
    for phase, status, step in itertools.product((CLEAN, OPENED, DIRTY, SPLIT), STATUSES, steps):
        made = state(phase)
        step(made, status)
        assert made.phase >= phase
        assert made.phase >= OPENED or not made.opening
