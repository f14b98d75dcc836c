"""A model of one PostgreSQL session that never dies: transactions, savepoints, one setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .language import By, Control, Fail, Fate, Read, Set, Text, Write
from .ledger import Ledger, Told

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
class Setting:
    """The values the tenant may have: one, unless a COMMIT that set it has an unknown outcome."""

    session: frozenset[str] = frozenset({""})
    local: str | None = None

    @property
    def visible(self) -> frozenset[str]:
        return self.session if self.local is None else frozenset({self.local})


@dataclass(frozen=True, slots=True)
class Savepoint:
    name: str
    writes: int
    setting: Setting


@dataclass(frozen=True, slots=True)
class Seen:
    """What a read must return: one of these tenants, these rows, and perhaps those."""

    tenants: frozenset[str]
    rows: frozenset[int]
    perhaps: frozenset[int]


@dataclass(slots=True)
class Transaction:
    """A transaction of the server.

    Attributes:
        before: the setting to return to when it is rolled back.
        implicit: of one statement or one string, without BEGIN.
        group: its number in the ledger.
        acknowledged: how many statements of it have succeeded.
        armed: a row of it ends its session at COMMIT.
        begun_raw: its first statement came past Django's cursors.
        sighted: Django was asked for something while it was open.
        writes_seen, writes_unseen: rows were written on Django's cursors, and past them.
    """

    before: Setting
    implicit: bool
    group: int
    failed: bool = False
    writes: list[int] = field(default_factory=list)
    savepoints: list[Savepoint] = field(default_factory=list)
    acknowledged: int = 0
    armed: bool = False
    begun_raw: bool = False
    sighted: bool = False
    writes_seen: bool = False
    writes_unseen: bool = False

    @property
    def invisible(self) -> bool:
        """Whether it wrote where the engine cannot know: a limit that is documented.

        What is sent past Django's cursors is noticed where it begins the transaction. After that
        a transaction that by its other statements only reads counts as one that only reads.
        """
        return self.writes_unseen and not (self.begun_raw or self.writes_seen)


@dataclass(slots=True)
class Session:
    """What a session holds; rows are told to the ledger as they are committed or not."""

    ledger: Ledger
    setting: Setting = field(default_factory=Setting)
    transaction: Transaction | None = None

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
            transaction.sighted |= by is not By.RAW
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

    def _one(self, transaction: Transaction, text: Text, by: By) -> Seen | None:
        if transaction.failed and not (
            isinstance(text, Control) and text.words in _ENDS | {"ROLLBACK TO"}
        ):
            raise Refused("InternalError", "25P02")
        match text:
            case Write(key, fate):
                self.ledger.executed(key, transaction.group)
                transaction.writes.append(key)
                transaction.armed |= fate not in {None, Fate.EARLY}
                transaction.writes_seen |= by is not By.RAW
                transaction.writes_unseen |= by is By.RAW
            case Read():
                return self._see(transaction)
            case Set(value, local):
                self._set(value, local=local)
            case Control(words, name):
                self._control(transaction, words, name)
            case Fail():
                raise Refused("DataError", "22012")
        return None

    def _see(self, transaction: Transaction) -> Seen:
        committed = self.ledger.having(Told.COMMITTED)
        return Seen(
            self.setting.visible,
            frozenset(committed.union(transaction.writes)),
            frozenset(self.ledger.having(Told.UNKNOWN, Told.UNSEEN)),
        )

    def _set(self, value: str | None, *, local: bool) -> None:
        if local and value is not None:
            self.setting = replace(self.setting, local=value)
        else:
            self.setting = Setting(frozenset({value or ""}))

    def _control(self, transaction: Transaction, words: str, name: str) -> None:
        if words == "BEGIN":
            transaction.implicit = False
        elif words in {"COMMIT", "END"} and not transaction.failed:
            self.commit()
        elif words in _ENDS:
            self.roll_back()
        elif transaction.implicit:
            raise Refused("InternalError", "25P01")
        elif words == "SAVEPOINT":
            savepoint = Savepoint(name, len(transaction.writes), self.setting)
            transaction.savepoints.append(savepoint)
        else:
            self._leave_savepoint(transaction, words, name)

    def _leave_savepoint(self, transaction: Transaction, words: str, name: str) -> None:
        named = [number for number, one in enumerate(transaction.savepoints) if one.name == name]
        if not named:
            raise Refused("", "3B001")  # of a class that differs by driver
        if words == "RELEASE":
            del transaction.savepoints[named[-1] :]
            return
        savepoint = transaction.savepoints[named[-1]]
        del transaction.savepoints[named[-1] + 1 :]
        self.ledger.absent(transaction.writes[savepoint.writes :])
        del transaction.writes[savepoint.writes :]
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
        session = self.setting.session
        if self.ledger.doubting:
            session |= transaction.before.session
        self.setting = Setting(session)

    def roll_back(self) -> Transaction | None:
        """End the transaction, if there is one, without effect."""
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            self.ledger.absent(transaction.writes)
            self.setting = transaction.before
        return transaction
