"""A model of the driver's connection: psycopg 3, or psycopg2."""

from __future__ import annotations

from dataclasses import dataclass

from .language import By
from .postgres import Refused, Session
from .texts import Control


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

    def end(self, words: str, by: By) -> None:
        """``commit()`` or ``rollback()``: nothing where the driver knows of no transaction."""
        if self.in_transaction:
            self.begun = False
            self.session.execute([Control(words)], by)

    def set_autocommit(self, value: bool) -> None:
        if self.in_transaction:
            raise Refused("ProgrammingError")
        self.autocommit = value
