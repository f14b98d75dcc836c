"""A session that is left alone: is it still there, and if not, how did it end?"""

from __future__ import annotations

import enum
import errno
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ...driver.exceptions import reason_of
from ...driver.link import Link
from ...policy.verdicts import Reason
from ..path.attempts import Connector, Refusal, Refused, attempt

# What the kernel says when nothing comes back any more: the peer did not end anything.
_UNANSWERED: Final = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
# Reasons that have nothing to do with how long a session was idle.
_OTHER_REASONS: Final = {Reason.ADMINISTRATOR, Reason.RESTART, Reason.CRASH, Reason.FAILOVER}
# Whole seconds, as libpq takes them: as often as goes, so that no path forgets in between.
_KEEPALIVES: Final[dict[bool, dict[str, object]]] = {
    False: {"keepalives": 0, "tcp_user_timeout": 0},
    True: {
        "keepalives": 1,
        "keepalives_idle": 1,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": 0,
    },
}


class How(enum.Enum):
    """How a session ended, as its client sees it."""

    SAID = "with a message"
    CLOSED = "closed without a message"
    RESET = "reset"
    REFUSED = "refused as soon as it is used"
    SILENT = "silently"

    @property
    def seen(self) -> bool:
        """Whether the client's socket shows it at once, without being used."""
        return self not in {How.REFUSED, How.SILENT}


@dataclass(frozen=True, slots=True)
class Ending:
    """How one session ended.

    Attributes:
        how: as its client sees it.
        text: what the server or a pooler said, "" if nothing.
        reason: what that means, :attr:`.Reason.UNKNOWN` if nothing was said.
    """

    how: How
    text: str = ""
    reason: Reason = Reason.UNKNOWN

    @property
    def of_idleness(self) -> bool:
        """Whether it may be for having been idle."""
        return self.reason not in _OTHER_REASONS


class Session(Protocol):
    """What :func:`.probe.probe_idle` needs of a session."""

    def look(self) -> Ending | None:
        """How it ended, if that shows without sending anything."""

    def use(self, timeout: float) -> Ending | None:
        """How it ended, if one round trip within ``timeout`` seconds shows it."""

    def close(self) -> None:
        """Give it up."""


class LinkSession:
    """A session of a driver."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def look(self) -> Ending | None:
        """See :class:`Session`."""
        if self._link.lost():
            return self._ending(0)
        if not self._link.poll(0):
            return None
        # First: reading takes the error away. Readable is not dead, see ``liveness``.
        code = _error(self._link.fd)
        self._link.consume()
        return self._ending(code) if self._link.lost() else None

    def use(self, timeout: float) -> Ending | None:
        """See :class:`Session`."""
        seen = self.look()
        if seen is not None:
            return seen
        began = time.monotonic()
        if self._link.ping(timeout):
            return None
        spent = time.monotonic() - began
        found = self._ending(0)
        if found.how is How.SAID:
            return found
        return Ending(How.SILENT if spent >= timeout else How.REFUSED)

    def close(self) -> None:
        """See :class:`Session`."""
        self._link.close()

    def _ending(self, code: int) -> Ending:
        word = self._link.last_word
        if word is not None:
            return Ending(How.SAID, word.text, reason_of(self._link))
        if code in _UNANSWERED:
            return Ending(How.SILENT)
        return Ending(How.RESET if code else How.CLOSED)


def _error(fd: int) -> int:
    """Return the error that waits on a socket (``errno``), 0 if there is none."""
    with socket.socket(fileno=os.dup(fd)) as own:
        return own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


#: The rule of a refusal: logged in, but nothing answers, see :func:`opener`.
NO_SERVER: Final = "no server"
#: Seconds to wait for the answer to one round trip.
PATIENCE: Final = 3.0


def opener(connect: Connector, seconds: float, addresses: int = 1) -> Callable[[bool], LinkSession]:
    """Return what opens a session for the probe, with or without TCP keepalives.

    Args:
        connect: logs in.
        seconds: for each login.
        addresses: how many libpq may have to try.

    What is returned raises :class:`.attempts.Refused`. A pooler logs in whom it has no server for:
    each session therefore asks something at once. From then on it has a server of its own where
    sessions are not shared, and what is not answered later was not waiting for one.
    """

    def open_session(keepalives: bool) -> LinkSession:
        link, _ = attempt(connect, _KEEPALIVES[keepalives], seconds, addresses)
        if not link.ping(PATIENCE):
            link.close()
            why = f"it logged in, but got no answer to its first statement within {PATIENCE:g} s"
            raise Refused(Refusal(NO_SERVER, True, why, False, PATIENCE))
        return LinkSession(link)

    return open_session
