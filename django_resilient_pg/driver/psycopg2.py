"""A connection of psycopg2."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from .link import IDLE, LAST, MAX_ROUNDS, LastWord, Link

# What can be registered on a connection, besides its factory of cursors.
_TYPECASTERS: Final = ("string_types", "binary_types")
# psycopg2.extensions.STATUS_BEGIN.
_BEGUN: Final = 2


class Psycopg2Link(Link):
    """psycopg2: libpq is hidden, a FATAL shows only in ``notices`` and only if polled for."""

    __slots__ = ()
    keeps_rows = False  # "cursor already closed"
    hides_words = True  # with libpq 17

    def __init__(self, connection: Any, alias: str) -> None:
        super().__init__(connection, alias)
        self.status = connection.get_transaction_status

    def registered(self) -> dict[str, Any]:
        """See :meth:`Link.registered`."""
        connection = self.connection
        types = {name: dict(getattr(connection, name)) for name in _TYPECASTERS}
        return {"cursor_factory": connection.cursor_factory, **types}

    def register(self, registered: dict[str, Any]) -> None:
        """See :meth:`Link.register`."""
        super().register({"cursor_factory": registered["cursor_factory"]})
        for name in _TYPECASTERS:
            getattr(self.connection, name).update(registered[name])

    def ended_unseen(self) -> bool:
        """See :meth:`Link.ended_unseen`: COMMIT was sent as text on the driver's own cursor."""
        return bool(self.connection.status == _BEGUN and self.status() == IDLE)

    def _begun_unseen(self) -> bool:
        """BEGIN was sent as text before the driver was to begin transactions itself."""
        connection = self.connection
        return not (connection.autocommit or connection.status == _BEGUN or self.status() == IDLE)

    def sends_commit(self) -> bool:
        """See :meth:`Link.sends_commit`: it knows nothing of a BEGIN that was sent as text."""
        return bool(self.connection.status == _BEGUN)

    def busy(self) -> bool:
        """See :meth:`Link.busy`."""
        # An asynchronous connection is the application's own business.
        return bool(self.connection.async_) or self.connection.isexecuting()

    def consume(self) -> None:
        """See :meth:`Link.consume`."""
        connection = self.connection
        known = self._notices()[-1:]
        with contextlib.suppress(connection.Error):
            for _ in range(MAX_ROUNDS):
                connection.poll()
                if not self.poll(0):
                    break
        new: list[str] = []
        for notice in reversed(self._notices()):
            if known and notice is known[0]:
                break
            new.insert(0, notice)
        for notice in new:
            self._notice(notice)

    def _notices(self) -> list[str]:
        """The last ones: psycopg2 keeps 50, or whatever the application has put in the place."""
        notices = self.connection.notices
        return notices[-3:] if isinstance(notices, list) else []

    def _notice(self, notice: str) -> None:
        severity, _, text = notice.partition(":")
        warned = severity == "WARNING" and "terminating connection" in text
        if severity in LAST or (warned and "idle" not in text):
            self._hear(LastWord(severity, None, text.strip()))

    def ping(self, timeout: float) -> bool:
        """See :meth:`Link.ping`."""
        if self._begun_unseen():
            # As Django's own check: by it the driver learns that there is something to commit.
            return self._ping_by_thread(timeout)
        try:
            from . import libpq

            functions = libpq.functions()
        except (AttributeError, OSError):
            return self._ping_by_thread(timeout)
        deadline = time.monotonic() + timeout
        try:
            answered = libpq.ping(
                functions,
                self.connection,
                lambda writable: self._wait(deadline, writable=writable),
                self._refused,
            )
        except BaseException:
            # A signal handler's: the answer is still to come, and would be taken for another's.
            self.close()
            raise
        if self.timed_out:  # otherwise libpq may have closed it, and the number be another file's
            self._shut_down()
        self.consume()
        return answered and not self.lost()

    def _shut_down(self) -> None:
        """Have whatever else is done by the driver fail at once."""
        with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(self.fd)) as own:
            own.shutdown(socket.SHUT_RDWR)

    def _ping_by_thread(self, timeout: float) -> bool:
        """By the driver: also with a build of psycopg2 that does not show its libpq."""
        idle = self.status() == IDLE
        try:
            with _shut_down_after(timeout, self):
                self.ask("SELECT 1")
                if idle and self.status() != IDLE:
                    self.connection.rollback()
        except self.connection.Error:
            return False
        return not self.lost()

    def server(self) -> tuple[str | None, int | None]:
        """See :meth:`Link.server`."""
        info = self.connection.info
        return info.host or None, int(info.port or 0) or None

    def backend_pid(self) -> int:
        """See :meth:`Link.backend_pid`."""
        return int(self.connection.get_backend_pid())

    def cursor(self) -> Any:
        """See :meth:`Link.cursor`."""
        from psycopg2.extensions import cursor

        return self.connection.cursor(cursor_factory=cursor)


@contextlib.contextmanager
def _shut_down_after(seconds: float, link: Link) -> Iterator[None]:
    """Bound what is done within it: after that time the socket of the connection is shut down.

    psycopg2 offers no query with a limit. A timer that shuts the socket down ends the wait in every
    case: packets dropped, a frozen server, and where the platform has no TCP_USER_TIMEOUT (which a
    live kernel below a frozen server would satisfy anyway).

    Without a bound, as the stock engine is, where no file descriptor is left, and where no thread
    can be started: none left, or the interpreter ends (Python 3.12).
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, RuntimeError):
            own = stack.enter_context(socket.socket(fileno=socket.dup(link.fd)))
            timer = threading.Timer(seconds, _shut_down, [own, link])
            timer.daemon = True
            timer.start()
            stack.callback(timer.join)
            stack.callback(timer.cancel)
        yield


def _shut_down(own: socket.socket, link: Link) -> None:
    link.timed_out = True
    with contextlib.suppress(OSError):
        own.shutdown(socket.SHUT_RDWR)
