"""What a connection is used for, and ways to count and record who is called by it.

pytest-django's guard, query counters and guards, ``--print-sql`` of django-extensions,
django-debug-toolbar, error trackers and caches all replace methods of Django's own classes, before
this engine is imported or after, while a connection is open or before there is one. What is right
is what Django's engine does: each test runs on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from django.db import Error, connections

from tests.server.scenarios import TABLE, Stage

INSERT = f"INSERT INTO {TABLE} (value) VALUES (%s)"
Patch = pytest.MonkeyPatch


def fresh(stage: Stage) -> Stage:
    """With an open connection and an empty table."""
    connection = stage.connection
    connection.force_debug_cursor = False
    if connection.in_atomic_block or not connection.is_usable() or not connection.get_autocommit():
        connection.close()
    stage.run(f"TRUNCATE {TABLE}")
    return stage


class Forbidden(Exception):
    """What a guard raises."""


def plain(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchall()
        cursor.execute("SELECT %s", [1])
        cursor.fetchone()
        cursor.fetchmany(1)


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


def failed(stage: Stage) -> None:
    """With an error after which Django asks whether the connection is usable."""
    with suppress(Error):
        stage.run("SELECT no_such_column")
    stage.connection.close_if_unusable_or_obsolete()
    plain(stage)


def counted(method: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def counting(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return method(*args, **kwargs)

    return counting


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


def with_toolbar(stage: Stage, monkeypatch: Patch) -> Seen:
    seen = Seen()
    toolbar = Toolbar(stage.connection, seen)
    monkeypatch.setattr(stage.connection, "cursor", toolbar.cursor)
    monkeypatch.setattr(stage.connection, "chunked_cursor", toolbar.chunked_cursor)
    return seen
