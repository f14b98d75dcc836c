"""A transaction that is over is not lost, however it was ended: what follows runs."""

from __future__ import annotations

import pytest

from django_resilient_pg.errors import SessionLost
from tests.engines import copy_out
from tests.server.scenarios import TABLE, Stage
from tests.server.state.losing import (
    ENDS,
    TEXTS,
    Stages,
    assert_works,
    begin,
    end,
    lose,
    psycopg2,
    psycopg3,
    raw,
)

pytestmark = pytest.mark.once_per_driver


def copy_nothing(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        copy_out(cursor, f"COPY {TABLE} (value) TO STDOUT")


ENDED = pytest.mark.parametrize(
    "ended",
    [*TEXTS, *(pytest.param(name, marks=[psycopg3]) for name in ENDS)],
)


@ENDED
def test_a_transaction_that_is_over_is_not_lost(ended: str, stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    assert stage.connection.is_usable()
    end(stage, ended)
    lose(stage)
    assert stage.run("SELECT 5") == [(5,)]
    assert_works(stage)


def test_an_end_that_only_the_driver_has_seen_is_not_guessed(stage_of: Stages) -> None:
    """Nothing was sent by Django after it that would have shown it, and the session is gone."""
    stage = stage_of()
    stage.run("BEGIN")
    assert stage.connection.is_usable()
    raw(stage, "COMMIT")
    lose(stage)
    with pytest.raises(SessionLost):
        stage.run("SELECT 5")
    stage.connection.close()
    assert_works(stage)


def test_an_end_that_the_next_statement_has_shown_is_known(stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    raw(stage, "COMMIT")
    stage.run("SELECT 1")
    lose(stage)
    assert_works(stage)


@pytest.mark.parametrize("noticed", ["raw cursor", "raw close"])
def test_a_transaction_with_a_copy_that_is_over_is_not_lost(noticed: str, stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    copy_nothing(stage)
    stage.run("COMMIT")
    lose(stage, noticed)
    assert stage.run("SELECT 5") == [(5,)]
    assert_works(stage)


# In autocommit again the driver has nothing to commit, and so does not notice the loss by that.
IDLE = pytest.mark.parametrize(
    "noticed",
    [
        "raw cursor",
        pytest.param("raw notifies", marks=[psycopg3]),
        pytest.param("raw poll", marks=[psycopg2]),
        "raw close",
        "is_usable",
    ],
)


@IDLE
def test_a_transaction_that_is_over_is_kept(noticed: str, stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    assert stage.connection.is_usable()
    stage.insert("first")
    stage.run("COMMIT")
    lose(stage, noticed)
    assert_works(stage, "first")


@IDLE
def test_a_loss_before_the_transaction_is_healed(noticed: str, stage_of: Stages) -> None:
    """The swallowed failure is outside of it: all of it runs on the new connection."""
    stage = stage_of()
    lose(stage, noticed)
    begin(stage)
    stage.insert("second")
    stage.run("COMMIT")
    assert stage.rows() == ["first", "second"]


def test_a_chained_transaction_is_not_over(stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("BEGIN")
    assert stage.connection.is_usable()
    stage.run("COMMIT AND CHAIN")
    lose(stage)
    with pytest.raises(SessionLost):
        stage.run("SELECT 5")
