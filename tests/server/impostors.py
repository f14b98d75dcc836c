"""What may listen where PostgreSQL was expected."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

PATIENCE = 10.0


class Impostor:
    """Listens on loopback, sends ``greeting`` on connection and ``answer`` to the first bytes.

    ``answer`` None: never answers. ``until``: waits for these bytes before it answers. Closes
    after its answer, unless ``hold`` is set.
    """

    def __init__(
        self,
        *,
        greeting: bytes = b"",
        answer: bytes | None = None,
        until: bytes = b"",
        hold: bool = False,
    ) -> None:
        self._greeting, self._answer, self._until, self._hold = greeting, answer, until, hold
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self.port = int(self._listener.getsockname()[1])
        self.accepted = 0
        self._thread = threading.Thread(target=self._run, name=f"impostor {self.port}")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._thread.join(PATIENCE)
        for each in self._held:
            each.close()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                self.accepted += 1
                link.settimeout(PATIENCE)
                with suppress(OSError):
                    self._serve(link)
                self._held.append(link) if self._hold else link.close()

    def _serve(self, link: socket.socket) -> None:
        link.sendall(self._greeting)
        heard = link.recv(1024)
        while self._until not in heard:
            more = link.recv(1024)
            if not more:
                return
            heard += more
        if self._answer is None:
            link.recv(1024)  # until the other side hangs up
        else:
            link.sendall(self._answer)
