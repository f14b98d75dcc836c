"""The connections of the proxy, and the ways in which one can end."""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

End = Literal["reset", "close"]

CHUNK = 65536
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, dropping what is not sent
SO_ATTACH_FILTER = 26  # of Linux; Python has no name for it
DROP = struct.pack("HBBI", 0x06, 0, 0, 0)  # a filter of one instruction: no packet passes


class Flow:
    """One direction of a connection: from ``source`` to ``sink``."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.waiting = b""
        self.ended = self.broken = False
        self.used = time.monotonic()

    @property
    def full(self) -> bool:
        """Whether nothing more is taken now."""
        return bool(self.waiting) or self.ended

    @property
    def due(self) -> float | None:
        """When (``time.monotonic``) something is to be passed on; None: there is nothing."""
        return self.used if self.waiting else None

    def read(self) -> None:
        """Take what has come, or pass on that nothing more will."""
        try:
            self.waiting = self.source.recv(CHUNK)
            if not self.waiting:
                self.ended = True
                self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.broken = True
        self.used = time.monotonic()

    def write(self) -> None:
        """Pass on as much as goes."""
        try:
            self.waiting = self.waiting[self.sink.send(self.waiting) :]
        except OSError:
            self.broken = True


class DelayedFlow(Flow):
    """Passes on what comes, and its end, ``delay`` seconds after it came."""

    def __init__(self, source: socket.socket, sink: socket.socket, delay: float) -> None:
        super().__init__(source, sink)
        self._delay, self._over = delay, False
        self._stamped: deque[tuple[float, bytes]] = deque()

    @property
    def full(self) -> bool:
        return self._over

    @property
    def due(self) -> float | None:
        return self._stamped[0][0] if self._stamped else None

    def read(self) -> None:
        try:
            piece = self.source.recv(CHUNK)
        except OSError:
            self.broken = True
            return
        self.used = time.monotonic()
        self._over = not piece
        self._stamped.append((self.used + self._delay, piece))

    def write(self) -> None:
        due, piece = self._stamped.popleft()
        try:
            if piece and (rest := piece[self.sink.send(piece) :]):
                self._stamped.appendleft((due, rest))
            elif not piece:
                self.ended = True
                self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.broken = True


@dataclass(frozen=True, slots=True)
class Pair:
    """The two directions of one connection."""

    there: Flow
    back: Flow
    client_port: int

    def end(self, how: End) -> None:
        for each in (self.there.source, self.back.source):
            end(each, how)


def lose_packets(each: socket.socket) -> None:
    """Let the kernel discard what arrives here, before it acknowledges anything."""
    code = ctypes.create_string_buffer(DROP, len(DROP))
    program = struct.pack("@HP", 1, ctypes.addressof(code))
    each.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def end(each: socket.socket, how: End) -> None:
    """Close a socket, with an RST or as usual."""
    if how == "reset":
        with suppress(OSError):  # it may be closed
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    each.close()
