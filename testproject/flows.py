"""The connections of the proxy, and the ways in which one can end."""

from __future__ import annotations

import ctypes
import socket
import struct
import time
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
