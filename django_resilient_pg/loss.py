"""What a lost connection is remembered as. Pure."""

from __future__ import annotations

from typing import Final

from .lost_sessions import LostSession
from .records import Record
from .verdicts import Reason

#: What was lost with a connection in the middle of a pipeline: see :class:`Invalidation`.
PIPELINE: Final = "a pipeline"


class Loss(Record):
    """One lost connection.

    Attributes:
        reason: why it was lost.
        idle: how many seconds after the server was last heard.
        session: what the next connection finds out of it, if the server had said nothing.
        final: nothing of it is retried, by whatever layer.
    """

    reason: Reason
    idle: float
    session: LostSession | None = None
    final: bool = False


class Invalidation:
    """A loss that the application has to be told of: until it starts anew, every statement raises.

    Attributes:
        loss: ``None`` if the connection was discarded because a statement was left half-way.
        pinned_by: the session state that is gone; "" when it was a transaction. ``PIPELINE`` holds
            until the application has left it.
        rolled_back: the savepoint that Django has rolled back to since, or "".
    """

    __slots__ = ("loss", "pinned_by", "rolled_back")

    def __init__(self, loss: Loss | None, pinned_by: str, rolled_back: str = "") -> None:
        self.loss, self.pinned_by, self.rolled_back = loss, pinned_by, rolled_back
