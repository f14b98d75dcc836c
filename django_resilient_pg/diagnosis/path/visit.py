"""What is passed from stage to stage of :func:`.stages.walk`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ...driver.link import Link
from ...facts import Facts
from ..settings.target import Target
from .attempts import Connector
from .handshakes import TlsFacts
from .network import Knock, Place

#: What to do where the answer makes no sense.
NO_POSTGRESQL: Final = (
    "Check HOST and PORT, and what listens there: no PostgreSQL server or pooler answers so."
)


class NotNeeded(Exception):
    """The stage does not exist on this way; says why."""


class Stopped(Exception):
    """The way ends: in this stage, or as it turns out in another (``stage``).

    ``answered``: the server said so itself, so that it was reached.
    """

    def __init__(
        self, detail: str, advice: str, retryable: bool, stage: str = "", *, answered: bool = False
    ) -> None:
        super().__init__(detail)
        self.detail, self.advice, self.retryable, self.stage = detail, advice, retryable, stage
        self.answered = answered


@dataclass(slots=True)
class Trip:
    """What one walk has found so far.

    Attributes:
        seconds: of stages that are not measured by how long their step took.
    """

    target: Target
    connect: Connector
    timeout: float
    primary: bool
    assume_role: str
    places: tuple[Place, ...] = ()
    knocks: tuple[Knock, ...] = ()
    reached: Knock | None = None
    tls: TlsFacts | None = None
    connect_seconds: float | None = None
    link: Link | None = None
    facts: Facts | None = None
    seconds: dict[str, float | None] = field(default_factory=dict)

    @property
    def session(self) -> Link:
        """The session, for the stages after the login."""
        assert self.link is not None
        return self.link
