"""What this engine promises holds where methods of Django's classes are replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import Error
from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql import base as postgresql

from tests.server.patched.uses import Patch, Seen, counted, many, recording, with_toolbar
from tests.server.scenarios import TABLE, Stage


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
    with_toolbar(stage, monkeypatch)


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
