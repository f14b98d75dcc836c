"""What is remembered of a lost connection. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..conf.records import Record

if TYPE_CHECKING:
    from ..driver.lost_sessions import LostSession
    from ..policy.verdicts import Reason

#: What was lost with a connection in the middle of a pipeline: see :class:`Invalidation`.
PIPELINE: Final = "a pipeline"


class Loss(Record):
    """One lost connection.

    Attributes:
        reason: why it was lost.
        idle: seconds since the last answer of the server.
        session: the lost session, which the next connection asks about if the server had said
            nothing.
        final: no layer retries what was lost.
        incident: what is announced of it (``incidents``).
    """

    reason: Reason
    idle: float
    session: LostSession | None = None
    final: bool = False
    incident: Any = None

    @property
    def sqlstate(self) -> str | None:
        """SQLSTATE of the server's last message."""
        return None if self.incident is None else self.incident.sqlstate


class Invalidation:
    """A loss that the application has to know: every statement raises until it starts again.

    Attributes:
        loss: ``None`` if the connection was discarded because a statement was interrupted.
        pinned_by: the session state that was lost; "" for a transaction. ``PIPELINE`` holds until
            the application has left the pipeline.
        rolled_back: the savepoint that Django has rolled back to since, or "".
    """

    __slots__ = ("loss", "pinned_by", "rolled_back")

    def __init__(self, loss: Loss | None, pinned_by: str, rolled_back: str = "") -> None:
        self.loss, self.pinned_by, self.rolled_back = loss, pinned_by, rolled_back
