"""The single steps of a program, on a real connection, with the oracle beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from tests.engines import DRIVER

from .application import Application
from .atomic import Django
from .calls import Called, Closed
from .driver import Driver
from .events import Statement
from .forks import Forked
from .language import By, Kill, Run, RunMany, Step
from .ledger import Ledger
from .oracle import Event, Oracle
from .postgres import Session
from .stage import Stage
from .transaction import Setting
from .world import World


def go_on() -> None:
    """There is no other program."""


@dataclass(slots=True)
class Steps:
    """Runs single steps.

    Attributes:
        between: called before each step; other programs may go on there.
        shares: its session may have been another program's: it may have any setting.
    """

    stage: Stage
    connection: BaseDatabaseWrapper
    between: Callable[[], None] = field(default=go_on, kw_only=True)
    shares: bool = field(default=False, kw_only=True)
    oracle: Oracle = field(init=False)
    _application: Application = field(init=False)
    # Sessions that are to die, each once, by the step that ends them.
    _victims: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        pooled = "pool" in self.connection.settings_dict["OPTIONS"]
        fresh = Setting(None) if pooled or self.shares else Setting()
        setting = Setting(None) if self.shares else Setting()
        session = Session(Ledger(), fresh=fresh, setting=setting)
        driver = Driver(session, remembers=DRIVER == "psycopg2")
        own_engine = hasattr(self.connection, "resilience")
        connected = self.connection.connection is not None
        self.oracle = Oracle(World(Django(driver, own_engine, connected, pooled)))
        self._application = Application(self.stage, self.connection)

    @property
    def _django(self) -> Django:
        return self.oracle.world.django

    def _observe(self, event: Event, act: Callable[[], Any]) -> Any:
        self.between()
        return self.oracle.observe(event, act)

    def _victim(self, step: Step) -> int:
        """The process that dies of a step: the one that is there when it runs first."""
        return self._victims.setdefault(id(step), self.stage.victim(self.connection))

    def _kill(self, step: Kill) -> None:
        self.between()
        if id(step) in self._victims:
            return
        if (pid := self._victim(step)) and self.stage.kill(pid):
            self.oracle.killed()

    def _statement(self, step: Run | RunMany) -> None:
        application, by = self._application, step.by
        if by is By.RAW and not application.has_driver:
            return
        if by is By.PIPELINE and DRIVER == "psycopg2":
            return
        victim, starts = self._victim(step), self._django.starts
        if isinstance(step, Run):
            event = Statement(by, step.texts)
            self._observe(event, lambda: application.execute(by, step.texts, victim, starts))
        else:
            event = Statement(by, step.writes, many=True)
            self._observe(event, lambda: application.execute_many(step, victim, starts))

    def _call(self, name: str) -> None:
        application = self._application
        if name.startswith("raw_") and not application.has_driver:
            return
        if name.startswith("savepoint_") and application.savepoint is None:
            return
        event: Event = Called(name)
        if name == "close_if_unusable_or_obsolete":
            event = Closed(lambda: not application.has_driver)
        self._observe(event, lambda: application.call(name))

    def _fork(self, key: int) -> None:
        wrote: list[bool] = []
        event = Forked(key, lambda: wrote == [True])
        self._observe(event, lambda: wrote.append(self._application.fork(key)))
        self.oracle.met["child"] += wrote == [True]
