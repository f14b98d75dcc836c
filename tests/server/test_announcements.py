"""Handlers of the log and receivers of signals that use the connection that they are told of.

What they do changes nothing of what they are told: neither the result of the statement, nor its
error, nor its transaction.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import Error, transaction

from django_resilient_pg import signals
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import Connections
from tests.server.scenarios import DATABASE, TABLE, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]
SIGNALS = (
    signals.connection_lost,
    signals.connection_replaced,
    signals.connect_retried,
    signals.statement_retried,
)
LOGGER = logging.getLogger("django_resilient_pg")


# -- what they do -----------------------------------------------------------------------------


def writes(stage: Stage) -> None:
    stage.run(f"INSERT INTO {TABLE} (value) VALUES ('told')")


def reads(stage: Stage) -> None:
    assert stage.run("SELECT 'of the handler'") == [("of the handler",)]


def raises(stage: Stage) -> None:
    raise RuntimeError("of the handler")


def fails(stage: Stage) -> None:
    """In a block of its own, as the ORM writes; the error comes out of it."""
    with stage.atomic():
        stage.run(f"INSERT INTO {TABLE} (id) VALUES ('no number')")


def is_killed(stage: Stage) -> None:
    """Its session is, before and while it uses it."""
    reads(stage)
    stage.kill()
    with contextlib.suppress(Error), stage.killed_midway():
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'told' FROM pg_sleep(2)")


def closes(stage: Stage) -> None:
    reads(stage)
    stage.connection.close()


def leaves_a_transaction(stage: Stage) -> None:
    stage.connection.set_autocommit(False)
    writes(stage)


def rolls_back(stage: Stage) -> None:
    reads(stage)
    transaction.set_rollback(True, using=stage.connection.alias)


ACTS: list[Callable[[Stage], None]] = [
    writes,
    fails,
    is_killed,
    raises,
    closes,
    leaves_a_transaction,
    rolls_back,
]


class Acting(logging.Handler):
    """One that does not catch its own errors, as a hand-written one may not."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act

    def emit(self, record: logging.LogRecord) -> None:
        self._act()


@contextlib.contextmanager
def told(stage: Stage, act: Callable[[Stage], None], way: str) -> Iterator[list[int]]:
    """Have ``act`` done whenever something is told; the value: one entry for each time."""
    times: list[int] = []

    def once() -> None:
        # What it is told of itself it would answer for ever.
        if len(times) < 20:
            times.append(1)
            act(stage)

    def receive(connection: Any, **_: Any) -> None:
        if connection is stage.connection:
            once()

    handler, level = Acting(once), LOGGER.level
    LOGGER.setLevel(logging.INFO)
    if way == "handler":
        LOGGER.addHandler(handler)
    else:
        for signal in SIGNALS:
            signal.connect(receive)
    try:
        yield times
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        for signal in SIGNALS:
            signal.disconnect(receive)


# -- what they are told of --------------------------------------------------------------------


def idle(stage: Stage) -> Any:
    stage.kill()
    stage.insert("own")
    return stage.run("SELECT 42")


def idle_cursor(stage: Stage) -> Any:
    """Lost after the cursor was made, so that its statement finds it."""
    with stage.connection.cursor() as cursor:
        stage.kill()
        cursor.execute(f"INSERT INTO {TABLE} (value) VALUES ('own') RETURNING value")
        return cursor.fetchall()


def read(stage: Stage) -> Any:
    with stage.killed_midway():
        return stage.run("SELECT n FROM pg_sleep(1), generate_series(1, 3) n")


def write(stage: Stage) -> Any:
    with stage.killed_midway():
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'own' FROM pg_sleep(1)")


def idle_block(stage: Stage) -> Any:
    with stage.atomic():
        stage.kill()
        stage.insert("own")
        found = stage.run("SELECT 42")
        stage.insert("own too")
    return found


def first_statement(stage: Stage) -> Any:
    with stage.atomic():
        with stage.killed_midway():
            found = stage.run("SELECT n FROM pg_sleep(1), generate_series(1, 3) n")
        stage.insert("own")
    return found


def below_savepoints(stage: Stage) -> Any:
    with stage.atomic():
        with stage.atomic():
            stage.kill()
            stage.insert("own")
        with contextlib.suppress(Error), stage.atomic():
            stage.run("SELECT 1 / 0")
        stage.insert("own too")
        return stage.run("SELECT 42")


def later_statement(stage: Stage) -> Any:
    with stage.atomic():
        later_statement_in(stage)


def later_statement_in(stage: Stage) -> Any:
    stage.insert("own")
    stage.kill()
    stage.insert("own too")


def commit(stage: Stage) -> Any:
    with stage.atomic():
        stage.insert("own")
        stage.kill()


def commit_of_reads(stage: Stage) -> Any:
    hooks: list[str] = []
    with stage.atomic():
        transaction.on_commit(lambda: hooks.append("hook"), using=stage.connection.alias)
        found = stage.run("SELECT 42")
        stage.kill()
    return found, hooks


def retried(stage: Stage) -> Any:
    runs: list[int] = []

    def function() -> Any:
        runs.append(1)
        stage.insert("own")
        if len(runs) == 1:
            stage.kill()
        stage.insert("own too")
        return stage.run("SELECT 42")

    return retry_atomic.run(function, using=stage.connection.alias), len(runs)


def retried_inside_of_a_block_of_reads(stage: Stage) -> Any:
    def function() -> Any:
        with stage.killed_midway():
            found = stage.run("SELECT 1, pg_sleep(1)::text")
        stage.insert("own")
        return found

    return retry_atomic.run(function, using=stage.connection.alias)


def server_side(stage: Stage) -> Any:
    with stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT n FROM generate_series(1, 5000) n")
        stage.kill()
        return list(iter(cursor.fetchone, None))


def settings(stage: Stage) -> Any:
    stage.run("SET search_path TO pg_catalog, public")
    stage.run("SELECT set_config('app.tenant', '2', false)")
    stage.kill()
    return stage.run("SELECT current_setting('app.tenant'), current_setting('search_path')")


LOSSES: list[Callable[[Stage], Any]] = [
    idle,
    idle_cursor,
    read,
    write,
    idle_block,
    first_statement,
    below_savepoints,
    later_statement,
    commit,
    commit_of_reads,
    retried,
    retried_inside_of_a_block_of_reads,
    server_side,
    settings,
]


def outcome(stage: Stage, lose: Callable[[Stage], Any]) -> Any:
    """What the application gets, and what it finds in the end."""
    connection: Any = stage.connection
    result: Any
    try:
        result = lose(stage)
    except Error as error:
        notes = [note.partition(":")[2] for note in getattr(error, "__notes__", [])]
        result = type(error).__name__, [re.sub(r"[0-9.]+ m?s", "", note) for note in notes]
    rows = [value for value in stage.rows() if value != "told"]
    left = (connection.in_atomic_block, connection.needs_rollback, connection.get_autocommit())
    return result, rows, left, stage.run("SELECT 5")


_ALONE: dict[Callable[[Stage], Any], Any] = {}


@pytest.mark.parametrize(
    ("act", "way"),
    [
        (writes, "receiver"),
        (writes, "handler"),
        (fails, "handler"),
        (is_killed, "handler"),
        *(pytest.param(act, "handler", marks=pytest.mark.slow) for act in ACTS[3:]),
    ],
)
@pytest.mark.parametrize("lose", LOSSES)
def test_what_is_done_when_told_changes_nothing(
    lose: Callable[[Stage], Any], act: Callable[[Stage], None], way: str, stage_of: Stages
) -> None:
    if lose not in _ALONE:
        _ALONE[lose] = outcome(stage_of(), lose)
    stage = stage_of()
    stage.server.execute(f"TRUNCATE {TABLE}", database=DATABASE)
    with told(stage, act, way) as times:
        assert outcome(stage, lose) == _ALONE[lose]
    assert times


def test_what_they_write_is_there(stage_of: Stages) -> None:
    """Also where the transaction that they are told of was lost."""
    stage = stage_of()
    with told(stage, writes, "handler") as times, contextlib.suppress(Error):
        later_statement(stage)
    assert times
    assert stage.rows() == ["told"] * len(times)


def test_lines_come_in_their_order_and_with_their_times(
    stage_of: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    """The second loss is that of the connection which has replaced the first one."""
    stage = stage_of()
    caplog.set_level(logging.INFO, LOGGER.name)
    began = time.time()
    with pytest.raises(Error), stage.atomic():
        with stage.killed_midway():
            stage.run("SELECT pg_sleep(1)")
        over = time.time()
        with contextlib.suppress(Error):
            later_statement_in(stage)
        assert not caplog.records, "they would break the transaction"
    said = [record for record in caplog.records if record.name == LOGGER.name]
    assert [record.levelno for record in said] == [logging.INFO, logging.WARNING]
    assert began <= said[0].created <= over <= said[1].created


def test_they_wait_for_a_server_that_is_down_only_for_a_while(
    own_connections: Connections, own_server: Server
) -> None:
    """All of them together: each of them would otherwise wait for retry_deadline."""
    stage = Stage(own_server, own_connections(retry_deadline=2, max_backoff=0.1), "app")
    stage.run("SELECT 1")
    own_server.stop("immediate")
    began = time.monotonic()
    with told(stage, reads, "receiver") as times, pytest.raises(Error):
        stage.run("SELECT 1")
    assert len(times) > 10
    assert time.monotonic() - began < 10
