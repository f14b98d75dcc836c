"""A model of Django's connection on a driver's and a session that never die.

It follows the code of Django (5.2 to 6.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from .driver import Driver
from .language import By
from .ledger import Ledger
from .postgres import OWN, Refused, Seen, Session
from .texts import Control, Text

#: Raised by Django itself: nothing was sent.
BROKEN: Final = Refused("TransactionManagementError")


@dataclass(slots=True)
class Wrapper:
    """``DatabaseWrapper``; the names are Django's."""

    driver: Driver
    own_engine: bool
    connected: bool = True
    #: It comes from a pool: closed within a block, it is given back at once.
    pooled: bool = False
    autocommit: bool = True
    in_atomic_block: bool = False
    commit_on_exit: bool = True
    needs_rollback: bool = False
    closed_in_transaction: bool = False
    savepoint_ids: list[str | None] = field(default_factory=list)
    last_savepoint: str = ""
    hooks: list[tuple[frozenset[str | None], int]] = field(default_factory=list)
    hooks_due: bool = False
    ran: list[int] = field(default_factory=list)
    starts: int = 0
    #: Whether nothing has run on Django's cursors since its transaction has begun.
    clean: bool = True
    _names: int = 0

    @property
    def session(self) -> Session:
        return self.driver.session

    @property
    def ledger(self) -> Ledger:
        return self.driver.session.ledger

    # -- statements ------------------------------------------------------------------------------

    def connect(self) -> None:
        """``ensure_connection()`` by the application itself."""
        if self.closed_in_transaction and self.pooled:
            raise Refused("ProgrammingError")
        self.ensure_connection()

    def ensure_connection(self) -> None:
        if not self.connected:
            self.connected = self.autocommit = self.driver.autocommit = True
            self.hooks_due = self.needs_rollback = False
            self.hooks = []

    def execute(self, by: By, texts: Sequence[Text]) -> Seen | None:
        self._check(by)
        self._begin(by)
        return self.session.execute(texts, by)

    def _begin(self, by: By) -> None:
        """As the driver does. Only before all else can the engine see that it was begun raw."""
        self.driver.begin(by if self.clean else By.DJANGO)
        self.clean &= by is By.RAW

    def _check(self, by: By) -> None:
        if by is not By.RAW:
            self.ensure_connection()
        if self.closed_in_transaction:
            raise Refused  # the driver's word for a closed connection, or Django's
        if self.needs_rollback and by is not By.RAW:
            raise BROKEN

    def execute_many(self, by: By, texts: Sequence[Text]) -> None:
        """Each row by itself; of none psycopg 3 has begun the transaction all the same."""
        for text in texts:
            self.execute(by, [text])
        if not texts:
            self._check(by)
            if not self.driver.remembers:
                self._begin(by)

    # -- calls -----------------------------------------------------------------------------------

    def close(self) -> None:
        self.hooks = []
        self.session.roll_back()
        self.driver.begun = False
        if self.in_atomic_block:
            self.closed_in_transaction = self.needs_rollback = True
        else:
            self.connected = False
            self.start_clean()

    def start_clean(self) -> None:
        """The next session is a new one; nobody keeps a cursor over this."""
        self.starts += 1
        self.session.setting = self.session.fresh

    def commit(self) -> None:
        if self.in_atomic_block:
            raise BROKEN
        self._end("COMMIT")
        self.hooks_due = True

    def rollback(self) -> None:
        if self.in_atomic_block:
            raise BROKEN
        self._end("ROLLBACK")
        self.needs_rollback = False
        self.hooks = []

    def _end(self, words: str) -> None:
        self.clean = True
        self.session.watch()
        if self.connected:
            self.driver.end(words, By.DJANGO)

    def end_raw(self, words: str) -> None:
        if self.closed_in_transaction:
            raise Refused
        self.driver.end(words, By.RAW)

    def set_autocommit(self, value: bool) -> None:
        if self.in_atomic_block:
            raise BROKEN
        self.ensure_connection()
        self.driver.set_autocommit(value)
        self.autocommit, self.clean = value, True
        if value:
            self.run_hooks()

    def run_hooks(self) -> None:
        """What ``set_autocommit(True)`` does after a COMMIT."""
        if self.hooks_due:
            self.hooks_due = False
            self.ran += [key for _, key in self.hooks]
            self.hooks = []

    def on_commit(self, key: int) -> None:
        if self.in_atomic_block:
            self.hooks.append((frozenset(self.savepoint_ids), key))
            return
        self.ensure_connection()
        if not self.autocommit:
            raise BROKEN
        self.ran.append(key)

    def savepoint(self) -> str | None:
        self.ensure_connection()
        if self.autocommit:
            return None
        self._names += 1
        name = f"{OWN}{self._names}"
        self.execute(By.DJANGO, [Control("SAVEPOINT", name)])
        return name

    def savepoint_rollback(self, name: str) -> None:
        self.ensure_connection()
        if self.autocommit:
            return
        self.execute(By.DJANGO, [Control("ROLLBACK TO", name)])
        self.hooks = [(names, key) for names, key in self.hooks if name not in names]

    def savepoint_commit(self, name: str) -> None:
        self.ensure_connection()
        if not self.autocommit:
            self.execute(By.DJANGO, [Control("RELEASE", name)])

    def is_usable(self) -> bool:
        if not self.connected or self.closed_in_transaction:
            return False
        transaction = self.session.transaction
        if transaction is not None and transaction.failed:
            return False
        if transaction is not None or not self.own_engine:
            self.driver.begin(By.RAW)  # asked with a statement
        self.session.watch()
        return True
