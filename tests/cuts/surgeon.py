"""A proxy that cuts a conversation at a message, as planned."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from tests.cuts.wire import Framer
from tests.faults.proxy import CHUNK, RESET

Side = Literal["client", "server"]
Where = Literal["before", "inside", "after"]
How = Literal["fin", "rst", "silence"]

SIDES: Final[tuple[Side, ...]] = ("client", "server")
WHERES: Final[tuple[Where, ...]] = ("before", "inside", "after")
HOWS: Final[tuple[How, ...]] = ("fin", "rst", "silence")
#: Seconds after which a silent path is ended towards the client, as by its kernel. The server's end
#: stays open: it has not noticed.
SILENT: Final = 0.005


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a connection is cut: at a message that ``side`` sends, counted from 1."""

    side: Side
    message: int
    where: Where
    how: How

    def __str__(self) -> str:
        return f"{self.side}.{self.message}.{self.where}.{self.how}"


@dataclass(slots=True, eq=False)
class Pair:
    """One connection through the proxy."""

    client: socket.socket
    server: socket.socket
    framers: dict[Side, Framer]
    seen: dict[Side, int] = field(default_factory=lambda: {"client": 0, "server": 0})
    #: When a silent one is ended, monotonic seconds.
    ends_at: float | None = None


class Surgeon:
    """Listens on a port of its own and forwards to ``port``, message by message.

    Args:
        port: of the server.
        size: see :class:`Framer`.
    """

    host = "127.0.0.1"

    def __init__(self, port: int, *, size: int = 0) -> None:
        self._target, self._size = (self.host, port), size
        self._listener = socket.create_server((self.host, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[Pair] = []
        # Ends that are read until the other side closes, so that it sees FIN and not RST.
        self._drained: list[socket.socket] = []
        self._left: list[socket.socket] = []
        self._plan: list[Cut] = []
        self.done = 0
        self._lock = threading.Lock()
        self._bell, self._ear = socket.socketpair()
        self._running = True
        self._thread = threading.Thread(target=self._run, name="surgeon", daemon=True)
        self._thread.start()

    # -- orders -----------------------------------------------------------------------------

    def plan(self, cuts: Sequence[Cut] = ()) -> None:
        """Count anew from here. The first cut is of the open connection, or of the next one.

        Each further one is of the connection that follows.
        """
        with self._lock:
            self._plan, self.done = list(cuts), 0
            for pair in self._pairs:
                pair.seen = {"client": 0, "server": 0}
                for framer in pair.framers.values():
                    framer.rest()
        self._wake()

    def counted(self) -> dict[Side, int]:
        """Messages since :meth:`plan`, of the newest connection."""
        with self._lock:
            return dict(self._pairs[-1].seen) if self._pairs else {"client": 0, "server": 0}

    @property
    def open(self) -> int:
        """How many connections are forwarded."""
        with self._lock:
            return len(self._pairs)

    @property
    def idle(self) -> bool:
        """Whether no connection is held, on either side."""
        with self._lock:
            return not (self._pairs or self._drained or self._left)

    def let_go(self) -> None:
        """Close what silent cuts have left open towards the server, and plan nothing."""
        with self._lock:
            self._plan = []
            for pair in [pair for pair in self._pairs if pair.ends_at is not None]:
                self._end_silent(pair)
            while self._left:
                self._left.pop().close()

    def close(self) -> None:
        """End everything."""
        self._running = False
        self._wake()
        self._thread.join()
        for pair in self._pairs:
            pair.client.close()
            pair.server.close()
        for each in (*self._drained, *self._left, self._listener, self._bell, self._ear):
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _wake(self) -> None:
        self._bell.send(b"x")

    # -- in the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while self._running:
            with self._lock:
                sources = {
                    source: (pair, side)
                    for pair in self._pairs
                    if pair.ends_at is None
                    for side, source in (("client", pair.client), ("server", pair.server))
                }
                ends = [pair.ends_at for pair in self._pairs if pair.ends_at is not None]
                waiting = [self._ear, self._listener, *self._drained, *sources]
            patience = max(0.0, min(ends) - time.monotonic()) if ends else None
            readable, _, _ = select.select(waiting, [], [], patience)
            with self._lock:
                for each in readable:
                    self._serve(each, *sources.get(each, (None, "client")))
                for pair in list(self._pairs):
                    if pair.ends_at is not None and pair.ends_at <= time.monotonic():
                        self._end_silent(pair)

    def _serve(self, each: socket.socket, pair: Pair | None, side: Side) -> None:
        if each is self._ear:
            self._ear.recv(CHUNK)
        elif each is self._listener:
            self._accept()
        elif each in self._drained:
            self._drain(each)
        elif pair in self._pairs and pair.ends_at is None:
            self._forward(pair, side)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._target, 10)
        except OSError:
            client.close()
            return
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        framers: dict[Side, Framer] = {
            side: Framer(client=side == "client", size=self._size) for side in SIDES
        }
        self._pairs.append(Pair(client, server, framers))

    def _drain(self, each: socket.socket) -> None:
        try:
            more = each.recv(CHUNK)
        except OSError:
            more = b""
        if not more:
            self._drained.remove(each)
            each.close()

    def _forward(self, pair: Pair, side: Side) -> None:
        source, sink = (
            (pair.client, pair.server) if side == "client" else (pair.server, pair.client)
        )
        try:
            data = source.recv(CHUNK)
            if not data:
                sink.sendall(pair.framers[side].rest())
                self._finish(pair)
                return
            for message in pair.framers[side].feed(data):
                pair.seen[side] += 1
                if self._operate(pair, side, message, sink):
                    return
                sink.sendall(message)
        except OSError:
            self._finish(pair)

    def _operate(self, pair: Pair, side: Side, message: bytes, sink: socket.socket) -> bool:
        """Cut, if it is here; whether it was."""
        cut = self._cut_of(pair)
        if cut is None or cut.side != side or cut.message != pair.seen[side]:
            return False
        if cut.where == "inside":
            sink.sendall(message[: max(1, len(message) // 2)])
        elif cut.where == "after":
            sink.sendall(message)
        self._plan = self._plan[1:]
        self.done += 1
        if cut.how == "silence":
            pair.ends_at = time.monotonic() + SILENT
            return True
        self._pairs.remove(pair)
        pair.server.close()
        if cut.how == "rst":
            self._reset(pair.client)
        else:
            with suppress(OSError):
                pair.client.shutdown(socket.SHUT_WR)
            self._drained.append(pair.client)
        return True

    def _cut_of(self, pair: Pair) -> Cut | None:
        # Cuts are of one connection after the other: the newest.
        return self._plan[0] if self._plan and pair is self._pairs[-1] else None

    def _end_silent(self, pair: Pair) -> None:
        self._pairs.remove(pair)
        self._left.append(pair.server)
        self._reset(pair.client)

    def _finish(self, pair: Pair) -> None:
        self._pairs.remove(pair)
        pair.client.close()
        pair.server.close()

    def _reset(self, each: socket.socket) -> None:
        with suppress(OSError):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        each.close()
