"""What the engine announces: one Django signal per event, each with a frozen ``record``.

Receivers get ``sender`` (the DatabaseWrapper class), ``connection`` (the wrapper) and ``record``
(one of the classes below, safe to keep, to pickle and to log: no password, no SQL parameters).
An error of a receiver does not disturb the statement: signals go out with ``send_robust``.
Seconds are floats of the monotonic clock.
"""

from __future__ import annotations

from django.dispatch import Signal

from .conf.records import Record
from .policy.error_table import Reason as Reason

connection_lost = Signal()
connection_replaced = Signal()
connect_retried = Signal()
statement_retried = Signal()
transaction_retried = Signal()
request_retried = Signal()


class ConnectionLost(Record):
    """A connection was lost. Sent when the outcome of the loss is known.

    Attributes:
        alias: the database alias.
        reason: why the connection was lost, as far as the server, the path or the socket told.
        sqlstate: SQLSTATE of the server's last message, if there was one.
        message: the first line of the server's or the driver's text.
        idle: seconds since the last answer of the server on this connection.
        noticed: when the loss was noticed: "before sending", "statement", "fetch", "commit",
            "rollback".
        backend_pid: process id of the connection's cancel key. A pooler's is not the server's.
        host: host, address or socket directory that the connection led to, if the driver tells.
        port: port, likewise.
        healed: whether the application did not notice: the connection was replaced, or what had
            failed was retried. Otherwise the loss surfaced as an error.
        retried_as: what was retried: "statement", "transaction", "request" or ``None``.
        took: seconds from the loss to its outcome.
    """

    alias: str
    reason: Reason
    sqlstate: str | None
    message: str
    idle: float
    noticed: str
    backend_pid: int | None = None
    host: str | None = None
    port: int | None = None
    healed: bool = True
    retried_as: str | None = None
    took: float = 0.0


class ConnectionReplaced(Record):
    """A new connection replaces another one.

    Attributes:
        alias: the database alias.
        reason: why the former one was lost; ``None``: it had reached its idle limit.
        idle: seconds the former one had been idle.
        seconds: what connecting took.
    """

    alias: str
    reason: Reason | None
    idle: float
    seconds: float


class ConnectRetried(Record):
    """An attempt to connect failed for a transient cause and is retried.

    Attributes:
        alias: the database alias.
        attempt: how many attempts have failed so far.
        wait: seconds until the next one.
        message: the first line of the failure.
    """

    alias: str
    attempt: int
    wait: float
    message: str


class StatementRetried(Record):
    """A statement was retried on a new connection and succeeded.

    Attributes:
        alias: the database alias.
        why: which row of the guarantees allowed the retry: "nothing was sent",
            "refused by a standby", "first statement of the transaction", "read" or "setting of the
            session".
        attempt: 1 for the first retry.
        seconds: from the loss to the result.
    """

    alias: str
    why: str
    attempt: int
    seconds: float


class TransactionRetried(Record):
    """``retry_atomic`` retries its transaction.

    Attributes:
        alias: the database alias.
        attempt: 1 for the first retry.
        sqlstate: SQLSTATE of the error that the failed attempt ended in, if it had one.
        wait: seconds until the retry begins.
    """

    alias: str
    attempt: int
    sqlstate: str | None
    wait: float


class RequestRetried(Record):
    """A request is replayed; the signal carries ``request`` instead of ``connection``.

    Attributes:
        method: the HTTP method.
        path: of the URL, without the query string.
        attempt: 1 for the first replay.
    """

    method: str
    path: str
    attempt: int
