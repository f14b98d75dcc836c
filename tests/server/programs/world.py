"""The model, together with what the application knows of losses."""

from __future__ import annotations

from dataclasses import dataclass

from .atomic import Django
from .transaction import Transaction


@dataclass(slots=True)
class Lost:
    """The application was told of a loss, and has not left what it was in.

    Attributes:
        transaction: what was open then.
        must_raise: nothing may run outside of the transaction it was written for. False where
            nothing of it had succeeded (what follows may as well be its beginning), where a COMMIT
            of it was tried, and where the engine could not know of it: begun and lost past
            Django's cursors.
    """

    transaction: Transaction | None
    must_raise: bool

    def roll_back_to(self, name: str | None) -> None:
        """The application knows that what came after this savepoint has failed."""
        savepoint = self.transaction and self.transaction.find(name or "")
        if self.transaction and savepoint:
            self.transaction.roll_back_to(savepoint)
            self.must_raise &= savepoint.acknowledged > 0


@dataclass(slots=True)
class World:
    """The model, and whether its session may be dead.

    Attributes:
        at_risk: a session has died, and nothing has come from another one since.
    """

    django: Django
    at_risk: bool = False
    lost: Lost | None = None

    @property
    def armed(self) -> bool:
        transaction = self.django.session.transaction
        return transaction is not None and transaction.armed

    @property
    def vague(self) -> bool:
        """Whether both are right: that a statement is its own transaction, or not.

        psycopg2, after a text has ended its transaction, goes on without one; on a new connection
        it begins one. The application has been told of no COMMIT, whichever it is.
        """
        return self.at_risk and self.django.driver.mistaken

    def lose(self, *, ended: bool = False) -> None:
        """The application is told now: what is open is lost, until it is left."""
        transaction = self.django.session.transaction
        done = 0 if transaction is None else transaction.acknowledged
        self.lose_what_was(transaction, must_raise=done > 0 and not ended)

    def lose_what_was(self, transaction: Transaction | None, *, must_raise: bool) -> None:
        """The same, where the step itself may have ended the transaction."""
        self.drop()
        self.at_risk = True
        if transaction is not None or not self.django.autocommit:
            sighted = transaction is not None and transaction.sighted
            self.lost = Lost(transaction, must_raise and sighted)

    def drop(self) -> None:
        """The session is gone; Django's own state stays."""
        self.django.session.roll_back()
        self.django.driver.begun = False

    def leave(self) -> None:
        """What was lost is left: what comes now is as on a new session."""
        self.lost = None
        self.drop()
        self.django.driver.autocommit = self.django.autocommit
