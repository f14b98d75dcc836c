"""A session that dies in pipeline mode (psycopg 3): the whole pipeline raises, nothing is retried.

What had been sent before may be missing, and which statement an error belongs to is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from django.db import Error, OperationalError

from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.cuts.surgeon import SIDES, Cut, Side, Surgeon
from tests.engines import STOCK
from tests.faults.proxy import Proxy
from tests.server.scenarios import Stage

pytestmark = [pytest.mark.once_per_driver, pytest.mark.psycopg3]

Stages = Callable[..., Stage]


def cut_silently(proxy: Proxy) -> None:
    """End the session without a word, at once seen by whoever looks."""
    proxy.cut("close")


ENGINES = pytest.mark.parametrize("given", [[], [STOCK]], ids=["ours", "stock"])


@ENGINES
@pytest.mark.parametrize("end", ["killed", "cut"])
@pytest.mark.parametrize("between", ["SELECT 1", "INSERT INTO promise (value) VALUES ('x')"])
def test_nothing_of_a_lost_pipeline_is_run_elsewhere(
    given: list[str], end: str, between: str, stage_of: Stages, proxy: Proxy
) -> None:
    stage = stage_of(*given, PORT=proxy.port)

    def work() -> None:
        with stage.connection.connection.pipeline():
            stage.insert("a")
            stage.kill() if end == "killed" else cut_silently(proxy)
            with stage.connection.cursor() as cursor:
                cursor.execute(between)
            stage.insert("b")

    drivers_own = stage.connection.Database.Error  # type: ignore[attr-defined]
    with pytest.raises((Error, drivers_own)) as caught:
        work()
    assert stage.rows() == []
    if given:
        return
    if isinstance(caught.value, Error):  # otherwise the end of the pipeline met the loss: psycopg's
        assert any("pipeline" in note for note in caught.value.__notes__)
    assert stage.run("SELECT 2") == [(2,)]
    stage.insert("after")
    assert stage.rows() == ["after"]


@pytest.mark.parametrize("end", ["killed", "cut"])
def test_a_swallowed_error_within_a_pipeline_lets_nothing_through(
    end: str, stage_of: Stages, proxy: Proxy
) -> None:
    """The application goes on: what comes next would be there without what went before."""
    stage = stage_of(PORT=proxy.port)
    errors: list[BaseException] = []
    with pytest.raises(Exception), stage.connection.connection.pipeline():  # noqa: B017, PT011
        stage.insert("a")
        stage.kill() if end == "killed" else cut_silently(proxy)
        for value in ("b", "c"):
            try:
                stage.insert(value)
            except Error as error:
                errors.append(error)
    assert len(errors) == 2
    assert stage.rows() == []
    assert stage.run("SELECT 2") == [(2,)]


def test_a_pipeline_in_a_transaction_runs_again_as_a_whole(stage_of: Stages) -> None:
    stage = stage_of()
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        with stage.connection.connection.pipeline():
            stage.insert("a")
            if len(runs) == 1:
                stage.kill()
            stage.insert("b")

    def start() -> None:
        stage.connection.ensure_connection()
        work()

    retry_atomic.run(start, using=stage.connection.alias)
    assert len(runs) == 2
    assert stage.rows() == ["a", "b"]


@pytest.mark.parametrize("statements", [0, 1])
def test_a_transaction_that_is_lost_within_a_pipeline(statements: int, stage_of: Stages) -> None:
    """Nothing is run outside of the pipeline after the block has been left."""
    stage = stage_of()
    errors: list[Error] = []
    drivers_own = stage.connection.Database.Error  # type: ignore[attr-defined]
    with pytest.raises(drivers_own), stage.connection.connection.pipeline():
        try:
            with stage.atomic():
                for _ in range(statements):
                    stage.insert("a")
                stage.kill()
                stage.insert("b")
        except Error as error:
            errors.append(error)
        try:
            stage.insert("c")
        except Error as error:
            errors.append(error)
    assert len(errors) == 2
    assert "pipeline" in str(errors[1])
    assert stage.rows() == []
    assert stage.run("SELECT 2") == [(2,)]
    with stage.atomic():
        stage.insert("after")
    assert stage.rows() == ["after"]


def test_its_block_is_entered_on_a_connection_that_dies(stage_of: Stages) -> None:
    """Nothing had been sent in it, but what follows would not be in a pipeline any more."""
    stage = stage_of()
    with pytest.raises(Error) as caught, stage.connection.connection.pipeline():
        stage.kill()
        stage.insert("a")
        stage.insert("b")
    assert "pipeline" in f"{caught.value} {caught.value.__notes__}"
    assert stage.rows() == []
    stage.insert("after")
    assert stage.rows() == ["after"]


def test_a_pipeline_that_lives_is_left_alone(stage_of: Stages) -> None:
    stage = stage_of()
    pid = stage.pid()
    found: list[Any] = []
    with stage.connection.connection.pipeline():
        stage.insert("a")
        with stage.connection.cursor() as cursor:
            cursor.execute("SELECT value FROM promise")
            found += cursor.fetchall()
        stage.insert("b")
    assert found == [("a",)]
    assert stage.rows() == ["a", "b"]
    assert stage.pid() == pid


@pytest.mark.parametrize("side", SIDES)
def test_executemany_in_a_transaction_is_a_loss_like_any_other(
    side: Side, server: Server, stage_of: Stages
) -> None:
    """psycopg 3 sends it as a pipeline: at whichever of its messages that is cut."""
    with Surgeon(server.port) as surgeon:
        stage = stage_of(PORT=surgeon.port, options={"sslmode": "disable", "gssencmode": "disable"})
        sent: list[dict[Side, int]] = []

        def work(cuts: Sequence[Cut] = ()) -> None:
            stage.run("SELECT 1")
            surgeon.plan(cuts if len(sent) == 1 else ())
            with stage.connection.cursor() as cursor:
                cursor.executemany("INSERT INTO promise (value) VALUES (%s)", [["a"], ["b"], ["c"]])
            sent.append(surgeon.counted())

        with stage.atomic():
            work()
        assert stage.rows() == ["a", "b", "c"]
        lost = stage.connection.resilience.stats.lost  # type: ignore[attr-defined]
        for message in range(1, sent[0][side] + 1):
            with pytest.raises(OperationalError) as caught, stage.atomic():
                work([Cut(side, message, "inside", "fin")])
            assert "retry the whole transaction" in "".join(caught.value.__notes__)
            assert stage.rows() == ["a", "b", "c"]
        now = stage.connection.resilience.stats.lost  # type: ignore[attr-defined]
        assert sum(now.values()) - sum(lost.values()) == sent[0][side]


def test_executemany_in_a_transaction_that_is_retried(stage_of: Stages, proxy: Proxy) -> None:
    stage = stage_of(PORT=proxy.port)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        stage.run("SELECT 1")
        if len(runs) == 1:
            proxy.cut_at(1, "answer")
        with stage.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO promise (value) VALUES (%s)", [["a"], ["b"]])

    retry_atomic.run(work, using=stage.connection.alias)
    assert (len(runs), stage.rows()) == (2, ["a", "b"])
