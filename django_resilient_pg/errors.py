"""Errors that users of the engine may catch.

Errors of the driver are raised unchanged: as Django's own classes, with the driver's error as their
cause and a note added. The classes here exist only where Django has none that says enough.
"""

from __future__ import annotations

from django.db.utils import OperationalError


class CommitOutcomeUnknown(OperationalError):
    """The connection was lost during COMMIT: the transaction may or may not have taken effect.

    Never retried. Check for the transaction's effect (a natural key, a unique token) before you
    retry it.

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

    Raised by every later statement of the transaction and by its COMMIT. Nothing may run outside
    of the transaction that it was written for, even if the application swallowed the first error.
    """

    #: As on every error of a statement that was lost with its transaction. False where
    #: the application had ended a transaction as text inside the block.
    transaction_lost = True
    connection_lost = True


class SessionLost(OperationalError):
    """The connection was lost with session state that cannot be restored (``LISTEN`` ...).

    Raised by every later statement until the application calls ``connection.close()`` or
    ``close_old_connections()``.
    """

    connection_lost = True


class CredentialsUnavailable(OperationalError):
    """The callable of the ``credentials`` option raised; its error is named, its text is not shown.

    Attributes:
        passing: whether it is transient (an OSError: the network, a server that is down). Such an
            attempt to connect is retried until the deadline.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class ServerDown(OperationalError):
    """The server is known to be down, and it was not this thread's turn to try again.

    One thread of a process at a time tries. Raised at once if too many callers are already waiting,
    otherwise when the time to wait is over. Nothing was sent.

    Attributes:
        due: seconds until the next attempt to connect; 0: one is under way or due.
    """

    def __init__(self, message: str, *, due: float = 0.0) -> None:
        super().__init__(message)
        self.due = due


class AttemptAbandoned(OperationalError):
    """The attempt at a request or a ``retry_atomic`` function has failed and is retried.

    Raised in tasks and threads that the attempt has left behind, by every statement, COMMIT and
    ``on_commit()``: the retry does all that again, so it would be done twice.
    """
