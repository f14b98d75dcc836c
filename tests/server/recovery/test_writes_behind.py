"""A read whose write only the database sees is neither retried, nor replayed, nor lost silently.

Each text is run twice over: with a function behind it that writes, and with the same function
declared STABLE, which writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import Error

from django_resilient_pg.errors import CommitOutcomeUnknown, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.faults.proxy import Proxy
from tests.server.recovery.writes_behind import CASES, READS, WRITES, Case, Stages
from tests.server.scenarios import DATABASE, TABLE, Stage

pytestmark = pytest.mark.once_per_driver
# The look before COMMIT is left out right after an answer; then the loss is found by COMMIT itself.
TOLD = (TransactionLost, CommitOutcomeUnknown)


@pytest.fixture
def make(server: Server, stage_of: Stages) -> Callable[..., None]:
    """Make what a case needs in the database of the stages."""

    def run(case: Case, how: str) -> None:
        made = ";".join([WRITES if how == "VOLATILE" else READS, *case.made])
        server.execute(made.replace("{how}", how), database=DATABASE)

    return run


cases = pytest.mark.parametrize("name", CASES)


@cases
def test_it_is_neither_lost_nor_done_twice(
    name: str, make: Callable[..., None], stage_of: Stages, proxy: Proxy
) -> None:
    """Each time on an alias of its own: what the catalogue said is kept for some seconds."""
    make(CASES[name], "VOLATILE")
    lost_silently(CASES[name].sql, stage_of())
    taken_for_committed(CASES[name].sql, stage_of(PORT=proxy.port), proxy)
    read_again(CASES[name].sql, stage_of(PORT=proxy.port), proxy)
    done_twice(CASES[name].sql, stage_of(), stage_of())


def lost_silently(sql: str, stage: Stage) -> None:
    with pytest.raises(TOLD), stage.atomic():
        stage.run(sql)
        assert ("x",) in stage.run(f"SELECT value FROM {TABLE}"), "it did not write"
        stage.kill()
    assert stage.rows() == []


def taken_for_committed(sql: str, stage: Stage, proxy: Proxy) -> None:
    """COMMIT never reached the server."""
    with pytest.raises(CommitOutcomeUnknown), stage.atomic():
        stage.run(sql)
        proxy.cut_at(1, "before")
    assert stage.rows() == []


def read_again(sql: str, stage: Stage, proxy: Proxy) -> None:
    proxy.cut_at(1, "answer")
    with pytest.raises(Error) as caught:
        stage.run(sql)
    assert "the volatile function " in caught.value.__notes__[-1]


def done_twice(sql: str, first: Stage, second: Stage) -> None:
    """It is committed on one alias; then the transaction of another one is lost."""
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        second.run(sql)
        first.insert("own")
        first.kill()
        first.run("SELECT 1")

    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=first.connection.alias)
    assert len(runs) == 1
    assert "The transaction was not retried: " in caught.value.__notes__[-1]


@cases
def test_without_a_write_behind_it_it_is(
    name: str, make: Callable[..., None], stage_of: Stages, proxy: Proxy
) -> None:
    make(CASES[name], "STABLE")
    stage = stage_of(PORT=proxy.port)
    before = stage.run(CASES[name].sql)
    proxy.cut_at(1, "answer")
    assert stage.run(CASES[name].sql) == before
    with stage.atomic():
        stage.run(CASES[name].sql)
        stage.kill()
