"""What may listen where PostgreSQL was expected."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from django_resilient_pg.diagnosis.path.greetings import SSL_REQUEST

PATIENCE = 10.0
#: TLS alert, fatal: no_application_protocol.
REFUSED_NAME = b"\x15\x03\x03\x00\x02\x02\x78"


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


class Asker(Impostor):
    """Refuses TLS, sends ``request`` to whoever logs in all the same, keeps what they answer."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answers: list[bytes] = []
        super().__init__()

    def _serve(self, link: socket.socket) -> None:
        if link.recv(1024) == SSL_REQUEST:
            link.sendall(b"N")
            if not link.recv(1024):
                return
        link.sendall(self._request)
        self.answers.append(link.recv(1024))


def error_response(text: str, sqlstate: str) -> bytes:
    """What a server sends before it ends a session (PostgreSQL manual, 54.7)."""
    fields = (("S", "FATAL"), ("V", "FATAL"), ("C", sqlstate), ("M", text))
    body = b"".join(f"{kind}{value}\0".encode() for kind, value in fields) + b"\0"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body


class Front:
    """Stands in front of a server as a proxy that ends TLS does, and refuses some handshakes.

    ``refuse_name``: those that name the protocol (ALPN). ``refuse_first``: so many at first,
    without a word. ``refuse_tls``: even to be asked for it. The others reach the server. ``named``
    tells of each whether it had the name.
    """

    def __init__(
        self,
        port: int,
        *,
        refuse_name: bool = False,
        refuse_first: int = 0,
        refuse_tls: bool = False,
    ) -> None:
        self._upstream, self._refuse_name, self._refuse_first = port, refuse_name, refuse_first
        self._refuse_tls = refuse_tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.named: list[bool] = []
        self._threads: list[threading.Thread] = []
        self._start(self._run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        while self._threads:
            self._threads.pop().join(PATIENCE)

    def _start(self, target: Callable[..., None], *given: object) -> None:
        thread = threading.Thread(target=target, args=given, name=f"front {self.port}")
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(PATIENCE)
            request = client.recv(len(SSL_REQUEST))
            if not request or (request == SSL_REQUEST and self._refuse_tls):
                return  # it only knocked, or is refused
            with socket.create_connection(("127.0.0.1", self._upstream), PATIENCE) as server:
                server.sendall(request)
                if request != SSL_REQUEST:
                    self._both_ways(client, server)
                    return
                client.sendall(server.recv(1))
                hello = client.recv(65536)
                self.named.append(b"postgresql" in hello)
                if len(self.named) <= self._refuse_first:
                    return
                if self._refuse_name and self.named[-1]:
                    client.sendall(REFUSED_NAME)
                    return
                server.sendall(hello)
                self._both_ways(client, server)

    def _both_ways(self, client: socket.socket, server: socket.socket) -> None:
        self._start(self._relay, server, client)
        self._relay(client, server)

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


# ReadyForQuery, outside of a transaction.
READY = b"Z\x00\x00\x00\x05I"


class Gate(Front):
    """Stands in front of a server as a service does, and refuses clients in words of its own."""

    def __init__(self, port: int) -> None:
        self._words = self._sqlstate = ""
        self._logins = self._statements = 0
        self.accepted = self.refused = 0
        super().__init__(port)

    def refuse(self, words: str, sqlstate: str = "XX000", times: int = 1_000_000) -> None:
        """Refuse so many logins from now on, without TLS; what is open stays open."""
        self._words, self._sqlstate = words, sqlstate
        self._logins, self._statements, self.refused = times, 0, 0

    def refuse_statements(
        self, words: str, sqlstate: str = "08P01", times: int = 1_000_000
    ) -> None:
        """Let so many clients log in, and end their sessions at the first statement."""
        self._words, self._sqlstate = words, sqlstate
        self._logins, self._statements, self.refused = 0, times, 0

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(PATIENCE)
            request = client.recv(1024)
            if not request:
                return
            self.accepted += 1
            if self.refused < self._logins:
                self._refuse(client)
                return
            with socket.create_connection(("127.0.0.1", self._upstream), PATIENCE) as server:
                server.sendall(request)
                if self.refused >= self._statements:
                    self._both_ways(client, server)
                elif self._log_in(client, server) and client.recv(1024):
                    self._refuse(client)

    def _refuse(self, client: socket.socket) -> None:
        self.refused += 1
        client.sendall(error_response(self._words, self._sqlstate))

    @staticmethod
    def _log_in(client: socket.socket, server: socket.socket) -> bool:
        """Whether the client is told that the server is ready."""
        while True:
            for one in select.select([client, server], [], [], PATIENCE)[0]:
                data = one.recv(65536)
                (server if one is client else client).sendall(data)
                if not data or data.endswith(READY):
                    return bool(data)
