"""What a program does to the connection, without what is thought of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.engines import PATIENCE

from .language import By, RunMany
from .stage import Stage, watched
from .texts import Read, Text, Value, Write

# How a child ends.
_WRITTEN: Final = 0
_BROKEN: Final = 1
_REFUSED: Final = 2
_CODES: Final = frozenset({_WRITTEN, _REFUSED})


@dataclass(slots=True)
class Application:
    """The application's side: its cursors, its last savepoint, its hooks that have run."""

    stage: Stage
    connection: BaseDatabaseWrapper
    hooks: list[int] = field(default_factory=list)
    savepoint: str | None = None
    _kept: tuple[int, Any] | None = None  # a cursor, and the session it was opened for

    @property
    def has_driver(self) -> bool:
        """Whether there is a driver's connection to go past Django's to."""
        return self.connection.connection is not None

    # -- statements --------------------------------------------------------------------------------

    def execute(self, by: By, texts: tuple[Text, ...], victim: int, starts: int) -> Any:
        """Run a string; what a single read has returned. ``starts``: see :meth:`_with_cursor`."""
        if by is By.PIPELINE:
            return self._execute_in_pipeline(texts, victim)
        if len(texts) == 1:
            sql, parameters = self.stage.sql(texts[0], victim)
        else:
            sql, parameters = self.stage.string(texts, victim), []

        def run(cursor: Any) -> Any:
            cursor.execute(sql, parameters or None)
            if len(texts) == 1 and isinstance(texts[0], Read):
                return self.stage.seen(cursor.fetchone())
            return None

        return self._with_cursor(by, run, starts)

    def _execute_in_pipeline(self, texts: tuple[Text, ...], victim: int) -> Any:
        with self.connection.cursor() as cursor:
            driver: Any = self.connection.connection
            with driver.pipeline():
                for text in texts:
                    sql, parameters = self.stage.sql(text, victim)
                    cursor.execute(sql, parameters or None)
                if len(texts) == 1 and isinstance(texts[0], Read):
                    return self.stage.seen(cursor.fetchone())
        return None

    def execute_many(self, step: RunMany, victim: int, starts: int) -> None:
        rows = [self.stage.sql(write, victim)[1] for write in step.writes]
        sql, _ = self.stage.sql(Write(0, way=step.way), victim)
        self._with_cursor(step.by, lambda cursor: cursor.executemany(sql, rows), starts)

    def _with_cursor(self, by: By, use: Callable[[Any], Any], starts: int) -> Any:
        """``starts``: how often the application has started clean; it keeps no cursor over that."""
        if by is By.KEPT:
            if self._kept is None or self._kept[0] != starts:
                self._kept = starts, self.connection.cursor()
            return use(self._kept[1])
        owner: Any = self.connection if by is By.DJANGO else self.connection.connection
        with closing(owner.cursor()) as cursor:
            return use(cursor)

    def fork(self, key: int) -> bool:
        """Let a child write a row; whether it was told that this is done."""
        sql, parameters = self.stage.sql(Write(key), 0)
        child = os.fork()
        if child == 0:
            self._be_child(sql, parameters)
        with watched(child) as is_gone:
            if not is_gone(PATIENCE):
                os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in _CODES:
            raise ChildProcessError(f"code {code}")
        return code == _WRITTEN

    def _be_child(self, sql: str, parameters: list[Value]) -> NoReturn:
        code = _BROKEN
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(sql, parameters)
            code = _WRITTEN
        except Error:
            code = _REFUSED
        finally:
            os._exit(code)

    # -- calls -------------------------------------------------------------------------------------

    def call(self, name: str) -> Any:
        """A method of the connection, by its name in :class:`.language.Call`."""
        if name.startswith("raw_"):
            driver: Any = self.connection.connection
            return getattr(driver, name[4:])()
        if name.startswith("savepoint_"):
            return getattr(self.connection, name)(self.savepoint)
        if name == "savepoint":
            self.savepoint = self.connection.savepoint() or self.savepoint
            return None
        if name.startswith("set_autocommit"):
            return self.connection.set_autocommit("True" in name)
        return getattr(self.connection, name)()

    def on_commit(self, key: int) -> None:
        self.connection.on_commit(lambda: self.hooks.append(key))
