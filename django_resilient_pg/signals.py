"""What the engine announces: one Django signal per event, each with a frozen ``record``.

Receivers get ``sender`` (the DatabaseWrapper class), ``connection`` (the wrapper) and ``record``
(one of the classes below, safe to keep, to pickle and to log: no password, no SQL parameters).
A receiver that raises does not disturb the statement: signals go out with ``send_robust``.
Seconds are floats of the monotonic clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.dispatch import Signal

from .records import Record

if TYPE_CHECKING:
    from .verdicts import Reason

connection_lost = Signal()
connection_replaced = Signal()
connect_retried = Signal()
statement_retried = Signal()
request_retried = Signal()


class ConnectionLost(Record):
    """A connection is gone.

    Attributes:
        alias: the database alias.
        reason: why it died, as far as the server, the path or the socket told.
        sqlstate: SQLSTATE of the server's last word, if it had one.
        message: the first line of the server's or the driver's text.
        idle: seconds since the server was last heard on this connection.
        noticed: when it was noticed: "before sending", "statement", "fetch", "commit",
            "rollback".
    """

    alias: str
    reason: Reason
    sqlstate: str | None
    message: str
    idle: float
    noticed: str


class ConnectionReplaced(Record):
    """A new connection stands in for another one.

    Attributes:
        alias: the database alias.
        reason: why the former one died; ``None`` when it was replaced by its idle limit.
        idle: seconds the former one had been idle.
        seconds: what connecting took.
    """

    alias: str
    reason: Reason | None
    idle: float
    seconds: float


class ConnectRetried(Record):
    """A connection attempt failed for a passing cause and is made again.

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


class RequestRetried(Record):
    """A request is run again; the signal carries ``request`` instead of ``connection``.

    Attributes:
        method: of HTTP.
        path: of the URL, without the query string.
        attempt: 1 for the first time it is run again.
    """

    method: str
    path: str
    attempt: int


class StatementRetried(Record):
    """A statement was run again on a new connection.

    Attributes:
        alias: the database alias.
        why: which row of the promise allowed it: "nothing was sent",
            "refused by a standby", "first statement of the transaction", "read" or "setting of the
            session".
        attempt: 1 for the first time it is run again.
        seconds: from the loss to the result.
    """

    alias: str
    why: str
    attempt: int
    seconds: float
