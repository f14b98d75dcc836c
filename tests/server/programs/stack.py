"""A model of what stands on a session: the driver's connection, and Django's on it.

It follows the code of psycopg, psycopg2 and Django (5.2 to 6.1) with a session that never dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .language import By, Control, Text
from .ledger import Ledger
from .postgres import OWN, Refused, Seen, Session

#: What TransactionManagementError is to the model: raised by Django, nothing was sent.
BROKEN = Refused("TransactionManagementError")


@dataclass(slots=True)
class Driver:
    """psycopg 3 asks libpq whether a transaction is open; psycopg2 remembers that it began one."""

    session: Session
    remembers: bool  # psycopg2
    autocommit: bool = True
    begun: bool = False

    @property
    def in_transaction(self) -> bool:
        return self.begun if self.remembers else self.session.transaction is not None

    @property
    def mistaken(self) -> bool:
        """psycopg2 believes in a transaction that a text has ended: each statement is its own."""
        return self.begun and self.session.transaction is None

    def execute(self, texts: Sequence[Text], by: By) -> Seen | None:
        self.begin(by)
        return self.session.execute(texts, by)

    def begin(self, by: By) -> None:
        """Before a statement, where autocommit is off."""
        if self.autocommit or self.in_transaction:
            return
        if self.session.transaction is None:
            transaction = self.session.begin()
            transaction.begun_raw, transaction.sighted = by is By.RAW, True
        else:
            self.session.execute([Control("BEGIN")], by)
        self.begun = self.remembers

    def end(self, words: str) -> None:
        """``commit()`` or ``rollback()``: nothing where the driver knows of no transaction."""
        if self.in_transaction:
            self.begun = False
            self.session.execute([Control(words)], By.RAW)

    def set_autocommit(self, value: bool) -> None:
        if self.in_transaction:
            raise Refused("ProgrammingError")
        self.autocommit = value


@dataclass(slots=True)
class Django:
    """``DatabaseWrapper`` and ``Atomic``; the names are Django's."""

    driver: Driver
    own_engine: bool
    connected: bool = True
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
    _names: int = 0

    @property
    def session(self) -> Session:
        return self.driver.session

    @property
    def ledger(self) -> Ledger:
        return self.driver.session.ledger

    # -- statements ------------------------------------------------------------------------------

    def ensure_connection(self) -> None:
        if not self.connected:
            self.connected = self.autocommit = self.driver.autocommit = True
            self.hooks_due = self.needs_rollback = False
            self.hooks = []

    def execute(self, by: By, texts: Sequence[Text]) -> Seen | None:
        self._check(by)
        return self.driver.execute(texts, by)

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
                self.driver.begin(by)

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
        self.session.setting = type(self.session.setting)()

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
        if self.connected:
            self.driver.end(words)

    def end_raw(self, words: str) -> None:
        if self.closed_in_transaction:
            raise Refused
        self.driver.end(words)

    def set_autocommit(self, value: bool) -> None:
        if self.in_atomic_block:
            raise BROKEN
        self.ensure_connection()
        self.driver.set_autocommit(value)
        self.autocommit = value
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
        if transaction is not None:
            transaction.sighted = True
        return True

    # -- atomic ----------------------------------------------------------------------------------

    def enter(self, kind: str) -> None:
        self.ensure_connection()
        if kind in {"durable", "retry"} and self.in_atomic_block:
            raise Refused("RuntimeError")
        if kind == "retry" and not self.autocommit:
            raise Refused("RuntimeError")
        if not self.in_atomic_block:
            self.commit_on_exit, self.needs_rollback = True, False
            if not self.autocommit:
                self.in_atomic_block, self.commit_on_exit = True, False
        if self.in_atomic_block:
            named = kind != "no savepoint" and not self.needs_rollback
            self.savepoint_ids.append(self.savepoint() if named else None)
        else:
            self.driver.set_autocommit(False)
            self.autocommit = False
            self.in_atomic_block = True

    def exit(self, *, failed: bool) -> None:
        """Leave the innermost block; ``failed``: by an exception."""
        name: str | None = None
        outermost = not self.savepoint_ids
        if outermost:
            self.in_atomic_block = False
        else:
            name = self.savepoint_ids.pop()
        try:
            if self.closed_in_transaction:
                pass
            elif outermost:
                self._exit_outermost(failed=failed)
            else:
                self._exit_inner(name, failed=failed)
        finally:
            self._after_exit()

    def _exit_outermost(self, *, failed: bool) -> None:
        if failed or self.needs_rollback:
            self.needs_rollback = False
            self.rollback()
            return
        try:
            self.commit()
        except Refused:
            self.rollback()
            raise

    def _exit_inner(self, name: str | None, *, failed: bool) -> None:
        if not (failed or self.needs_rollback):
            if name is not None:
                self._release(name)
            return
        self.needs_rollback = name is None
        if name is not None:
            try:
                self.savepoint_rollback(name)
                self.savepoint_commit(name)
            except Refused:
                self.needs_rollback = True

    def _release(self, name: str) -> None:
        try:
            self.savepoint_commit(name)
        except Refused:
            try:
                self.savepoint_rollback(name)
                self.savepoint_commit(name)
            except Refused:
                self.needs_rollback = True
            raise

    def _after_exit(self) -> None:
        if not self.in_atomic_block:
            if self.closed_in_transaction:
                self.connected = self.closed_in_transaction = False
                self.start_clean()
            else:
                self.set_autocommit(True)
        elif not (self.savepoint_ids or self.commit_on_exit or self.closed_in_transaction):
            self.in_atomic_block = False

    # -- what is read off ------------------------------------------------------------------------

    @property
    def stuck(self) -> bool:
        """Autocommit being off, a block that failed to begin, or was closed in, is never left.

        That is Django's own way: nothing can be done with such a connection any more.
        """
        return self.in_atomic_block and not self.commit_on_exit and not self.savepoint_ids
