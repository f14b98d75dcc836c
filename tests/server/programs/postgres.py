"""A model of one PostgreSQL session that never dies: transactions, savepoints, one setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .language import By
from .ledger import Ledger, Told
from .texts import Control, Fail, Fate, Read, Set, Text, Write
from .transaction import Setting, Transaction

#: How names of savepoints begin that Django makes.
OWN: Final = "django_"
_ENDS: Final = frozenset({"COMMIT", "END", "ROLLBACK"})


class Refused(Exception):
    """The statement or call fails, also on a connection that lives.

    Attributes:
        kind: the name of the error's class; "" where it differs by driver.
        sqlstate: of an error of the server's.
    """

    def __init__(self, kind: str = "", sqlstate: str | None = None) -> None:
        super().__init__(kind, sqlstate)
        self.kind, self.sqlstate = kind, sqlstate


@dataclass(frozen=True, slots=True)
class Seen:
    """What a read must return: one of these tenants (None: any), rows, and its note."""

    tenants: frozenset[str] | None
    rows: frozenset[int]
    perhaps: frozenset[int]
    note: str


@dataclass(slots=True)
class Session:
    """What a session holds; rows are told to the ledger as they are committed or not."""

    ledger: Ledger
    #: What another session begins with.
    fresh: Setting = field(default_factory=Setting)
    setting: Setting = field(default_factory=Setting)
    transaction: Transaction | None = None
    #: Rows committed past Django's cursors since Django was asked for something.
    ended_raw: list[int] = field(default_factory=list)
    #: The setting before the first transaction that was committed so.
    before_raw: Setting | None = None

    def begin(self, *, implicit: bool = False) -> Transaction:
        self.transaction = Transaction(self.setting, implicit, self.ledger.new_group())
        return self.transaction

    def execute(self, texts: Sequence[Text], by: By) -> Seen | None:
        """Run one string; returns what its last read sees.

        Raises:
            Refused: as the server refuses it.
        """
        found: Seen | None = None
        for text in texts:
            transaction = self.transaction or self.begin(implicit=True)
            if by is not By.RAW:
                self.watch()
            try:
                found = self._one(transaction, text, by)
            except Refused:
                if transaction.implicit:
                    self.roll_back()
                else:
                    transaction.failed = True
                raise
            # A savepoint of Django's own can be made again.
            if self.transaction is not None and not getattr(text, "name", "").startswith(OWN):
                self.transaction.acknowledged += 1
        if self.transaction is not None and self.transaction.implicit:
            self.commit()
        return found

    def watch(self) -> None:
        """Django is asked for something: the engine sees whether a transaction is open."""
        if self.transaction is not None:
            self.transaction.sighted = self.transaction.watched = True
            # It cannot see that this one is not the one that was open before.
            if not self.transaction.implicit:
                self.ledger.unwatched.update(self.ended_raw)
                if self.before_raw is not None:
                    self.transaction.before = self.transaction.before.either(self.before_raw)
        self.ended_raw, self.before_raw = [], None

    def _one(self, transaction: Transaction, text: Text, by: By) -> Seen | None:
        if transaction.failed and not (
            isinstance(text, Control) and text.words in _ENDS | {"ROLLBACK TO"}
        ):
            raise Refused("InternalError", "25P02")
        match text:
            case Write(key, fate):
                first = key not in self.ledger.told
                self.ledger.executed(key, transaction.group)
                transaction.writes.append(key)
                transaction.armed |= fate not in {None, Fate.EARLY}
                if by is By.RAW and transaction.acknowledged and first:
                    self.ledger.unwatched.add(key)
                transaction.writes_seen |= by is not By.RAW
                transaction.writes_unseen |= by is By.RAW
            case Read(_, note):
                return self._see(transaction, note)
            case Set(value, local):
                self._set(value, local=local)
            case Control(words, name):
                self._control(transaction, words, name, by)
            case Fail():
                raise Refused("DataError", "22012")
        return None

    def _see(self, transaction: Transaction, note: str) -> Seen:
        committed = self.ledger.having(Told.COMMITTED)
        return Seen(
            self.setting.visible,
            frozenset(committed.union(transaction.writes)),
            frozenset(self.ledger.having(Told.UNKNOWN, Told.UNSEEN)),
            note,
        )

    def _set(self, value: str | None, *, local: bool) -> None:
        if local and value is not None:
            self.setting = replace(self.setting, local=value)
        else:
            self.setting = Setting(frozenset({value or ""}))

    def _control(self, transaction: Transaction, words: str, name: str, by: By) -> None:
        if words == "BEGIN":
            transaction.implicit = False
        elif words in {"COMMIT", "END"} and not transaction.failed:
            if by is By.RAW:
                self.ended_raw += transaction.writes
                self.before_raw = self.before_raw or transaction.before
            self.commit()
        elif words in _ENDS:
            during = self.setting
            self.roll_back()
            # The engine cannot see that, and may set on a new session what it takes to be set.
            if by is By.RAW:
                self.setting = self.setting.either(during)
        elif transaction.implicit:
            raise Refused("InternalError", "25P01")
        elif words == "SAVEPOINT":
            transaction.add_savepoint(name, self.setting)
        else:
            self._leave_savepoint(transaction, words, name)

    def _leave_savepoint(self, transaction: Transaction, words: str, name: str) -> None:
        savepoint = transaction.find(name)
        if savepoint is None:
            raise Refused("", "3B001")  # of a class that differs by driver
        if words == "RELEASE":
            del transaction.savepoints[transaction.savepoints.index(savepoint) :]
            return
        self.ledger.absent(transaction.roll_back_to(savepoint))
        self.setting = savepoint.setting
        transaction.failed = False

    def forgive_unseen(self) -> None:
        """The session has been replaced, and with it what the engine could not see is gone."""
        transaction = self.transaction
        if transaction is not None and transaction.invisible:
            self.ledger.unseen(transaction.writes)
            transaction.writes.clear()
            transaction.savepoints = [replace(one, writes=0) for one in transaction.savepoints]

    def commit(self) -> None:
        """End the transaction; its local settings end with it."""
        transaction, self.transaction = self.transaction, None
        assert transaction is not None
        self.ledger.committed(transaction.writes)
        if not transaction.watched:
            self.ledger.unwatched.update(transaction.writes)
        after = Setting(self.setting.session)
        self.setting = after.either(transaction.before) if self.ledger.doubting else after

    def roll_back(self) -> Transaction | None:
        """End the transaction, if there is one, without effect."""
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            self.ledger.absent(transaction.writes)
            self.setting = transaction.before
        return transaction
