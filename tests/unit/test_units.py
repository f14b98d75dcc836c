"""What a unit of work counts, and when it may be given up. With a server: tests/server/replay."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import pytest

from django_resilient_pg.errors import AttemptAbandoned
from django_resilient_pg.state.unit_of_work import LONGEST_TEXT, UNDER_WAY, UNIT, Unit, around


class Connection:
    """As much of one as a unit looks at."""

    alias = "a"


class Cursor:
    """As much of one as a unit looks at."""

    db = CONNECTION = Connection()


def unit(parent: Unit | None = None) -> Unit:
    return Unit(parent)


def test_all_counts_for_the_parents_too() -> None:
    outer = unit()
    inner = unit(unit(outer))
    inner.took_effect("a", "SELECT 1")
    inner.took_effect("b", b"SELECT 2")
    inner.ran_hooks(2)
    inner.cannot_tell("c")
    inner.used_foreign("d")
    for one in inner.line():
        assert one.texts == {"a": {"SELECT 1"}, "b": set()}
        assert (one.hooks, one.uncounted, one.foreign) == (2, {"b", "c"}, {"d"})
        assert one.counted() == 6


def test_what_is_under_way_must_have_been_judged() -> None:
    given_up, cursor = unit(), Cursor()
    given_up.begin(cursor, "SELECT 1")
    assert not given_up.seal(given_up.counted()), "nobody has looked at it"
    given_up.count_sending()
    counted = given_up.counted()
    given_up.took_effect("a", "INSERT")
    assert not given_up.seal(counted), "something has ended in between"
    given_up.begin(Cursor.CONNECTION)
    assert not given_up.seal(given_up.counted()), "a COMMIT is under way"
    given_up.end(Cursor.CONNECTION)
    given_up.check("a")
    assert given_up.seal(given_up.counted())


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_nothing_is_sent_for_what_was_given_up(depth: int) -> None:
    outer = below = unit()
    for _ in range(depth):
        below = unit(below)
    before = list(UNDER_WAY)
    assert outer.seal(0)
    assert len(UNDER_WAY) == len(before) + 1, "statements look for their unit"
    cursor = Cursor()
    with pytest.raises(AttemptAbandoned, match='nothing more is done on "a"'):
        below.begin(cursor, "SELECT 1")
    assert [one.sending for one in below.line()] == [{}] * (depth + 1)
    below.ended = outer.ended = True
    with pytest.raises(AttemptAbandoned):
        below.check("a")
    outer.again().begin(cursor, "SELECT 1")
    del outer, below
    assert before == UNDER_WAY


def test_who_comes_while_it_is_decided_waits() -> None:
    """And goes on if it was decided so."""
    one, done = unit(), threading.Event()

    def send() -> None:
        one.begin(Cursor(), "SELECT 1")
        done.set()

    with one._deciding:
        one.superseded = True
        thread = threading.Thread(target=send)
        thread.start()
        assert not done.wait(0.05)
        one.superseded = False
    thread.join()
    assert done.is_set()


def test_a_unit_is_part_of_the_nearest_that_is_not_over() -> None:
    outer = unit()
    inner = unit(outer)
    token: Any = UNIT.set(inner)
    try:
        assert around() is inner
        inner.ended = True
        assert around() is outer
        outer.ended = True
        assert around() is None
        outer.superseded = True
        assert around() is outer, "what it starts is not done either"
    finally:
        UNIT.reset(token)


def test_what_asks_while_the_same_thread_decides_is_refused() -> None:
    """The garbage collector may end a generator there whose ``finally`` runs a statement."""
    given_up, caught = unit(), list[AttemptAbandoned]()

    class Ends:
        alias = "a"

        def __eq__(self, other: object) -> bool:
            try:
                given_up.begin(Cursor(), "SELECT 2")
            except AttemptAbandoned as error:
                caught.append(error)
            return True

        def __hash__(self) -> int:
            return 1

    noted: Any = {Ends()}
    given_up.begin(Cursor(), Ends())
    given_up.texts["a"] = noted
    thread = threading.Thread(target=given_up.seal, args=[given_up.counted()], daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert len(caught) == 1


def test_what_a_session_held_is_kept_once_and_for_the_next_attempt() -> None:
    outer = unit()
    inner = unit(outer)
    inner.keep_session("a", lambda: "before")
    inner.keep_session("a", lambda: "after")
    assert inner.again().sessions == {"a": "before"}
    assert outer.sessions == {"a": "before"}


def test_a_unit_knows_whose_transaction_it_is() -> None:
    mine, other = Connection(), Connection()
    outer = Unit(None, weakref.ref(mine))
    inner = unit(outer)
    assert inner.is_transaction_of(mine)
    assert not inner.is_transaction_of(other)
    seen = []
    for db in (other, mine):
        inner.committed(db)
        seen.append(outer.has_committed)
    assert seen == [False, True]
    assert outer.again().is_transaction_of(mine)


def test_of_a_long_text_it_cannot_be_told_what_it_did() -> None:
    unit = Unit()
    unit.took_effect("default", "SELECT '" + "x" * LONGEST_TEXT)
    assert unit.texts == {"default": set()}
    assert unit.uncounted == {"default"}


def test_what_is_kept_for_a_request_is_neither_lost_nor_doubled_by_threads() -> None:
    unit, threads, rounds = Unit(), 6, 500
    taken: list[object] = []

    def keep(name: int) -> None:
        for number in range(rounds):
            if not unit.keep_untold([(name, number)]):
                taken.append((name, number))  # as whoever sends it at once

    workers = [threading.Thread(target=keep, args=(name,)) for name in range(threads)]
    for worker in workers:
        worker.start()
    for _ in range(200):
        taken.extend(unit.take_untold())
    unit.ended = True
    taken.extend(unit.take_untold())
    for worker in workers:
        worker.join()
    taken.extend(unit.take_untold())
    assert len(taken) == len(set(taken)) == threads * rounds
    assert not unit.keep_untold([1])
