"""One physical connection: what its socket and its libpq say.

A :class:`Link` is asked without a round trip unless the method says otherwise. Nothing here decides
anything, and everything is duck-typed on the driver's object: no driver is imported.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final

from .closed import Closed
from .closed import LastWord as LastWord
from .sockets import bytes_read, poll_for, port_of, wait_for

# PQtransactionStatus (libpq manual, section 32.2).
IDLE: Final = 0
ACTIVE: Final = 1
IN_TRANSACTION: Final = 2
FAILED: Final = 3
UNKNOWN: Final = 4

#: An answer or a peek this fresh (seconds) is not followed by another look: the statements of a
#: busy request come faster. Death can come later than any look, so looking narrows a gap that
#: nothing closes; this leaves it at half a millisecond.
FRESH: Final = 0.0005

# More rounds than any server has to say at once; a peer that never stops talking cannot keep
# us here for ever.
MAX_ROUNDS: Final = 16
#: Severities of a message that ends its session.
LAST: Final = frozenset({"FATAL", "PANIC"})

#: All links whose connection is still referred to: what a forked child has to release.
LINKS: weakref.WeakSet[Link] = weakref.WeakSet()


class Link:
    """One physical connection.

    Attributes:
        connection: the driver's connection object.
        alias: of the database, for who asks what this process has open; "" for no wrapper's.
        fd: its socket.
        status: ``PQtransactionStatus`` as an int, read from memory.
        poll: see :func:`poll_for`.
        peek: the same, or what never sees anything where the option ``peek`` is off.
        quiet: seconds idle after which a peek is not enough.
        timed_out: its last ping was not answered in time.
        pid: the process id of its cancel key: a pooler's is not the server's.
        port: its own TCP port; ``None``: it has none.
        made_at: when it was made (monotonic seconds).
        made_by: the id of the process that has made it.
        heard_at: when the server was last heard.
        seen_at: when the connection was last seen to be alive, by an answer or a peek.
        identity: of the server and its process, once ``outcome`` has asked for them; ``None``:
            it does not tell what transaction is under way.
        inherited: whether it was made before a fork, by the parent of this process.
        announced: whether its loss has been counted and announced.
        incident: its loss, if that was announced (``incidents``).
        peer: the server's host and port, as far as the driver tells.
        asks_outcome: what became of a lost COMMIT is asked of the server (``commit_outcome``).
        cursors: the open server-side cursors that would be lost with it (WITH HOLD).
        terms: on what its pool lends it (``shared``); ``None``: they are to be judged.
        left: driver's cursors of those that another thread has dropped: to be closed.
    """

    __slots__ = (
        "__weakref__",
        "_word",
        "alias",
        "announced",
        "asks_outcome",
        "connection",
        "cursors",
        "fd",
        "heard_at",
        "identity",
        "incident",
        "inherited",
        "left",
        "made_at",
        "made_by",
        "peek",
        "peer",
        "pid",
        "poll",
        "port",
        "quiet",
        "seen_at",
        "status",
        "terms",
        "timed_out",
    )

    connection: Any
    status: Callable[[], int]
    #: Whether rows that have arrived can still be fetched when the connection is closed.
    keeps_rows: ClassVar[bool]
    #: Whether the server's last words are lost when a statement fails by them.
    hides_words: ClassVar[bool] = False

    def __init__(self, connection: Any, alias: str) -> None:
        self.connection, self.alias = connection, alias
        self._word: LastWord | None = None
        self.made_at = self.heard_at = self.seen_at = time.monotonic()
        self.quiet = 0.0
        self.inherited = self.announced = self.asks_outcome = self.timed_out = False
        self.identity: tuple[Any, ...] | None = ()
        self.cursors: weakref.WeakSet[Any] = weakref.WeakSet()
        self.left: list[Any] = []
        self.terms: object = None
        self.incident: Any = None
        self.fd = self._fileno()
        # Now: of a lost connection nobody can tell.
        self.pid, self.port = self.backend_pid(), port_of(self.fd)
        self.peer = self.server()
        self.made_by = os.getpid()
        self.poll = self.peek = poll_for(self.fd)
        LINKS.add(self)

    def _fileno(self) -> int:
        return int(self.connection.fileno())

    # -- what differs ---------------------------------------------------------------------

    def ended_unseen(self) -> bool:
        """Whether the driver believes in a transaction that is over, and so sends no BEGIN."""
        return False

    def sends_commit(self) -> bool:
        """Whether the driver believes in a transaction, and so has a COMMIT to send."""
        return True

    def busy(self) -> bool:
        """Whether looking would disturb something: a query under way, pipeline mode."""
        raise NotImplementedError

    def in_pipeline(self) -> bool:
        """Whether the application is within a pipeline of this connection, which may be lost."""
        return False

    def consume(self) -> None:
        """Let libpq read what has arrived; notifications and notices stay for the application."""
        raise NotImplementedError

    def ping(self, timeout: float) -> bool:
        """One round trip, ended after ``timeout`` seconds whatever the peer does."""
        raise NotImplementedError

    def backend_pid(self) -> int:
        """The process id of the protocol's cancel key: a pooler's is not the server's."""
        raise NotImplementedError

    def server(self) -> tuple[str | None, int | None]:
        """Host and port of the server that the connection leads to, as libpq has them."""
        return None, None

    def cursor(self) -> Any:
        """A raw cursor whose rows are tuples, whatever the application has for its own."""
        raise NotImplementedError

    # -- what does not --------------------------------------------------------------------

    def lost(self) -> bool:
        """Whether the driver knows the connection to be unusable. No system call."""
        return bool(self.connection.closed)

    def lend(self, *, peeks: bool, asks_outcome: bool) -> None:
        """A wrapper takes it up; a pool may have lent it to others before."""
        self.peek = self.poll if peeks else lambda timeout: ()
        self.asks_outcome = asks_outcome
        self.terms = None
        self.seen_at = time.monotonic()

    def leave_cursor(self, cursor: Any) -> None:
        """A thread that must not use the connection drops a cursor: the next check closes it."""
        self.left.append(cursor)
        self.peek = lambda timeout: True

    def close_left(self) -> None:
        """Close what was left, in the thread whose connection this is, between statements."""
        while self.left:
            # An error means that the session is lost, and the cursor with it.
            with contextlib.suppress(self.connection.Error):
                self.left.pop().close()

    def heard(self, now: float) -> None:
        """The server was heard ``now``."""
        self.heard_at = self.seen_at = now

    def seen(self, now: float) -> None:
        """The connection was seen to be alive ``now``, without a word of the server."""
        self.seen_at = now

    def announce(self, incident: object) -> None:
        """Its loss is announced, which is done once, whoever meets with it."""
        self.announced, self.incident = True, incident

    def doubt(self) -> None:
        """Whatever was seen before does not count: the next statement looks."""
        self.seen_at = -math.inf

    @property
    def last_word(self) -> LastWord | None:
        """What the server said when it ended the session, once that was read.

        A warning after which it was heard again was not its last word.
        """
        word = self._word
        if word is None or word.severity in LAST or word.at >= self.heard_at:
            return word
        return None

    def _hear(self, word: LastWord) -> None:
        """Keep a last word. A pooler adds its own ("server conn crashed?") to the server's."""
        if self._word is None or self._word.severity not in LAST:
            self._word = word

    def ask(self, sql: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run one statement on a raw cursor (a round trip) and return its rows."""
        with self.asking() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall()) if cursor.description is not None else []

    @contextlib.contextmanager
    def asking(self) -> Iterator[Any]:
        """A cursor for a question of the engine's own.

        Drivers may fail in the middle of a query and leave the connection open there, where
        nothing more can be asked. It is closed, so that :meth:`lost` tells.
        """
        try:
            with self.cursor() as cursor:
                yield cursor
        except self.connection.Error:
            if self.status() in {ACTIVE, UNKNOWN} and not self.in_pipeline():
                self.close()
            raise

    def bytes_read(self) -> int | None:
        """How many bytes of the server were read; ``None``: nobody knows (a Unix socket)."""
        return bytes_read(self.fd, self.poll)

    def login(self) -> tuple[str, str]:
        """The user and the database that libpq has sent."""
        info = self.connection.info
        return str(info.user), str(info.dbname)

    def parameter(self, name: str) -> str | None:
        """A ParameterStatus value the server reported, without asking it; None if closed."""
        try:
            value = self.connection.info.parameter_status(name)
        except self.connection.Error:
            return None
        return None if value is None else str(value)

    def characteristics(self) -> dict[str, object]:
        """Transaction characteristics the application may have set on the driver's object."""
        names = ("autocommit", "isolation_level", "read_only", "readonly", "deferrable")
        return {name: getattr(self.connection, name, None) for name in names}

    def adopt(self, characteristics: Mapping[str, object]) -> None:
        """Give a new connection the characteristics of the one it stands in for."""
        current = self.characteristics()
        for name, value in characteristics.items():
            if value is not None and current[name] != value:
                setattr(self.connection, name, value)

    def registered(self) -> dict[str, Any]:
        """What the application may have registered on the driver's object, for :meth:`register`."""
        raise NotImplementedError

    def register(self, registered: dict[str, Any]) -> None:
        """Give a new connection what was registered on the one it stands in for."""
        for name, value in registered.items():
            if getattr(self.connection, name) != value:
                setattr(self.connection, name, value)

    def wrote_unseen(self) -> bool:
        """Whether parameters may have become more than values, by what is registered here alone."""
        return False

    def disown(self) -> None:
        """In a forked child: put a dead socket in the place of the parent's.

        From then on nothing done to the driver's object here reaches the parent's session.
        """
        if self.lost() or self._fileno() != self.fd:
            return  # libpq has closed it: the number may be another file's by now
        self.inherited = True
        dead, far_end = socket.socketpair()
        far_end.close()
        os.dup2(dead.fileno(), self.fd, inheritable=False)
        dead.close()
        # The driver finds the end, unless a thread that is not here any more was in the middle of
        # a query; nobody can come across such a connection.
        if self.status() != ACTIVE:
            self.consume()

    def leave(self) -> None:
        """From now on its cursors alone keep the connection: it is closed with the last of them."""
        left, error = self.connection, self.connection.InterfaceError
        self.status = lambda: UNKNOWN
        self.connection = weakref.proxy(left, lambda _: self._gone(error))

    def _gone(self, error: type[Exception]) -> None:
        self.connection = Closed(error)

    def _refused(self, sqlstate: bytes, text: bytes) -> None:
        """The answer to a ping is an error: the server's last word, if it has ended the session."""
        self._hear(LastWord("FATAL", sqlstate.decode() or None, text.decode(errors="replace")))

    def _wait(self, deadline: float, *, writable: bool = False) -> bool:
        """Until the socket is ready or the deadline has passed, which is False."""
        remaining = deadline - time.monotonic()
        ready = remaining > 0 and wait_for(self.fd, remaining, writable=writable)
        self.timed_out = not ready
        return ready

    def close(self) -> None:
        """Close without a word about errors: the connection is discarded."""
        with contextlib.suppress(self.connection.Error, OSError, ValueError):
            self.connection.close()
