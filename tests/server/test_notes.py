"""Every loss says why: also where its error comes out later than the loss, and in the counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError

from django_resilient_pg.connecting.replace import discard_interrupted
from django_resilient_pg.errors import CommitOutcomeUnknown, SessionLost, TransactionLost
from tests.faults.proxy import Proxy
from tests.server.scenarios import TABLE, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]


def loss_before_commit(stage: Stage) -> DatabaseError:
    with pytest.raises(DatabaseError) as caught, stage.atomic():
        stage.insert("x")
        stage.kill()
    return caught.value


def told(error: BaseException) -> str:
    (note,) = error.__notes__
    return str(note)


def resilience(stage: Stage) -> Any:
    connection: Any = stage.connection
    return connection.resilience


def test_a_transaction_lost_before_its_commit(stage_of: Stages) -> None:
    stage = stage_of()
    before = resilience(stage).stats.surfaced
    error = loss_before_commit(stage)
    assert isinstance(error, TransactionLost)
    assert "administrator" in told(error)
    assert "To prevent this: find what terminates sessions" in told(error)
    assert resilience(stage).stats.surfaced == before + 1


def test_a_transaction_that_is_told_twice_is_counted_once(stage_of: Stages) -> None:
    stage = stage_of()
    before = resilience(stage).stats.surfaced
    with pytest.raises(TransactionLost) as last, stage.atomic():
        stage.insert("x")
        stage.kill()
        for _ in range(2):
            with pytest.raises(DatabaseError) as caught:
                stage.run("SELECT 1")
            assert "To prevent this: " in told(caught.value)
    assert "To prevent this: " in told(last.value)
    assert resilience(stage).stats.surfaced == before + 1


def test_a_session_that_held_something(stage_of: Stages) -> None:
    stage = stage_of()
    stage.run("LISTEN news")
    stage.kill()
    before = resilience(stage).stats.surfaced
    for _ in range(2):
        with pytest.raises(SessionLost) as caught:
            stage.run("SELECT 1")
        assert "administrator" in told(caught.value)
    assert resilience(stage).stats.surfaced == before + 1


def test_a_commit_of_unknown_outcome(stage_of: Stages) -> None:
    stage = stage_of()
    with Proxy(stage.server.port) as way:
        through = stage_of(PORT=way.port)
        before = resilience(through).stats.surfaced
        with pytest.raises(CommitOutcomeUnknown) as caught, through.atomic():
            through.run(f"INSERT INTO {TABLE} (value) VALUES ('x')")
            way.cut_at(1, "answer")
    assert "To prevent this: " in told(caught.value)
    assert resilience(through).stats.surfaced == before + 1


def test_a_statement_that_was_interrupted(stage_of: Stages) -> None:
    stage = stage_of()
    with pytest.raises(TransactionLost) as caught, stage.atomic():
        stage.insert("x")
        connection: Any = stage.connection
        discard_interrupted(connection)
        stage.run("SELECT 1")
    assert told(caught.value).endswith(": a statement on it was interrupted.")


def test_a_limit_learned_from_a_loss_was_not_exceeded_by_it(
    stage_of: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    stage = stage_of()
    assert resilience(stage).limits.idle.seconds == float("inf")
    stage.run("SET idle_session_timeout = '300ms'")
    time.sleep(0.7)
    with caplog.at_level("INFO", "django_resilient_pg"):
        stage.run("SELECT 1")
    (lost,) = [one.getMessage() for one in caplog.records if " lost after " in one.getMessage()]
    assert "idle_session_timeout" in lost
    assert "longer than its idle limit" not in lost
    assert resilience(stage).limits.idle.seconds < 1
