"""What a user of the engine may catch.

Everything the driver raises comes out unchanged (Django's own classes, the driver's error as
its cause, a note added); the classes here exist only where Django has none that says enough.
"""

from __future__ import annotations

from django.db.utils import OperationalError


class CommitOutcomeUnknown(OperationalError):
    """The connection was lost during COMMIT: the transaction may or may not have taken effect.

    Never retried. Look for the transaction's effect (a natural key, a unique token) before
    doing it again.

    Attributes:
        alias: the database alias.
        xid: the transaction's id where it is known (a 64-bit ``xid8``), else ``None``.
    """

    def __init__(self, message: str, *, alias: str = "", xid: int | None = None) -> None:
        super().__init__(message)
        self.alias = alias
        self.xid = xid


class TransactionLost(OperationalError):
    """The connection was lost earlier in this transaction, which the server has rolled back.

    Raised by every later statement of the transaction and by its COMMIT: nothing may run
    outside the transaction it was written for, even when the first error was swallowed.
    """

    #: As on every error of a statement that was lost together with its transaction. False where
    #: the application had ended a transaction as text inside the block.
    transaction_lost = True
    connection_lost = True


class SessionLost(OperationalError):
    """The lost session held state that a new one would not have (``SET``, ``LISTEN`` ...).

    Raised by every later statement until the application starts clean with
    ``connection.close()`` or ``close_old_connections()``.
    """

    connection_lost = True


class CredentialsUnavailable(OperationalError):
    """The callable of the ``credentials`` option raised; its error is named, its text is not shown.

    Attributes:
        passing: whether it may pass by itself (an OSError: the network, a server that is down).
            Such a connection attempt is made again until the deadline.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class ServerDown(OperationalError):
    """The server is known to be down, and this statement was not allowed to ask it again.

    One thread of a process at a time asks. Raised at once where too many statements have waited
    for it in vain already, else when the time to wait is used up. Nothing was sent.

    Attributes:
        due: seconds until the next attempt to connect; 0: one is under way or due.
    """

    def __init__(self, message: str, *, due: float = 0.0) -> None:
        super().__init__(message)
        self.due = due


class AttemptAbandoned(OperationalError):
    """The attempt at a request or a ``retry_atomic`` function has been given up, and is made again.

    Raised in tasks and threads that the attempt has left behind, by every statement, COMMIT and
    ``on_commit()``: the second attempt does all that again, so it would be done twice.
    """
