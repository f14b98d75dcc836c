"""A TCP relay on loopback, before one server: what is lost, is lost here.

It forwards bytes without reading them, so TLS passes through. One thread does everything; an order
is in force when the call that gave it returns.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

from .pair import CHUNK, PATIENCE, Pair, Plan, reset

# pass: forward. refuse: nobody listens. silent: connections come about (the kernel sees to that),
# but nothing is read or forwarded.
Mode = Literal["pass", "refuse", "silent"]

ADDRESS: Final = "127.0.0.1"


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
        return bool(found) and ended.wait(2 * PATIENCE)

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
        if not done.wait(2 * PATIENCE):
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
        self._ear.recv(CHUNK)

    def _accept(self, _: int) -> None:
        assert self._listener is not None
        client, (_, port) = self._listener.accept()
        try:
            server = self._connect()
        except OSError:
            reset(client)  # there is no way to refuse what has been accepted
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
