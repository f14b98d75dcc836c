"""A connection that is lost again while the engine recovers from a loss: healed like the first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_resilient_pg.errors import ServerDown
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import STOCK, Connections, backend_pid, until
from tests.faults.proxy import Point, Proxy
from tests.server.scenarios import DATABASE, TABLE, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]
POINTS: tuple[Point, ...] = ("before", "after", "answer")


@contextmanager
def cut_again(proxy: Proxy, message: int, point: Point) -> Iterator[list[int]]:
    """Cut the next connection that is made, at a message; its value: how many were made."""
    made: list[int] = []

    def plan(**_: Any) -> None:
        made.append(1)
        if len(made) == 1:
            proxy.cut_at(message, point)

    connection_created.connect(plan)
    try:
        yield made
    finally:
        connection_created.disconnect(plan)


@contextmanager
def socket_lost_in_question(server: Server, locking: BaseDatabaseWrapper) -> Iterator[list[int]]:
    """Take the socket from under the next connection while it waits for the catalogues' answer.

    psycopg 3 then says "connection socket closed", and is left in the middle of its query. The
    value: the process whose connection that was.
    """
    lost: list[int] = []
    watches: list[threading.Thread] = []
    waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    locking.set_autocommit(False)
    with locking.cursor() as cursor:
        cursor.execute("LOCK TABLE pg_catalog.pg_policy IN ACCESS EXCLUSIVE MODE")
    locker = backend_pid(locking)

    def take(connection: BaseDatabaseWrapper, **_: Any) -> None:
        if watches:
            return
        pid, fd = backend_pid(connection), connection.connection.fileno()

        def watch() -> None:
            until(lambda: bool(server.execute(waits, [pid])), "nothing was asked")
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, fd)
            os.close(writer)
            lost.append(pid)
            server.terminate(locker)

        watches.append(threading.Thread(target=watch))
        watches[0].start()

    connection_created.connect(take)
    try:
        yield lost
    finally:
        connection_created.disconnect(take)
        for one in watches:
            one.join()


#: Of the engine's own questions after a loss there are four at most, then the statement's own.
again = pytest.mark.parametrize("message", [1, 2, 3, 4])
at = pytest.mark.parametrize("point", POINTS)


@again
@at
def test_a_read_whose_second_connection_is_lost_as_well(
    message: int, point: Point, stage_of: Stages, proxy: Proxy
) -> None:
    stage = stage_of(PORT=proxy.port)
    stage.insert("x")
    with cut_again(proxy, message, point) as made:
        proxy.cut_at(1, "answer")
        assert stage.run(f"SELECT lower(value) FROM {TABLE}") == [("x",)]
    assert made
    assert stage.run("SELECT 2") == [(2,)]
    with stage.atomic():
        stage.insert("y")
    assert stage.rows() == ["x", "y"]


@again
@at
@pytest.mark.parametrize("first", ["before", "answer"])
def test_a_commit_whose_second_connection_is_lost_as_well(
    first: Point, message: int, point: Point, stage_of: Stages, proxy: Proxy
) -> None:
    stage = stage_of(PORT=proxy.port)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        stage.insert("once")
        if len(runs) == 1:
            proxy.cut_at(2, first)  # 1 asks for the transaction's id, 2 is COMMIT

    with cut_again(proxy, message, point) as made:
        retry_atomic.run(work, using=stage.connection.alias)
    assert made
    assert stage.rows() == ["once"]
    assert stage.run("SELECT 2") == [(2,)]
    with stage.atomic():
        stage.insert("y")
    assert stage.rows() == ["once", "y"]


@pytest.mark.parametrize("message", [1, 2])
@at
def test_a_transaction_that_only_read_whose_second_connection_is_lost_as_well(
    message: int, point: Point, stage_of: Stages, proxy: Proxy
) -> None:
    stage = stage_of(PORT=proxy.port)
    with cut_again(proxy, message, point) as made, stage.atomic():
        stage.run(f"SELECT lower(value) FROM {TABLE}")
        proxy.cut_at(1, "answer")
    assert made
    assert stage.run("SELECT 2") == [(2,)]
    stage.insert("y")
    assert stage.rows() == ["y"]


@pytest.mark.psycopg3
@pytest.mark.parametrize("what", ["read", "commit"])
def test_a_question_that_leaves_its_connection_in_the_middle_of_a_query(
    what: str, stage_of: Stages, proxy: Proxy, server: Server, make_connection: Connections
) -> None:
    stage = stage_of(PORT=proxy.port)
    locking = make_connection(STOCK, user=server.superuser, database=DATABASE)
    sql = f"SELECT lower(value) FROM {TABLE}"
    stage.run(sql)
    with socket_lost_in_question(server, locking) as lost:
        if what == "read":
            proxy.cut_at(1, "answer")
            assert stage.run(sql) == []
        else:
            with stage.atomic():
                stage.run(sql)
                proxy.cut_at(1, "answer")
    assert lost
    assert stage.run("SELECT 2") == [(2,)]
    with stage.atomic():
        stage.insert("y")
    assert stage.rows() == ["y"]


@at
@pytest.mark.parametrize("message", [1, 2, 3])
@pytest.mark.parametrize("known", [False, True])
def test_savepoints_that_are_lost_while_they_are_made_again(
    known: bool, message: int, point: Point, stage_of: Stages, proxy: Proxy
) -> None:
    """Nothing had been run in the transaction but savepoints."""
    stage = stage_of(PORT=proxy.port)
    with cut_again(proxy, message, point) as made, stage.atomic(), stage.atomic():
        stage.kill()
        assert not (known and stage.connection.is_usable())
        stage.insert("x")
        # Nor is COMMIT cut, where fewer messages were sent.
        proxy.cut_at(1000, "before")
    assert made
    assert stage.rows() == ["x"]


@pytest.mark.parametrize("known", [False, True])
def test_savepoints_that_are_lost_each_time_are_told_of(
    known: bool, stage_of: Stages, proxy: Proxy
) -> None:
    """Sessions that end at their first statement are an outage, for which there is a deadline."""
    stage = stage_of(PORT=proxy.port, retry_deadline=1.0)

    def cut(**_: Any) -> None:
        proxy.cut_at(1, "before")

    connection_created.connect(cut)
    try:
        with pytest.raises(Error) as caught, stage.atomic(), stage.atomic():
            stage.kill()
            assert not (known and stage.connection.is_usable())
            stage.insert("x")
    finally:
        connection_created.disconnect(cut)
    notes = getattr(caught.value, "__notes__", [])
    assert any("was not retried" in note or "fail fast" in note for note in notes)
    assert stage.rows() == []
    until(lambda: answers(stage), "no answer")


def answers(stage: Stage) -> bool:
    """Whether the server is known to be back."""
    with suppress(ServerDown):
        return stage.run("SELECT 2") == [(2,)]
    return False


@at
def test_a_server_side_cursor_whose_second_connection_is_lost_before_a_row_came(
    point: Point, stage_of: Stages, proxy: Proxy
) -> None:
    stage = stage_of(PORT=proxy.port)
    for message in range(1, 9):
        with cut_again(proxy, message, point) as made:
            with stage.connection.chunked_cursor() as cursor:
                proxy.cut_at(1, "answer")
                cursor.execute("SELECT g FROM generate_series(1, 30) AS g")
                proxy.cut_at(1000, "before")
                assert len(cursor.fetchall()) == 30
            assert made
