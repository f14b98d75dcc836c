"""A TCP relay on loopback, before one server: what is lost, is lost here.

It forwards bytes without reading them, so TLS passes through. One thread does everything; an order
is in force when the call that gave it returns.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

# pass: forward. refuse: nobody listens. silent: connections come about (the kernel sees to that),
# but nothing is read or forwarded.
Mode = Literal["pass", "refuse", "silent"]

ADDRESS: Final = "127.0.0.1"
_CHUNK: Final = 65536
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
_PATIENCE: Final = 10.0
_IN: Final = select.POLLIN | select.POLLHUP | select.POLLERR


class Plan:
    """What becomes of one request of a client.

    Attributes:
        request: which one from now on; 1 is the next.
        answered: whether the server gets the request, and its answer is lost; otherwise the request
            is lost on its way.
        lost: called in the thread of the relay when that has happened.
        terminate: terminates the session at the server, whose farewell then reaches the client;
            ``None``: the path is cut.
    """

    __slots__ = ("answered", "lost", "request", "terminate")

    def __init__(
        self,
        request: int,
        *,
        answered: bool,
        lost: Callable[[], object],
        terminate: Callable[[], object] | None = None,
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
        elif self._drains and time.monotonic() - self._since > _PATIENCE:
            self.end()

    def end(self) -> None:
        """End both sides at once."""
        if not self.over:
            self.over = True
            _reset(self.server)
            _reset(self.client)
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
        if plan.terminate is None:
            self.lose()
        else:
            self._swallows = True
            plan.terminate()
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
            return each.recv(_CHUNK)
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


class Relay:
    """Listens on a port of its own, and forwards to where ``connect`` leads."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        # Never listens: keeps the port while nobody does.
        self._holder = _bound(0)
        self.port: int = self._holder.getsockname()[1]
        self._mode: Mode = "pass"
        self._until: float | None = None
        self._pairs: list[Pair] = []
        self._orders: list[Callable[[], None]] = []
        self._bell, self._ear = socket.socketpair()
        self._listener: socket.socket | None = None
        self._retired = False
        self._listen()
        self._thread = threading.Thread(target=self._run, name=f"outage {self.port}", daemon=True)
        self._thread.start()

    # Orders

    def plan(self, port: int, plan: Plan | None) -> bool:
        """Lose a request of the client at this port; whether there is one."""
        found: list[Pair] = []

        def do() -> None:
            found.extend(pair for pair in self._pairs if pair.port == port)
            for pair in found:
                pair.plan(plan)

        self._order(do)
        return bool(found)

    def lose(self, port: int) -> bool:
        """Lose the connection of the client at this port; whether there was one.

        Returns when the server has ended the session.
        """
        found: list[Pair] = []
        ended = threading.Event()

        def do() -> None:
            found.extend(pair for pair in self._pairs if pair.port == port)
            for pair in found:
                pair.lose(ended.set)

        self._order(do)
        return bool(found) and ended.wait(2 * _PATIENCE)

    def refuse(self, seconds: float | None) -> None:
        """End all connections and refuse new ones: for so long, or until :meth:`resume`."""

        def do() -> None:
            self._enter("refuse", seconds)
            self._end_all()

        self._order(do)

    def fall_silent(self, seconds: float) -> None:
        """Forward nothing for so long; what there is then ends, as at a NAT that has forgotten."""
        self._order(lambda: self._enter("silent", seconds))

    def resume(self) -> None:
        """Forward again."""
        self._order(self._resume)

    def retire(self) -> None:
        """Take no new connections; end with the last one that there is."""

        def do() -> None:
            self._resume()
            self._retired = True
            self._close_listener()

        self._order(do)

    def _order(self, action: Callable[[], None]) -> None:
        done = threading.Event()
        self._orders.extend((action, done.set))
        with suppress(OSError):  # the thread has ended, with this order the last
            self._bell.send(b"x")
        if not done.wait(2 * _PATIENCE):
            raise TimeoutError("the relay of the outage does not answer")

    # In the thread

    def _run(self) -> None:
        while self._pairs or not self._retired:
            self._turn()
        for each in (self._holder, self._bell, self._ear):
            each.close()

    def _turn(self) -> None:
        doing = {self._ear.fileno(): (select.POLLIN, self._hear)}
        if self._mode != "silent":
            for pair in self._pairs:
                doing |= pair.wanted()
            if self._listener is not None:
                doing[self._listener.fileno()] = (select.POLLIN, self._accept)
        poll = select.poll()
        for number, (events, _) in doing.items():
            poll.register(number, events)
        for number, events in poll.poll(self._patience()):
            doing[number][1](events)
        self._sweep()
        while self._orders:
            self._orders.pop(0)()

    def _patience(self) -> float | None:
        """Milliseconds until something is due."""
        if self._until is not None:
            return 1000 * max(0.0, self._until - time.monotonic()) + 1
        return 1000 if self._pairs else None

    def _sweep(self) -> None:
        for pair in self._pairs:
            pair.look()
        self._pairs = [pair for pair in self._pairs if not pair.over]
        if self._until is not None and time.monotonic() >= self._until:
            self._resume()

    def _hear(self, _: int) -> None:
        self._ear.recv(_CHUNK)

    def _accept(self, _: int) -> None:
        assert self._listener is not None
        client, (_, port) = self._listener.accept()
        try:
            server = self._connect()
        except OSError:
            _reset(client)  # there is no way to refuse what has been accepted
            return
        for each in (client, server):
            each.setblocking(False)
            if each.family != socket.AF_UNIX:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append(Pair(client, server, port))

    def _enter(self, mode: Mode, seconds: float | None) -> None:
        self._mode = mode
        self._until = None if seconds is None else time.monotonic() + seconds
        if mode == "refuse":
            self._close_listener()

    def _resume(self) -> None:
        if self._mode == "silent":
            self._end_all()
        self._mode, self._until = "pass", None
        self._listen()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(128)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _end_all(self) -> None:
        for pair in self._pairs:
            pair.end()
        self._pairs.clear()


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((ADDRESS, port))
    return made


def _reset(each: socket.socket) -> None:
    with suppress(OSError):  # it may be closed
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    each.close()
