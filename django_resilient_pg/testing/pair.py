"""One connection through the relay, and what is to be lost of it."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

CHUNK: Final = 65536
#: Seconds that a server may take to end a session.
PATIENCE: Final = 10.0
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
_IN: Final = select.POLLIN | select.POLLHUP | select.POLLERR


class Plan:
    """What becomes of one request of a client.

    Attributes:
        request: which one from now on; 1 is the next.
        answered: whether the server gets the request, and its answer is lost; otherwise the request
            is lost on its way.
        lost: called in the thread of the relay when that has happened.
        terminate: terminates the session at the server, whose farewell then reaches the client, and
            returns whether it has; ``None``: the path is cut.
    """

    __slots__ = ("answered", "lost", "request", "terminate")

    def __init__(
        self,
        request: int,
        *,
        answered: bool,
        lost: Callable[[], object],
        terminate: Callable[[], bool] | None = None,
    ) -> None:
        self.request, self.answered, self.lost = request, answered, lost
        self.terminate = terminate


class Pair:
    """One connection: the client's socket, the server's, and what is on its way between them.

    A request begins with the first bytes of a client after an answer: the protocol is a dialogue.
    """

    def __init__(self, client: socket.socket, server: socket.socket, port: int) -> None:
        self.client, self.server, self.port = client, server, port
        self.to_server = self.to_client = b""
        self.over = False
        self._server_gone = False
        # Nothing of the client is forwarded any more; and nothing of the server either.
        self._swallows = self._drains = False
        self._hears = True  # the client has not ended
        self._requests, self._answered = 0, True
        self._plan: Plan | None = None
        self._since = 0.0
        self._ended: Callable[[], object] | None = None

    def plan(self, plan: Plan | None) -> None:
        """Requests are counted from here."""
        self._plan, self._requests, self._answered = plan, 0, True

    def lose(self, ended: Callable[[], object] | None = None) -> None:
        """End the session, and the client's connection once the server has ended the session.

        The server reads that nothing more comes. It finishes what it has, and rolls back what is
        open: when the client learns of the loss, the session has no locks any more.
        """
        self._swallows = self._drains = True
        self._since, self._ended = time.monotonic(), ended
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_WR)

    def wanted(self) -> dict[int, tuple[int, Callable[[int], None]]]:
        """What each socket is waited for, and what to call then."""
        client = (_IN if self._hears and not self.to_server else 0) | (
            select.POLLOUT if self.to_client else 0
        )
        server = (0 if self.to_client else _IN) | (select.POLLOUT if self.to_server else 0)
        wanted: dict[int, tuple[int, Callable[[int], None]]] = {}
        # A socket that has ended would be ready for ever.
        if not self._server_gone:
            wanted[self.server.fileno()] = server, self._at_server
        if client:
            wanted[self.client.fileno()] = client, self._at_client
        return wanted

    def look(self) -> None:
        """A server that does not end the session is not waited for in vain."""
        if self._server_gone and not (self.over or self.to_client):
            self.over = True
            # No RST: that would take back the server's last words.
            self.client.close()
            self.server.close()
        elif self._drains and time.monotonic() - self._since > PATIENCE:
            self.end()

    def end(self) -> None:
        """End both sides at once."""
        if not self.over:
            self.over = True
            reset(self.server)
            reset(self.client)
            if self._ended is not None:
                self._ended()

    def _at_client(self, events: int) -> None:
        if events & select.POLLOUT:
            self.to_client = self.to_client[self._send(self.client, self.to_client) :]
        elif events & _IN:
            self._from_client(self._receive(self.client))

    def _at_server(self, events: int) -> None:
        if events & select.POLLOUT:
            self.to_server = self.to_server[self._send(self.server, self.to_server) :]
        elif events & _IN:
            self._from_server(self._receive(self.server))

    def _from_client(self, data: bytes) -> None:
        if not data:
            self._hears = False
            if not self._swallows:
                with suppress(OSError):
                    self.server.shutdown(socket.SHUT_WR)
        elif not self._swallows:
            self._requests += self._answered
            self._answered = False
            self._forward(data)

    def _forward(self, data: bytes) -> None:
        plan = self._plan
        if plan is None or plan.answered or self._requests != plan.request:
            self.to_server += data
            return
        self._plan = None
        self._swallows = True
        # A session that could not be terminated must not leave its client waiting.
        if plan.terminate is None or not plan.terminate():
            self.lose()
        plan.lost()

    def _from_server(self, data: bytes) -> None:
        if not data:
            if self._drains:
                self.end()
            self._server_gone = True
            return
        self._answered = True
        plan = self._plan
        if plan is not None and plan.answered and self._requests == plan.request:
            self._plan = None
            self.lose()
            plan.lost()
        elif not self._drains:
            self.to_client += data

    def _receive(self, each: socket.socket) -> bytes:
        with suppress(OSError):
            return each.recv(CHUNK)
        return b""

    def _send(self, each: socket.socket, data: bytes) -> int:
        with suppress(BlockingIOError):
            try:
                return each.send(data)
            except BlockingIOError:
                raise
            except OSError:
                self.end()
        return 0


def reset(each: socket.socket) -> None:
    """Close it with RST."""
    with suppress(OSError):  # it may be closed
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    each.close()
