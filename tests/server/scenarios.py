"""What an application does while its connection dies, as plain functions of a connection.

Each runs on any engine and returns ``(result, rows)``: what the application saw, and what is in
the table afterwards. The tests want one outcome from this engine and show that the stock engine
fails under the same fault, so none of them can pass by chance.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from django.db import Error, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Server
from tests.engines import PATIENCE, backend_pid, killed_midway, run

Connection = BaseDatabaseWrapper

DATABASE = "promise"
TABLE = "promise"
#: Whose rows a session shows, in a database whose rows belong to tenants.
TENANT = "SELECT coalesce(current_setting('app.tenant', true), '')"
SCHEMA = [
    """DROP SCHEMA IF EXISTS public CASCADE""",
    """CREATE SCHEMA public AUTHORIZATION app""",
    f"""CREATE TABLE {TABLE} (id bigserial PRIMARY KEY, value text)""",
    """CREATE SEQUENCE numbers""",
    """CREATE FUNCTION slow_now() RETURNS text STABLE LANGUAGE sql
        AS $$ SELECT 'now' FROM pg_sleep(1) $$""",
    f"""CREATE FUNCTION slow_insert(v text) RETURNS int VOLATILE LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(1); INSERT INTO {TABLE} (value) VALUES (v); RETURN 1;
        END $$""",
    """CREATE FUNCTION lying_insert(v text) RETURNS int STABLE LANGUAGE sql AS $$ SELECT 1 $$""",
    f"""CREATE PROCEDURE slow_procedure() LANGUAGE plpgsql
        AS $$ BEGIN INSERT INTO {TABLE} (value) VALUES ('p'); COMMIT; PERFORM pg_sleep(1);
        END $$""",
    """GRANT ALL ON ALL TABLES IN SCHEMA public TO app""",
    """GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app""",
]


class Stage:
    """A server, a connection under test and a table, and the means to end sessions."""

    def __init__(self, server: Server, connection: Connection, database: str) -> None:
        self.server, self.connection, self.database = server, connection, database

    def run(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        return run(self.connection, sql, params)

    def insert(self, value: str) -> None:
        self.run(f"INSERT INTO {TABLE} (value) VALUES (%s)", [value])

    def pid(self) -> int:
        return backend_pid(self.connection)

    def rows(self) -> list[str]:
        """The table as an independent superuser session sees it, in order."""
        found = self.server.execute(
            f"SELECT value FROM {TABLE} ORDER BY id", database=self.database
        )
        return [value for (value,) in found]

    def kill(self) -> None:
        """End the session of the connection under test and wait until this end could know it."""
        descriptor = self.connection.connection.fileno()
        self.server.terminate(self.pid())
        heard = select.poll()
        heard.register(descriptor, select.POLLRDHUP)
        assert heard.poll(PATIENCE * 1000), "the end of the session was not seen"

    def killed_midway(self) -> AbstractContextManager[list[int]]:
        """End the session in the middle of a ``pg_sleep`` that the block runs."""
        return killed_midway(self.server, self.connection)

    def atomic(self) -> Any:
        return transaction.atomic(using=self.connection.alias)


def lay_out(server: Server, database: str) -> None:
    """Make what the scenarios use, in place of what an earlier one has left."""
    server.execute(";".join(SCHEMA), database=database)


Scenario = Callable[[Stage], Any]
SURVIVED: dict[str, tuple[Scenario, Any, list[str]]] = {}


def survives(result: Any, rows: list[str]) -> Callable[[Scenario], Scenario]:
    """Register a scenario with the outcome this engine promises and the stock engine misses."""

    def register(scenario: Scenario) -> Scenario:
        SURVIVED[scenario.__name__] = (scenario, result, rows)
        return scenario

    return register


def differs(name: str, stage: Stage) -> bool:
    """Whether an engine fails in this scenario, or does something else than is promised."""
    scenario, result, rows = SURVIVED[name]
    try:
        return (scenario(stage), stage.rows()) != (result, rows)
    except Error:
        return True


@survives([(42,)], [])
def read_after_idle_loss(stage: Stage) -> Any:
    stage.kill()
    return stage.run("SELECT 42")


@survives(None, ["a"])
def autocommit_write_after_idle_loss(stage: Stage) -> Any:
    stage.kill()
    stage.insert("a")


@survives(None, ["a", "b"])
def atomic_with_two_writes_after_idle_loss(stage: Stage) -> Any:
    stage.kill()
    with stage.atomic():
        stage.insert("a")
        stage.insert("b")


@survives(["hook"], ["a", "b", "c"])
def nested_atomic_after_idle_loss(stage: Stage) -> Any:
    stage.kill()
    hooks: list[str] = []
    with stage.atomic():
        transaction.on_commit(lambda: hooks.append("hook"), using=stage.connection.alias)
        with stage.atomic():
            stage.insert("a")
            with stage.atomic():
                stage.insert("b")
        stage.insert("c")
    return hooks


@survives(["hook"], ["a", "b"])
def loss_inside_nested_atomic_before_the_first_statement(stage: Stage) -> Any:
    hooks: list[str] = []
    pid = stage.pid()
    with stage.atomic(), stage.atomic():
        transaction.on_commit(lambda: hooks.append("hook"), using=stage.connection.alias)
        stage.server.terminate(pid)
        with stage.atomic():
            stage.insert("a")
        stage.insert("b")
    return hooks


@survives(None, ["kept"])
def inner_rollback_after_a_restored_savepoint(stage: Stage) -> Any:
    pid = stage.pid()
    with stage.atomic():
        try:
            with stage.atomic():
                stage.server.terminate(pid)
                stage.insert("dropped")
                raise KeyError
        except KeyError:
            pass
        stage.insert("kept")


@survives(None, ["first", "second"])
def loss_during_the_first_write_of_a_transaction(stage: Stage) -> Any:
    with stage.killed_midway(), stage.atomic():
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'first' FROM pg_sleep(1)")
        stage.insert("second")


@survives([(1,)], [])
def loss_in_the_middle_of_a_read(stage: Stage) -> Any:
    with stage.killed_midway():
        return [(int(value),) for value, _ in stage.run("SELECT 1, pg_sleep(1)")]


@survives([(0,)], [])
def loss_in_the_middle_of_a_read_of_a_table(stage: Stage) -> Any:
    with stage.killed_midway():
        return stage.run(f"SELECT count(*) FROM {TABLE}, pg_sleep(1)")


@survives([(7,)], [])
def cursor_kept_over_the_loss(stage: Stage) -> Any:
    with stage.connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        pid = stage.pid()
        stage.server.terminate(pid)
        cursor.execute("SELECT 7")
        return [tuple(row) for row in cursor.fetchall()]


@survives(None, ["a", "b"])
def executemany_after_idle_loss(stage: Stage) -> Any:
    stage.kill()
    with stage.connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {TABLE} (value) VALUES (%s)", [["a"], ["b"]])


@survives([("now",)], [])
def callproc_in_the_middle(stage: Stage) -> Any:
    with stage.killed_midway(), stage.connection.cursor() as cursor:
        cursor.callproc("slow_now")
        return [tuple(row) for row in cursor.fetchall()]


@survives(list(range(1, 501)), [])
def iterator_opened_on_a_lost_connection(stage: Stage) -> Any:
    stage.kill()
    with stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 500) AS g")
        return [row[0] for rows in iter(lambda: cursor.fetchmany(100), []) for row in rows]


@survives(list(range(1, 301)), [])
def iterator_lost_before_its_first_row(stage: Stage) -> Any:
    with stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 300) AS g")
        pids = stage.server.backends(stage.database)
        stage.server.terminate(*pids)
        return [row[0] for rows in iter(lambda: cursor.fetchmany(100), []) for row in rows]


@survives([(3,)], [])
def manual_transaction_after_idle_loss(stage: Stage) -> Any:
    stage.kill()
    connection = stage.connection
    connection.set_autocommit(False)
    try:
        found = stage.run("SELECT 3")
        connection.rollback()
        return found
    finally:
        connection.set_autocommit(True)


@survives([(1,)], [])
def long_read_only_pause(stage: Stage) -> Any:
    """The loss is noticed at the next statement, not by any request signal."""
    pid = stage.pid()
    stage.server.terminate(pid)
    time.sleep(0.2)
    return stage.run("SELECT 1")
