"""Adapters and factories registered on the driver's connection, and what comes after its loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from django.db import Error

from django_resilient_pg.transaction import retry_atomic
from tests.engines import DRIVER, RESILIENT, STOCK
from tests.server.scenarios import TABLE, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]


class Doubled:
    """A value of the application's own, which is sent as a text that is twice as long."""

    def __init__(self, text: str) -> None:
        self.text = text


def register(connection: Any) -> None:
    """Numbers come as texts, rows as named tuples; psycopg 3 knows a value of our own."""
    raw = connection.connection
    if DRIVER == "psycopg2":
        from psycopg2.extensions import new_type, register_type
        from psycopg2.extras import NamedTupleCursor

        register_type(new_type((23,), "INT4", lambda value, _: "n" + str(value)), raw)
        raw.cursor_factory = NamedTupleCursor
        return
    from psycopg.adapt import Dumper, Loader
    from psycopg.rows import namedtuple_row

    class Numbers(Loader):
        def load(self, data: Any) -> str:
            return "n" + bytes(data).decode()

    class Doubles(Dumper):
        oid = 25

        def dump(self, obj: Any) -> bytes:
            return 2 * str(obj.text).encode()

    raw.adapters.register_loader("int4", Numbers)
    raw.adapters.register_dumper(Doubled, Doubles)
    raw.row_factory = namedtuple_row


def answers(connection: Any) -> tuple[Any, ...]:
    own = "x" if DRIVER == "psycopg2" else Doubled("x")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 7 AS number, %s::text AS word", [own])
        row = cursor.fetchone()
    return row.number, row.word


EXPECTED = ("n7", "x" if DRIVER == "psycopg2" else "xx")


def idle(stage: Stage) -> None:
    stage.kill()


def in_a_read(stage: Stage) -> None:
    with stage.killed_midway():
        stage.run("SELECT pg_sleep(1)")


def in_a_write(stage: Stage) -> None:
    with contextlib.suppress(Error), stage.killed_midway():
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(5)")


def in_a_transaction(stage: Stage) -> None:
    with contextlib.suppress(Error), stage.atomic():
        stage.insert("x")
        stage.kill()
        stage.insert("x")


def before_a_transaction(stage: Stage) -> None:
    stage.kill()
    with stage.atomic():
        stage.insert("x")


LOSSES = [idle, in_a_read, in_a_write, in_a_transaction, before_a_transaction]


@pytest.mark.parametrize("lose", LOSSES)
def test_they_are_registered_on_the_next_connection_too(
    lose: Callable[[Stage], None], stage_of: Stages
) -> None:
    stage = stage_of()
    register(stage.connection)
    for _ in range(2):
        pid = stage.pid()
        lose(stage)
        assert answers(stage.connection) == EXPECTED
        assert stage.pid() != pid


def test_they_are_there_after_the_idle_limit(stage_of: Stages) -> None:
    stage = stage_of(idle_timeout=0.4)
    register(stage.connection)
    pids = set()
    for _ in range(3):
        assert answers(stage.connection) == EXPECTED
        pids.add(stage.pid())
        stage.server.execute("SELECT pg_sleep(0.5)")
    assert len(pids) > 1


@pytest.mark.psycopg3
@pytest.mark.parametrize("size", [1, 3])
def test_they_are_there_on_another_connection_of_the_pool(size: int, stage_of: Stages) -> None:
    pool = {"pool": {"min_size": size, "max_size": size}}
    stage = stage_of(options=pool, CONN_MAX_AGE=0)
    register(stage.connection)
    in_a_read(stage)
    assert answers(stage.connection) == EXPECTED


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_after_close_they_are_not(engine: str, stage_of: Stages) -> None:
    """As on the stock engine: the application has started clean."""
    stage = stage_of(engine)
    register(stage.connection)
    stage.connection.close()
    assert stage.run("SELECT 7") == [(7,)]


@pytest.mark.psycopg3
@pytest.mark.parametrize("end", ["kill", "close"])
def test_what_a_dumper_wrote_is_not_written_again(end: str, stage_of: Stages) -> None:
    """Of the alias on which it was registered: a new connection there would know nothing of it."""
    from psycopg.adapt import Dumper

    class Writes(Dumper):
        def dump(self, obj: Any) -> bytes:
            return b""

        def quote(self, obj: Any) -> bytes:
            return b"add()"

    stage, other = stage_of(), stage_of()
    stage.server.execute(
        f"CREATE OR REPLACE FUNCTION add() RETURNS int SECURITY DEFINER LANGUAGE sql AS"
        f" $$ INSERT INTO {TABLE} (value) VALUES ('x') RETURNING 1 $$",
        database=stage.database,
    )
    runs: list[int] = []

    def function() -> None:
        runs.append(1)
        other.connection.connection.adapters.register_dumper(Doubled, Writes)
        other.run("SELECT %s", [Doubled("")])
        if end == "kill":
            other.kill()
            with contextlib.suppress(Error):
                other.run("SELECT 1")
        other.connection.close()
        stage.run("SELECT 1")
        if len(runs) == 1:
            stage.kill()
        stage.run("SELECT 2")

    with pytest.raises(Error):
        retry_atomic.run(function, using=stage.connection.alias)
    assert (len(runs), stage.rows()) == (1, ["x"])
