"""Without autocommit and in ``atomic()`` too a transaction is lost as a whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import transaction

from django_resilient_pg.errors import TransactionLost
from django_resilient_pg.transaction import retry_atomic
from tests.server.scenarios import Stage
from tests.server.state.losing import INSERT, NOTICED, OFF, SOME, Stages, assert_works, lose, raw

pytestmark = pytest.mark.once_per_driver
#: "raw": nothing but the driver's own cursor has been used in the transaction, so it is not seen.
FIRST = pytest.mark.parametrize("first", ["django", "raw"])


def write(stage: Stage, first: str) -> None:
    if first == "raw":
        raw(stage, INSERT % "first")
    else:
        stage.insert("first")


def lost(stage: Stage, first: str, noticed: str = "raw cursor") -> Stage:
    """Lost after the first half of its transaction."""
    write(stage, first)
    lose(stage, noticed)
    return stage


@OFF
@FIRST
@SOME
def test_the_second_half_without_autocommit(
    noticed: str, first: str, off: str, manual: Callable[[str], Stage]
) -> None:
    stage = lost(manual(off), first, noticed)
    with pytest.raises(TransactionLost):
        stage.insert("second")
    with pytest.raises(TransactionLost):
        stage.connection.commit()
    assert stage.rows() == []
    stage.connection.rollback()
    stage.insert("after")
    stage.connection.commit()
    assert stage.rows() == ["after"]


@OFF
@FIRST
@SOME
def test_commit_without_autocommit(
    noticed: str, first: str, off: str, manual: Callable[[str], Stage]
) -> None:
    stage = lost(manual(off), first, noticed)
    for _ in range(2):
        with pytest.raises(TransactionLost):
            stage.connection.commit()
    assert stage.rows() == []


@OFF
@FIRST
@SOME
def test_rollback_without_autocommit(
    noticed: str, first: str, off: str, manual: Callable[[str], Stage]
) -> None:
    stage = lost(manual(off), first, noticed)
    assert not stage.connection.is_usable()
    stage.connection.rollback()
    stage.insert("after")
    stage.connection.commit()
    assert stage.rows() == ["after"]


@OFF
@FIRST
def test_a_text_that_commits_without_autocommit(
    first: str, off: str, manual: Callable[[str], Stage]
) -> None:
    stage = lost(manual(off), first)
    with pytest.raises(TransactionLost):
        stage.run("COMMIT")
    with pytest.raises(TransactionLost):
        stage.insert("second")
    assert stage.rows() == []


@OFF
@FIRST
def test_a_savepoint_without_autocommit(
    first: str, off: str, manual: Callable[[str], Stage]
) -> None:
    """It would begin another transaction, for the second half alone."""
    stage = lost(manual(off), first)
    with pytest.raises(TransactionLost):
        stage.connection.savepoint()
    with pytest.raises(TransactionLost):
        stage.connection.commit()
    assert stage.rows() == []


@FIRST
def test_djangos_boundary_where_autocommit_was_turned_off(
    first: str, manual: Callable[[str], Stage]
) -> None:
    """It closes such a connection anyway."""
    stage = lost(manual("set_autocommit"), first)
    stage.connection.close_if_unusable_or_obsolete()
    assert_works(stage)


@FIRST
def test_djangos_boundary_does_not_end_a_transaction(
    first: str, manual: Callable[[str], Stage]
) -> None:
    """On a connection that lives it goes on after it, and may be committed then."""
    stage = lost(manual("settings"), first)
    stage.connection.close_if_unusable_or_obsolete()
    with pytest.raises(TransactionLost):
        stage.insert("second")
    assert stage.rows() == []


@FIRST
@SOME
def test_the_second_half_in_atomic(noticed: str, first: str, stage_of: Stages) -> None:
    stage = stage_of()
    hooks: list[str] = []
    with pytest.raises(TransactionLost), stage.atomic():
        transaction.on_commit(lambda: hooks.append("hook"), using=stage.connection.alias)
        write(stage, first)
        lose(stage, noticed)
        stage.insert("second")
    assert (stage.rows(), hooks) == ([], [])
    assert_works(stage)


@FIRST
@NOTICED
def test_the_end_of_atomic(noticed: str, first: str, stage_of: Stages) -> None:
    stage = stage_of()
    hooks: list[str] = []
    with pytest.raises(TransactionLost), stage.atomic():
        transaction.on_commit(lambda: hooks.append("hook"), using=stage.connection.alias)
        write(stage, first)
        lose(stage, noticed)
    assert (stage.rows(), hooks) == ([], [])
    assert_works(stage)


@FIRST
def test_an_inner_block_in_the_second_half(first: str, stage_of: Stages) -> None:
    stage = stage_of()
    with pytest.raises(TransactionLost), stage.atomic():
        write(stage, first)
        lose(stage)
        with stage.atomic():
            stage.insert("second")
    assert stage.rows() == []
    assert_works(stage)


@FIRST
def test_retry_atomic_does_not_retry_what_it_has_not_seen(first: str, stage_of: Stages) -> None:
    """The driver's own commit() may have come before the loss that the driver's own cursor met."""
    stage = stage_of()
    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        write(stage, first)
        if len(attempts) == 1:
            lose(stage)
        stage.insert("second")

    with pytest.raises(TransactionLost, match="the driver's own methods"):
        retry_atomic.run(work, using=stage.connection.alias)
    assert (len(attempts), stage.rows()) == (1, [])
