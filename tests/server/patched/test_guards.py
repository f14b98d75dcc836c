"""Guards against use of the database, pytest-django's and others', keep it from being used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql import base as postgresql
from pytest_django.plugin import DjangoDbBlocker

from tests.server.patched.uses import (
    INSERT,
    Forbidden,
    Patch,
    called,
    chunked,
    counted,
    failed,
    many,
    plain,
)
from tests.server.scenarios import Stage


def forbid(*_: object, **__: object) -> Any:
    raise Forbidden


# -- guards against use of the database ------------------------------------------------------------


@pytest.fixture
def blocker() -> Iterator[DjangoDbBlocker]:
    """pytest-django's own; where its plugin is on, it blocks outside of tests that ask for it."""
    made = DjangoDbBlocker(_ispytest=True)
    yield made
    while made.is_active:
        made.restore()


def in_atomic(stage: Stage) -> None:
    with stage.atomic():
        pass


def in_temporary_connection(stage: Stage) -> None:
    with stage.connection.temporary_connection():
        pass


GUARDED: dict[str, Callable[[Stage], object]] = {
    "cursor": lambda stage: stage.connection.cursor(),
    "chunked_cursor": lambda stage: stage.connection.chunked_cursor(),
    "temporary_connection": in_temporary_connection,
    "ensure_connection": lambda stage: stage.connection.ensure_connection(),
    "get_autocommit": lambda stage: stage.connection.get_autocommit(),
    "set_autocommit": lambda stage: stage.connection.set_autocommit(False),
    "savepoint": lambda stage: stage.connection.savepoint(),
    "on_commit": lambda stage: stage.connection.on_commit(lambda: None),
    "atomic": in_atomic,
}
GUARDED_USE = pytest.mark.parametrize("use", GUARDED)
NOT_ALLOWED = "Database access not allowed"


@GUARDED_USE
@pytest.mark.parametrize("opened", [True, False], ids=["open", "closed"])
def test_pytest_djangos_guard_blocks(
    opened: bool, use: str, stage: Stage, blocker: DjangoDbBlocker
) -> None:
    if not opened:
        stage.connection.close()
    with blocker.block(), pytest.raises(RuntimeError, match=NOT_ALLOWED):
        GUARDED[use](stage)
    GUARDED[use](stage)
    stage.connection.close()


def test_pytest_djangos_guard_is_lifted_and_put_back(
    stage: Stage, blocker: DjangoDbBlocker
) -> None:
    with blocker.block():
        with blocker.unblock():
            stage.run(INSERT, ["allowed"])
            with blocker.block(), pytest.raises(RuntimeError, match=NOT_ALLOWED):
                stage.run(INSERT, ["forbidden"])
        with pytest.raises(RuntimeError, match=NOT_ALLOWED):
            stage.run(INSERT, ["forbidden"])
    assert stage.rows() == ["allowed"]


def test_pytest_djangos_guard_blocks_a_connection_that_is_lost(
    stage: Stage, blocker: DjangoDbBlocker
) -> None:
    stage.kill()
    with blocker.block(), pytest.raises(RuntimeError, match=NOT_ALLOWED):
        stage.run(INSERT, ["forbidden"])
    assert stage.rows() == []


def test_a_guard_is_asked_once_for_each_cursor(stage: Stage, monkeypatch: Patch) -> None:
    """As those expect who replace it by a mock that counts."""
    calls = [0]
    original = BaseDatabaseWrapper.ensure_connection
    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", counted(original, calls))
    stage.run("SELECT 1")
    assert calls == [1]


def test_a_guard_on_djangos_postgresql_engine(stage: Stage, monkeypatch: Patch) -> None:
    """It has no such method of its own."""
    monkeypatch.setattr(postgresql.DatabaseWrapper, "ensure_connection", forbid, raising=False)
    with pytest.raises(Forbidden):
        stage.run("SELECT 1")


def test_a_guard_that_connects_in_its_own_way(stage: Stage, monkeypatch: Patch) -> None:
    """As packages do that retry to connect."""
    original, seen = BaseDatabaseWrapper.ensure_connection, list[bool]()

    def ensure_connection(self: BaseDatabaseWrapper) -> None:
        seen.append(self.connection is None)
        original(self)

    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", ensure_connection)
    stage.run("SELECT 1")
    stage.connection.close()
    stage.run("SELECT 1")
    assert seen[0] is False
    assert True in seen


@pytest.mark.parametrize("opened", [False, True])
def test_a_guard_that_calls_the_connections_own_method(
    opened: bool, stage: Stage, monkeypatch: Patch
) -> None:
    """As a test of Django's does, which counts what a new connection asks."""
    own, calls = stage.connection.ensure_connection, [0]

    def ensure_connection(self: BaseDatabaseWrapper) -> None:
        calls[0] += 1
        own()

    if not opened:
        stage.connection.close()
    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", ensure_connection)
    assert stage.run("SELECT 1") == [(1,)]
    assert calls[0]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "name", ["execute", "_execute", "_execute_with_wrappers", "__init__", "__getattr__"]
)
@pytest.mark.parametrize("use", [plain, chunked])
def test_a_guard_on_the_cursor(
    use: Callable[[Stage], None], name: str, debug: bool, stage: Stage, monkeypatch: Patch
) -> None:
    stage.connection.force_debug_cursor = debug
    monkeypatch.setattr(utils.CursorWrapper, name, forbid)
    with pytest.raises(Forbidden):
        use(stage)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("name", ["executemany", "_executemany", "_execute_with_wrappers"])
def test_a_guard_on_many_rows(name: str, debug: bool, stage: Stage, monkeypatch: Patch) -> None:
    stage.connection.force_debug_cursor = debug
    monkeypatch.setattr(utils.CursorWrapper, name, forbid)
    with pytest.raises(Forbidden):
        many(stage)
    assert stage.rows() == []


def test_a_guard_on_a_procedure(stage: Stage, monkeypatch: Patch) -> None:
    monkeypatch.setattr(utils.CursorWrapper, "callproc", forbid)
    with pytest.raises(Forbidden):
        called(stage)


def test_a_guard_on_a_cursor_that_is_open(stage: Stage, monkeypatch: Patch) -> None:
    with stage.connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        monkeypatch.setattr(utils.CursorWrapper, "_execute", forbid)
        with pytest.raises(Forbidden):
            cursor.execute(INSERT, ["x"])
    assert stage.rows() == []


def test_a_guard_on_savepoints(stage: Stage, monkeypatch: Patch) -> None:
    with stage.atomic():
        monkeypatch.setattr(utils.CursorWrapper, "_execute", forbid)
        with pytest.raises(Forbidden):
            stage.connection.savepoint()
        monkeypatch.undo()


def test_a_guard_on_broken_transactions(stage: Stage, monkeypatch: Patch) -> None:
    monkeypatch.setattr(BaseDatabaseWrapper, "validate_no_broken_transaction", forbid)
    with stage.atomic():
        transaction.set_rollback(True, using=stage.connection.alias)
        with pytest.raises(Forbidden):
            stage.run(INSERT, ["x"])
    assert stage.rows() == []


def test_a_guard_on_an_instance(stage: Stage, monkeypatch: Patch) -> None:
    monkeypatch.setattr(stage.connection, "ensure_connection", forbid)
    with pytest.raises(Forbidden):
        stage.run(INSERT, ["x"])
    assert stage.rows() == []


@pytest.mark.parametrize("name", ["execute", "executemany", "debug_sql"])
@pytest.mark.parametrize("owner", [utils.CursorDebugWrapper, postgresql.CursorDebugWrapper])
def test_a_guard_on_the_debug_cursor(
    owner: Any, name: str, stage: Stage, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(owner, name, forbid, raising=False)
    many(stage)
    stage.connection.force_debug_cursor = True
    with pytest.raises(Forbidden):
        (many if name == "executemany" else plain)(stage)


def test_a_guard_on_the_debug_cursors_statements_alone(stage: Stage, monkeypatch: Patch) -> None:
    """It inherits this method."""
    monkeypatch.setattr(utils.CursorDebugWrapper, "_execute", forbid, raising=False)
    plain(stage)
    stage.connection.force_debug_cursor = True
    with pytest.raises(Forbidden):
        plain(stage)


def test_a_guard_as_execute_wrapper(stage: Stage) -> None:
    with stage.connection.execute_wrapper(forbid), pytest.raises(Forbidden):
        stage.run(INSERT, ["x"])
    assert stage.rows() == []


@pytest.mark.parametrize("name", ["cursor", "_cursor", "_prepare_cursor", "make_cursor"])
def test_a_guard_on_making_cursors(name: str, stage: Stage, monkeypatch: Patch) -> None:
    monkeypatch.setattr(BaseDatabaseWrapper, name, forbid)
    with pytest.raises(Forbidden):
        stage.connection.cursor()


@pytest.mark.parametrize("name", ["chunked_cursor", "create_cursor", "make_debug_cursor"])
def test_a_guard_on_making_cursors_for_postgresql(
    name: str, stage: Stage, monkeypatch: Patch
) -> None:
    stage.connection.force_debug_cursor = True
    monkeypatch.setattr(postgresql.DatabaseWrapper, name, forbid)
    with pytest.raises(Forbidden):
        stage.connection.chunked_cursor()


@pytest.mark.parametrize("name", ["commit", "rollback", "_commit", "_rollback", "close", "_close"])
def test_a_guard_on_the_end(name: str, stage: Stage, monkeypatch: Patch) -> None:
    owner = postgresql.DatabaseWrapper if name == "_close" else BaseDatabaseWrapper
    monkeypatch.setattr(owner, name, forbid)
    with pytest.raises(Forbidden):
        getattr(stage.connection, name.removeprefix("_"))()
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["connect", "get_new_connection", "init_connection_state"])
def test_a_guard_on_connecting(name: str, stage: Stage, monkeypatch: Patch) -> None:
    owner = BaseDatabaseWrapper if name == "connect" else postgresql.DatabaseWrapper
    monkeypatch.setattr(owner, name, forbid)
    stage.connection.close()
    with pytest.raises(Forbidden):
        stage.run("SELECT 1")
    monkeypatch.undo()
    assert stage.run("SELECT 5") == [(5,)]


def test_a_health_check_that_fails(stage: Stage, monkeypatch: Patch) -> None:
    """A test's way to have the connection made again."""
    pid = stage.pid()
    monkeypatch.setattr(postgresql.DatabaseWrapper, "is_usable", lambda self: False)
    failed(stage)
    assert stage.pid() != pid


def test_a_health_check_before_each_cursor(stage: Stage, monkeypatch: Patch) -> None:
    monkeypatch.setattr(BaseDatabaseWrapper, "close_if_health_check_failed", forbid)
    with pytest.raises(Forbidden):
        stage.connection.cursor()


# -- asked in an event loop ------------------------------------------------------------------------


@pytest.mark.parametrize("use", [name for name in GUARDED if name != "temporary_connection"])
def test_where_there_is_an_event_loop(use: str, stage: Stage) -> None:
    """``ensure_connection()`` is what keeps such calls out of it, on an open connection too."""

    async def main() -> None:
        GUARDED[use](stage)

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(main())
    assert stage.run("SELECT 5") == [(5,)]
