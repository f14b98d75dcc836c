"""What a program does to the connection, without what is thought of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from .language import By, Read, RunMany, Text, Write
from .stage import Stage


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
