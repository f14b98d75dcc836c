"""Classes that stand in for Django's cursors, and packages that do so, see what they saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import Error, transaction
from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql import base as postgresql
from django.db.utils import DatabaseErrorWrapper

from django_resilient_pg.mixins import ResilientDatabaseMixin
from tests.server.patched.uses import (
    Patch,
    Seen,
    chunked,
    chunked_and_iterated,
    plain,
    recording,
    replaced,
)
from tests.server.scenarios import Stage

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
