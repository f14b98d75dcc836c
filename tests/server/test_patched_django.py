"""What replaces methods of Django's own classes takes effect as on Django's engine.

pytest-django's guard, query counters and guards, ``--print-sql`` of django-extensions,
django-debug-toolbar, error trackers and caches all do that, before this engine is imported or
after, while a connection is open or before there is one. What is right is what Django's engine
does: each test runs on both.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FunctionType
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import Error, connections, transaction
from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql import base as postgresql
from django.db.utils import DatabaseErrorWrapper
from pytest_django.plugin import DjangoDbBlocker

from django_resilient_pg.mixins import ResilientDatabaseMixin
from testproject.postgres import Server
from tests.conftest import ROOT
from tests.engines import DRIVER, RESILIENT, STOCK, Connections
from tests.server.scenarios import TABLE, Stage, lay_out

PG3 = DRIVER == "psycopg"
INSERT = f"INSERT INTO {TABLE} (value) VALUES (%s)"
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def stages(server: Server, database: str) -> Iterator[dict[str, Stage]]:
    """One for each engine; use ``stage``, ``ours`` or ``both``."""
    lay_out(server, database)
    made = Connections(server)
    yield {
        engine: Stage(server, made(engine, database=database, CONN_MAX_AGE=None), database)
        for engine in (STOCK, RESILIENT)
    }
    made.close()


def fresh(stage: Stage) -> Stage:
    """With an open connection and an empty table."""
    connection = stage.connection
    connection.force_debug_cursor = False
    if connection.in_atomic_block or not connection.is_usable() or not connection.get_autocommit():
        connection.close()
    stage.run(f"TRUNCATE {TABLE}")
    return stage


@pytest.fixture(params=[STOCK, RESILIENT], ids=["stock", "resilient"])
def stage(request: pytest.FixtureRequest, stages: dict[str, Stage]) -> Stage:
    return fresh(stages[request.param])


@pytest.fixture
def ours(stages: dict[str, Stage]) -> Stage:
    return fresh(stages[RESILIENT])


@pytest.fixture
def both(stages: dict[str, Stage]) -> dict[str, Stage]:
    return {engine: fresh(stage) for engine, stage in stages.items()}


class Forbidden(Exception):
    """What a guard raises."""


def forbid(*_: object, **__: object) -> Any:
    raise Forbidden


# -- what a connection is used for -----------------------------------------------------------------


def plain(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchall()
        cursor.execute("SELECT %s", [1])
        cursor.fetchone()
        cursor.fetchmany(1)


def iterated(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        list(cursor)


def many(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        cursor.executemany(INSERT, [["a"], ["b"]])


def called(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        cursor.callproc("lying_insert", ["x"])
        cursor.fetchall()


def chunked(stage: Stage) -> None:
    with stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 9)")
        cursor.fetchmany(2)
        cursor.fetchone()
        cursor.fetchall()


def chunked_and_iterated(stage: Stage) -> None:
    with stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        list(cursor)


def copied(stage: Stage) -> None:
    sql = f"COPY {TABLE} TO STDOUT"
    with stage.connection.cursor() as cursor:
        if PG3:
            with cursor.copy(sql) as copy:
                list(copy)
        else:
            cursor.copy_expert(sql, io.StringIO())


def nested(stage: Stage) -> None:
    with stage.atomic():
        with stage.atomic():
            plain(stage)
        with suppress(KeyError), stage.atomic():
            plain(stage)
            raise KeyError
        transaction.on_commit(lambda: None, using=stage.connection.alias)


def rolled_back(stage: Stage) -> None:
    with suppress(KeyError), stage.atomic():
        plain(stage)
        raise KeyError


def manual(stage: Stage) -> None:
    connection = stage.connection
    connection.set_autocommit(False)
    plain(stage)
    connection.commit()
    plain(stage)
    connection.rollback()
    connection.set_autocommit(True)


def asked(stage: Stage) -> None:
    connection: Any = stage.connection
    connection.get_autocommit()
    connection.on_commit(lambda: None)
    connection.is_usable()


def failed(stage: Stage) -> None:
    """With an error after which Django asks whether the connection is usable."""
    with suppress(Error):
        stage.run("SELECT no_such_column")
    stage.connection.close_if_unusable_or_obsolete()
    plain(stage)


USES = [
    plain,
    iterated,
    many,
    called,
    chunked,
    chunked_and_iterated,
    copied,
    nested,
    rolled_back,
    manual,
    asked,
    failed,
]


# -- every method of Django's classes --------------------------------------------------------------

CLASSES = {
    "BaseDatabaseWrapper": BaseDatabaseWrapper,
    "DatabaseWrapper": postgresql.DatabaseWrapper,
    "CursorWrapper": utils.CursorWrapper,
    "CursorDebugWrapper": utils.CursorDebugWrapper,
    "postgresql.CursorDebugWrapper": postgresql.CursorDebugWrapper,
    "DatabaseErrorWrapper": DatabaseErrorWrapper,
}
#: Checks that do no harm where they are asked more often than by Django itself.
CHECKS = {"ensure_connection", "close_if_health_check_failed"}
#: Called at all where Django calls it: a server-side cursor has methods of its own for much of it.
SHORT_CUTS = {"__getattr__"}
#: This engine's own.
OWN = {"pool", "close_pool", "_configure_role"}
#: Asked, or entered, where there is an error only.
OWN |= {"validate_no_broken_transaction", "wrap_database_errors"}
OWN |= {"DatabaseErrorWrapper.__enter__", "DatabaseErrorWrapper.__exit__"}
OWN |= {"DatabaseErrorWrapper.__call__"}


def counted(method: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def counting(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return method(*args, **kwargs)

    return counting


def methods_of(owner: Any) -> dict[str, Callable[..., Any]]:
    return {name: it for name, it in vars(owner).items() if isinstance(it, FunctionType)}


def calls_of(stage: Stage, owner: Any, names: Iterable[str]) -> dict[str, list[int]]:
    """How often each use of a connection calls these, replaced by what only counts and calls them.

    Without the debug log, and with it.
    """
    found: dict[str, list[int]] = {name: [] for name in names}
    for debug in (False, True):
        stage.connection.force_debug_cursor = debug
        for use in USES:
            counts = {name: [0] for name in found}
            with pytest.MonkeyPatch.context() as patch:
                for name, count in counts.items():
                    patch.setattr(owner, name, counted(vars(owner)[name], count))
                use(stage)
            for name, count in counts.items():
                found[name] += count
    stage.connection.force_debug_cursor = False
    return found


def as_often(name: str, stock: list[int], ours: list[int]) -> bool:
    if name in CHECKS:
        return all(mine >= theirs for mine, theirs in zip(ours, stock, strict=True))
    if name in SHORT_CUTS:
        return all(bool(mine) == bool(theirs) for mine, theirs in zip(ours, stock, strict=True))
    return ours == stock


@pytest.mark.parametrize("of", CLASSES)
def test_every_method_is_called_as_often_as_by_the_stock_engine(
    of: str, both: dict[str, Stage]
) -> None:
    owner = CLASSES[of]
    names = {name for name in methods_of(owner) if not OWN & {name, f"{of}.{name}"}}
    used = {name for name, calls in calls_of(both[STOCK], owner, names).items() if any(calls)}
    differ: dict[str, Any] = {}
    for name in sorted(used):  # one by one: replaced together they might let each other be called
        stock, ours = (calls_of(stage, owner, [name])[name] for stage in both.values())
        if not as_often(name, stock, ours):
            differ[name] = {"stock": sum(stock), "ours": sum(ours)}
    assert differ == {}


@pytest.mark.parametrize("place", ["above", "below"])
def test_every_override_is_called_as_often_as_with_the_stock_engine(
    place: str, both: dict[str, Stage]
) -> None:
    """In an engine over this one, and in an engine that the mixin is composed with."""
    names = {*methods_of(BaseDatabaseWrapper), *methods_of(postgresql.DatabaseWrapper)}
    names -= OWN | {"__init__"}
    outer = {
        STOCK: overriding(postgresql.DatabaseWrapper, names),
        RESILIENT: overriding(type(both[RESILIENT].connection), names),
    }
    if place == "below":
        composed: Any = (ResilientDatabaseMixin, overriding(postgresql.DatabaseWrapper, names))
        outer[RESILIENT] = type("Composed", composed, {})
    told: dict[str, dict[str, list[int]]] = {}
    for engine, stage in both.items():
        with replaced(stage, outer[engine]) as other:
            told[engine] = overrides_of(other, names)
    differ = {
        name: {"stock": sum(told[STOCK][name]), "ours": sum(told[RESILIENT][name])}
        for name in sorted(names)
        if not as_often(name, told[STOCK][name], told[RESILIENT][name])
    }
    assert differ == {}


OVERRIDDEN: dict[str, list[int]] = {}


def overriding(inner: Any, names: set[str]) -> Any:
    """A subclass that overrides these methods, and counts its calls in ``OVERRIDDEN``."""

    def override(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            OVERRIDDEN.setdefault(name, [0])[0] += 1
            return getattr(super(made, self), name)(*args, **kwargs)

        return method

    made: Any = type("Overriding", (inner,), {name: override(name) for name in names})
    return made


def overrides_of(stage: Stage, names: set[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in names}
    for debug in (False, True):
        stage.connection.force_debug_cursor = debug
        for use in USES:
            OVERRIDDEN.clear()
            use(stage)
            for name in names:
                found[name].append(OVERRIDDEN.get(name, [0])[0])
    return found


@contextmanager
def replaced(stage: Stage, engine: Any) -> Iterator[Stage]:
    """The same alias with an open connection of another engine."""
    before = stage.connection
    connections[before.alias] = other = engine(before.settings_dict, before.alias)
    try:
        other.ensure_connection()
        yield Stage(stage.server, other, stage.database)
    finally:
        other.close()
        connections[before.alias] = before


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


# -- classes that stand in for Django's ------------------------------------------------------------


class Seen(list[str]):
    """What went by, as text."""

    def note(self, sql: Any, params: Any) -> None:
        self.append(f"{sql} {params}")


def recording(inner: Any, seen: Seen) -> Any:
    """A subclass of a cursor wrapper that notes what it executes, in each way there is."""

    class Recording(inner):  # type: ignore[misc]
        def execute(self, sql: Any, params: Any = None) -> Any:
            seen.note(f"execute {sql}", params)
            return super().execute(sql, params)

        def _execute(self, sql: Any, params: Any, *rest: Any) -> Any:
            seen.note(f"_execute {sql}", params)
            return super()._execute(sql, params, *rest)

    return Recording


ONE = ["execute SELECT 1 None", "_execute SELECT 1 None"]
CHUNKS = [f"{way} SELECT generate_series(1, 9) None" for way in ("execute", "_execute")]


def test_another_cursor_class(stage: Stage, monkeypatch: Patch) -> None:
    seen = Seen()
    monkeypatch.setattr(utils, "CursorWrapper", recording(utils.CursorWrapper, seen))
    stage.run("SELECT 1")
    chunked(stage)
    assert seen == [*ONE, *CHUNKS]


def test_another_debug_cursor_class(stage: Stage, monkeypatch: Patch) -> None:
    seen = Seen()
    other = recording(postgresql.CursorDebugWrapper, seen)
    monkeypatch.setattr(postgresql, "CursorDebugWrapper", other)
    stage.run("SELECT 1")
    assert seen == []
    stage.connection.force_debug_cursor = True
    stage.run("SELECT 1")
    chunked(stage)
    assert seen == [*ONE, *CHUNKS]


def test_another_debug_cursor_class_of_all_engines(stage: Stage, monkeypatch: Patch) -> None:
    """That of PostgreSQL stays what it is."""
    seen = Seen()
    monkeypatch.setattr(utils, "CursorDebugWrapper", recording(utils.CursorDebugWrapper, seen))
    stage.connection.force_debug_cursor = True
    stage.run("SELECT 1")
    assert seen == []


@contextmanager
def printing(stage: Stage, printed: Seen) -> Iterator[None]:
    """What ``--print-sql`` of django-extensions does: both classes, and the flag."""

    class Printing:
        db: Any
        cursor: Any

        def execute(self, sql: Any, params: Any = ()) -> Any:
            try:
                return utils.CursorWrapper.execute(self, sql, params)  # type: ignore[arg-type]
            finally:
                printed.append(self.db.ops.last_executed_query(self.cursor, sql, params))

    with pytest.MonkeyPatch.context() as patch:
        for module in (utils, postgresql):
            other = type("PrintingWrapper", (Printing, vars(module)["CursorDebugWrapper"]), {})
            patch.setattr(module, "CursorDebugWrapper", other)
        patch.setattr(stage.connection, "force_debug_cursor", True)
        yield


def test_print_sql_of_django_extensions(stage: Stage) -> None:
    printed = Seen()
    with printing(stage, printed):
        stage.run("SELECT %s", [1])
        chunked(stage)
    stage.run("SELECT 2")
    # psycopg shows the DECLARE of a server-side cursor as well.
    told = [sql.rpartition(" FOR ")[2] for sql in printed]
    assert told == ["SELECT 1", "SELECT generate_series(1, 9)"]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("use", [plain, chunked])
def test_a_debug_cursor_that_logs_nothing(
    use: Callable[[Stage], None], debug: bool, stage: Stage, monkeypatch: Patch
) -> None:
    """A way to have DEBUG on without a log that grows."""
    stage.connection.force_debug_cursor = debug
    stage.connection.queries_log.clear()
    monkeypatch.setattr(
        postgresql.DatabaseWrapper,
        "make_debug_cursor",
        lambda self, cursor: utils.CursorWrapper(cursor, self),
    )
    use(stage)
    assert list(stage.connection.queries_log) == []


@pytest.mark.parametrize("on", ["class", "connection"])
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("use", [plain, chunked])
def test_another_way_to_make_cursors(
    use: Callable[[Stage], None], debug: bool, on: str, stage: Stage, monkeypatch: Patch
) -> None:
    seen = Seen()
    other = recording(postgresql.CursorDebugWrapper if debug else utils.CursorWrapper, seen)
    stage.connection.force_debug_cursor = debug
    name = "make_debug_cursor" if debug else "make_cursor"
    if on == "connection":
        monkeypatch.setattr(stage.connection, name, lambda cursor: other(cursor, stage.connection))
    else:
        owner: Any = postgresql.DatabaseWrapper if debug else BaseDatabaseWrapper
        monkeypatch.setattr(owner, name, lambda self, cursor: other(cursor, self))
    use(stage)
    assert seen[:2] == (ONE if use is plain else CHUNKS)


def test_an_engine_below_that_makes_its_own_cursors(stage: Stage) -> None:
    """The mixin is composed with an engine that has a cursor class of its own."""
    seen = Seen()
    own = recording(utils.CursorWrapper, seen)

    class Below(postgresql.DatabaseWrapper):
        def make_cursor(self, cursor: Any) -> Any:
            return own(cursor, self)

    engine: Any = Below
    if isinstance(stage.connection, ResilientDatabaseMixin):
        engine = type("Composed", (ResilientDatabaseMixin, Below), {})
    with replaced(stage, engine) as other:
        seen.clear()
        other.run("SELECT 1")
        chunked(other)
    assert seen == [*ONE, *CHUNKS]


class Toolbar:
    """How django-debug-toolbar wraps the cursors of one connection: by their class, again."""

    def __init__(self, connection: Any, seen: Seen) -> None:
        class Recorder:
            def __init__(self, cursor: Any, db: Any, log: Seen) -> None:
                super().__init__(cursor, db)  # type: ignore[call-arg]
                self.log = log

            def execute(self, sql: Any, params: Any = None) -> Any:
                self.log.note(sql, params)
                return super().execute(sql, params)  # type: ignore[misc]

        def wrapping(make: Callable[[], Any]) -> Callable[[], Any]:
            def wrapped() -> Any:
                cursor = make()
                if isinstance(cursor, Recorder):
                    return cursor
                wrapper: Any = type("Wrapper", (Recorder, type(cursor)), {})
                return wrapper(cursor.cursor, connection, seen)

            return wrapped

        self.cursor = wrapping(connection.cursor)
        self.chunked_cursor = wrapping(connection.chunked_cursor)


@pytest.fixture
def toolbar(stage: Stage, monkeypatch: Patch) -> Seen:
    return _with_toolbar(stage, monkeypatch)


def _with_toolbar(stage: Stage, monkeypatch: Patch) -> Seen:
    seen = Seen()
    toolbar = Toolbar(stage.connection, seen)
    monkeypatch.setattr(stage.connection, "cursor", toolbar.cursor)
    monkeypatch.setattr(stage.connection, "chunked_cursor", toolbar.chunked_cursor)
    return seen


def test_django_debug_toolbar(stage: Stage, toolbar: Seen) -> None:
    stage.run("SELECT 1")
    chunked(stage)
    chunked_and_iterated(stage)
    assert [text.partition(" None")[0] for text in toolbar] == [
        "SELECT 1",
        "SELECT generate_series(1, 9)",
        "SELECT generate_series(1, 3)",
    ]


class Refused(Exception):
    pass


class Refusing:
    """As the templates panel of django-debug-toolbar keeps templates from asking the database."""

    def __getattr__(self, attr: str) -> Any:
        raise Refused(attr)


BY_GETATTR = ["fetchone", "fetchmany", "fetchall", "nextset", "scroll", "close"]


@pytest.mark.parametrize("server_side", [False, True])
@pytest.mark.parametrize("name", BY_GETATTR)
def test_a_cursor_that_refuses_what_django_passes_on(
    name: str, server_side: bool, stage: Stage
) -> None:
    connection: Any = stage.connection
    with transaction.atomic(connection.alias):
        made = connection.chunked_cursor() if server_side else connection.cursor()
        refusing = type("Refusing", (Refusing, type(made)), {})(made.cursor, connection)
        refusing.execute("SELECT generate_series(1, 9)")
        with pytest.raises(Refused, match=name):
            getattr(refusing, name)()
        made.close()
        assert stage.run("SELECT 1") == [(1,)]


def test_a_cursor_class_of_its_own_that_sees_what_django_passes_on(
    stage: Stage, monkeypatch: Patch
) -> None:
    """Made below the engine, and above: by ``make_cursor()``."""
    seen: list[str] = []

    class Seeing(utils.CursorWrapper):
        def __getattr__(self, attr: str) -> Any:
            seen.append(attr)
            return super().__getattr__(attr)

    def make_cursor(self: Any, cursor: Any) -> Any:
        return Seeing(cursor, self)

    monkeypatch.setattr(BaseDatabaseWrapper, "make_cursor", make_cursor)
    with stage.connection.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 9)")
        cursor.fetchone()
        cursor.fetchmany(2)
        cursor.fetchall()
    assert [each for each in seen if each in BY_GETATTR] == [
        "fetchone",
        "fetchmany",
        "fetchall",
        "close",
    ]


def test_a_query_log_of_its_own(stage: Stage, monkeypatch: Patch) -> None:
    """As recorders of queries do it in tests."""
    seen: list[str] = []
    original = stage.connection.ops.last_executed_query

    def last_executed_query(*args: Any) -> str:
        seen.append(original(*args))
        return seen[-1]

    monkeypatch.setattr(stage.connection.ops, "last_executed_query", last_executed_query)
    stage.connection.force_debug_cursor = True
    stage.run("SELECT %s", [1])
    assert seen == ["SELECT 1"]


def test_errors_are_translated_by_another_class(stage: Stage, monkeypatch: Patch) -> None:
    original, seen = DatabaseErrorWrapper.__exit__, list[str]()

    def leave(self: Any, kind: Any, value: Any, traceback: Any) -> None:
        if kind is not None:
            seen.append(kind.__name__)
        original(self, kind, value, traceback)

    monkeypatch.setattr(DatabaseErrorWrapper, "__exit__", leave)
    with pytest.raises(Error):
        stage.run("SELECT 1/0")
    assert seen == ["DivisionByZero"]


# -- asked in an event loop ------------------------------------------------------------------------


@pytest.mark.parametrize("use", [name for name in GUARDED if name != "temporary_connection"])
def test_where_there_is_an_event_loop(use: str, stage: Stage) -> None:
    """``ensure_connection()`` is what keeps such calls out of it, on an open connection too."""

    async def main() -> None:
        GUARDED[use](stage)

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(main())
    assert stage.run("SELECT 5") == [(5,)]


# -- replaced before this engine is imported -------------------------------------------------------

BEFORE = """
import json, os
from django.conf import settings
from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper
from pytest_django.plugin import DjangoDbBlocker

entry = json.loads(os.environ["PATCHED_DATABASE"])
settings.configure(DATABASES={"default": entry}, USE_TZ=True)
told = []


class Forbidden(Exception):
    pass


def tell(name, use):
    try:
        use()
    except (Forbidden, RuntimeError) as error:
        told.append([name, type(error).__name__])
    else:
        told.append([name, "passed"])


def execute():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def forbid(*_, **__):
    raise Forbidden


def record(self, sql, params, *rest):
    told.append(["_execute", sql])
    return original(self, sql, params, *rest)
"""
GUARD = """
blocker = DjangoDbBlocker(_ispytest=True)
blocker.block()

import django
django.setup()
from django.db import connection

tell("closed", execute)
with blocker.unblock():
    tell("unblocked", execute)
tell("open", execute)
tell("autocommit", connection.get_autocommit)
"""
RECORDER = """
original = utils.CursorWrapper._execute
utils.CursorWrapper._execute = record

from django.db import connection

tell("recorded", execute)
utils.CursorWrapper._execute = original
tell("restored", execute)
utils.CursorWrapper._execute = forbid
tell("forbidden", execute)
"""
STAND_IN = """
class Other(utils.CursorWrapper):
    def _execute(self, sql, params, *rest):
        told.append(["_execute", sql])
        return super()._execute(sql, params, *rest)


utils.CursorWrapper = Other

from django.db import connection

tell("recorded", execute)
"""
BLOCKED = "RuntimeError"
TOLD = {
    GUARD: [
        ["closed", BLOCKED],
        ["unblocked", "passed"],
        ["open", BLOCKED],
        ["autocommit", BLOCKED],
    ],
    RECORDER: [
        ["_execute", "SELECT 1"],
        ["recorded", "passed"],
        ["restored", "passed"],
        ["forbidden", "Forbidden"],
    ],
    STAND_IN: [["_execute", "SELECT 1"], ["recorded", "passed"]],
}


@pytest.mark.parametrize("patch", TOLD, ids=["guard", "recorder", "class"])
@pytest.mark.parametrize("engine", [STOCK, RESILIENT], ids=["stock", "resilient"])
def test_before_the_engine_is_imported(engine: str, patch: str, server: Server) -> None:
    """Nor must the engine take what it finds then for Django's own."""
    entry = server.database("app", engine=engine)
    answer = subprocess.run(
        [sys.executable, "-c", f"{BEFORE}{patch}print(json.dumps(told))"],
        cwd=ROOT,
        env={
            **{key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"},
            "PATCHED_DATABASE": json.dumps(entry),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == TOLD[patch]


# -- and what this engine promises still holds -----------------------------------------------------


def patched_execute(stage: Stage, monkeypatch: Patch) -> None:
    owner: Any = utils.CursorWrapper
    original = owner._execute

    def execute(self: Any, sql: Any, params: Any, *rest: Any) -> Any:
        return original(self, sql, params, *rest)

    monkeypatch.setattr(owner, "_execute", execute)


def patched_ensure_connection(stage: Stage, monkeypatch: Patch) -> None:
    original = BaseDatabaseWrapper.ensure_connection
    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", counted(original, [0]))


def patched_class(stage: Stage, monkeypatch: Patch) -> None:
    monkeypatch.setattr(utils, "CursorWrapper", recording(utils.CursorWrapper, Seen()))


def patched_debug_class(stage: Stage, monkeypatch: Patch) -> None:
    other = recording(postgresql.CursorDebugWrapper, Seen())
    monkeypatch.setattr(postgresql, "CursorDebugWrapper", other)
    monkeypatch.setattr(stage.connection, "force_debug_cursor", True)


def patched_make_cursor(stage: Stage, monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        BaseDatabaseWrapper, "make_cursor", lambda self, cursor: utils.CursorWrapper(cursor, self)
    )


def patched_by_toolbar(stage: Stage, monkeypatch: Patch) -> None:
    _with_toolbar(stage, monkeypatch)


PATCHED = pytest.mark.parametrize(
    "patched",
    [
        patched_execute,
        patched_ensure_connection,
        patched_class,
        patched_debug_class,
        patched_make_cursor,
        patched_by_toolbar,
    ],
)


@PATCHED
def test_an_idle_loss_is_healed(
    patched: Callable[[Stage, Patch], None], ours: Stage, monkeypatch: Patch
) -> None:
    patched(ours, monkeypatch)
    ours.kill()
    ours.insert("a")
    ours.kill()
    many(ours)
    ours.kill()
    with ours.atomic(), ours.atomic():
        ours.insert("b")
    assert ours.rows() == ["a", "a", "b", "b"]


@PATCHED
def test_a_read_is_retried(
    patched: Callable[[Stage, Patch], None], ours: Stage, monkeypatch: Patch
) -> None:
    patched(ours, monkeypatch)
    with ours.killed_midway():
        assert ours.run("SELECT 1 FROM pg_sleep(1)") == [(1,)]


@PATCHED
def test_a_write_is_not_retried(
    patched: Callable[[Stage, Patch], None], ours: Stage, monkeypatch: Patch
) -> None:
    patched(ours, monkeypatch)
    with pytest.raises(Error) as caught, ours.killed_midway():
        ours.run(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)")
    assert "may already have been applied" in caught.value.__notes__[0]
    assert len(ours.rows()) <= 1
    assert ours.run("SELECT 5") == [(5,)]


@PATCHED
def test_a_server_side_cursor_is_opened_again(
    patched: Callable[[Stage, Patch], None], ours: Stage, monkeypatch: Patch
) -> None:
    patched(ours, monkeypatch)
    with ours.connection.chunked_cursor() as cursor:
        ours.kill()
        cursor.execute("SELECT generate_series(1, 3)")
        ours.kill()
        assert [row[0] for row in cursor.fetchall()] == [1, 2, 3]
