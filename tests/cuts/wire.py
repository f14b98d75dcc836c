"""PostgreSQL's protocol, just enough to know where a message ends."""

from __future__ import annotations

import struct
from typing import Final

_START: Final = struct.Struct("!ii")
_LENGTH: Final = struct.Struct("!i")
#: Requests that are no start-up packet yet: encryption by TLS or GSSAPI.
_BEFORE: Final = frozenset({80877103, 80877104})


class Framer:
    """Splits one direction of a connection into messages.

    Args:
        client: it is the direction from the client, whose first message has no type.
        size: bytes of a piece where messages cannot be seen (TLS); 0: messages.
    """

    def __init__(self, *, client: bool, size: int = 0) -> None:
        self._starting, self._size = client, size
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that are complete with this."""
        self._held += data
        found: list[bytes] = []
        while (length := self._next()) and len(self._held) >= length:
            found.append(self._held[:length])
            self._held = self._held[length:]
        return found

    def rest(self) -> bytes:
        """Take what is no whole message yet."""
        held, self._held = self._held, b""
        return held

    def _next(self) -> int:
        """How long the next message is; 0: not known yet."""
        if self._size:
            return min(self._size, len(self._held))
        if self._starting:
            if len(self._held) < _START.size:
                return 0
            length, code = _START.unpack_from(self._held)
            self._starting = code in _BEFORE
            return int(length)
        if len(self._held) < 1 + _LENGTH.size:
            return 0
        (after,) = _LENGTH.unpack_from(self._held, 1)
        return 1 + int(after)
