"""A savepoint alone leaves a transaction untouched: its first statement may be lost as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import pytest

from tests.engines import STOCK, until
from tests.server.scenarios import TABLE, Stage
from tests.server.state.losing import OFF, Stages

pytestmark = pytest.mark.once_per_driver
KEY = 7
WAITS = f"INSERT INTO {TABLE} (value) SELECT 'waits' FROM pg_advisory_xact_lock({KEY})"


@contextmanager
def killed_waiting(stage: Stage, holder: Stage) -> Iterator[None]:
    """Terminate the first session that runs ``WAITS``, whichever it is; the next one may go on."""
    holder.run(f"SELECT pg_advisory_lock({KEY})")
    waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    killed, over = Event(), Event()

    def kill() -> bool:
        for (pid,) in stage.server.execute(waiting):
            stage.server.terminate(pid)
            holder.kill()
            killed.set()
        return killed.is_set() or over.is_set()

    thread = Thread(target=until, args=(kill, "nobody waits"), name="killed_waiting")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert killed.is_set(), "nobody waited"


def no_savepoint(stage: Stage) -> None:
    pass


def one_savepoint(stage: Stage) -> None:
    stage.connection.savepoint()


def two_savepoints(stage: Stage) -> None:
    stage.connection.savepoint()
    stage.connection.savepoint()


def rolled_back(stage: Stage) -> None:
    connection: Any = stage.connection
    connection.savepoint()
    connection.savepoint_rollback(connection.savepoint())


def released(stage: Stage) -> None:
    connection: Any = stage.connection
    connection.savepoint_commit(connection.savepoint())


@pytest.mark.parametrize("checked", [True, False], ids=["is_usable", "at once"])
@pytest.mark.parametrize(
    "before", [no_savepoint, one_savepoint, two_savepoints, rolled_back, released]
)
def test_a_first_statement_that_is_lost_as_well(
    before: Callable[[Stage], None], checked: bool, stage_of: Stages
) -> None:
    stage = stage_of()
    with killed_waiting(stage, stage_of(STOCK)), stage.atomic():
        _lose_twice(stage, before, checked=checked)
    assert stage.rows() == ["waits", "next"]


@OFF
def test_a_first_statement_that_is_lost_as_well_without_autocommit(
    off: str, manual: Callable[[str], Stage], stage_of: Stages
) -> None:
    stage = manual(off)
    with killed_waiting(stage, stage_of(STOCK)):
        _lose_twice(stage, one_savepoint, checked=True)
        stage.connection.commit()
    assert stage.rows() == ["waits", "next"]


def _lose_twice(stage: Stage, before: Callable[[Stage], None], *, checked: bool) -> None:
    before(stage)
    stage.kill()
    if checked:
        assert not stage.connection.is_usable()
    stage.run(WAITS)
    stage.insert("next")


@pytest.mark.parametrize("checked", [True, False], ids=["is_usable", "at once"])
def test_a_nested_block_whose_first_statement_is_lost_as_well(
    checked: bool, stage_of: Stages
) -> None:
    stage = stage_of()
    with killed_waiting(stage, stage_of(STOCK)), stage.atomic():
        with pytest.raises(KeyError), stage.atomic():
            _lose_twice(stage, no_savepoint, checked=checked)
            raise KeyError
        stage.insert("kept")
    assert stage.rows() == ["kept"]
