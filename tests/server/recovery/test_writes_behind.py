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
from tests.server.scenarios import DATABASE, TABLE

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
def test_it_is_not_lost_silently(name: str, make: Callable[..., None], stage_of: Stages) -> None:
    make(CASES[name], "VOLATILE")
    stage = stage_of()
    with pytest.raises(TOLD), stage.atomic():
        stage.run(CASES[name].sql)
        assert ("x",) in stage.run(f"SELECT value FROM {TABLE}"), "it did not write"
        stage.kill()
    assert stage.rows() == []


@cases
def test_it_is_not_done_twice(name: str, make: Callable[..., None], stage_of: Stages) -> None:
    """It is committed on one alias; then the transaction of another one is lost."""
    make(CASES[name], "VOLATILE")
    first, second = stage_of(), stage_of()
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        second.run(CASES[name].sql)
        first.insert("own")
        first.kill()
        first.run("SELECT 1")

    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=first.connection.alias)
    assert len(runs) == 1
    assert "The transaction was not retried: " in caught.value.__notes__[-1]


@cases
def test_it_is_not_taken_for_committed(
    name: str, make: Callable[..., None], stage_of: Stages, proxy: Proxy
) -> None:
    """COMMIT never reached the server."""
    make(CASES[name], "VOLATILE")
    stage = stage_of(PORT=proxy.port)
    with pytest.raises(CommitOutcomeUnknown), stage.atomic():
        stage.run(CASES[name].sql)
        proxy.cut_at(1, "before")
    assert stage.rows() == []


@cases
def test_it_is_not_read_again(
    name: str, make: Callable[..., None], stage_of: Stages, proxy: Proxy
) -> None:
    make(CASES[name], "VOLATILE")
    stage = stage_of(PORT=proxy.port)
    proxy.cut_at(1, "answer")
    with pytest.raises(Error) as caught:
        stage.run(CASES[name].sql)
    assert "the volatile function " in caught.value.__notes__[-1]


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
