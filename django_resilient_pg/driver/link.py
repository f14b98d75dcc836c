"""The one place that knows psycopg 3 from psycopg2.

A :class:`Link` stands for one physical connection: what its socket and its libpq say, asked
without a round trip unless the method says otherwise. Nothing here decides anything.

Everything is duck-typed on the connection object, so importing this module imports no driver.
"""

from __future__ import annotations

import _socket
import contextlib
import math
import os
import re
import select
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Final, cast

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import FIONREAD

from .literals import has_text as has_text
from .literals import told_by_texts

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
_MAX_ROUNDS: Final = 16
# What a session's end is announced with, other than FATAL and PANIC: a WARNING of the end of the
# server, with admin_shutdown or crash_shutdown. Functions may raise what they like.
_WARNED: Final = frozenset({"57P01", "57P02"})
_LAST: Final = frozenset({"FATAL", "PANIC"})


# From this version on psycopg takes notice of DISCARD ALL.
_NOTICES_DISCARD: Final = (3, 3, 5)
# What can be registered on a connection: of psycopg 3, besides adapters, and of psycopg2.
_FACTORIES: Final = ("row_factory", "cursor_factory", "server_cursor_factory")
_TYPECASTERS: Final = ("string_types", "binary_types")
# Fields of an error (PG_DIAG_SQLSTATE, PG_DIAG_MESSAGE_PRIMARY).
_SQLSTATE, _MESSAGE = ord("C"), ord("M")
# psycopg2.extensions.STATUS_BEGIN.
_BEGUN: Final = 2


def _kernels_poll() -> Callable[[], Any] | None:
    """``select.poll`` as it was before gevent put its own in the place, or eventlet took it away.

    Ours never waits, so it need not give way to other greenlets; gevent's does even then, which
    takes seven times as long and lets them run in the middle of a liveness check (measured).
    """
    if hasattr(select, "poll"):
        monkey = sys.modules.get("gevent.monkey")
        poll = select.poll if monkey is None else monkey.get_original("select", "poll")
        return cast(Callable[[], Any], poll)
    patcher = sys.modules.get("eventlet.patcher")
    return None if patcher is None else getattr(patcher.original("select"), "poll", None)


class LastWord:
    """What the server said when it ended the session: plain text and codes."""

    __slots__ = ("at", "severity", "sqlstate", "text")

    def __init__(self, severity: str | None, sqlstate: str | None, text: str) -> None:
        self.severity, self.sqlstate, self.text = severity, sqlstate, text
        self.at = time.monotonic()


def poll_for(fd: int) -> Callable[[int], object]:
    """A callable that tells at once whether anything arrived on ``fd``, errors and ends included.

    Called with a timeout in milliseconds; returns something true when it is readable. Without
    ``poll`` (Windows) it is a ``select``; without POLLRDHUP (macOS) an end of stream is seen as
    "readable", which is enough because readable is always looked into.
    """
    if (kernels := _kernels_poll()) is not None:
        poller: select.poll = kernels()
        poller.register(fd, select.POLLIN | getattr(select, "POLLRDHUP", 0))
        return poller.poll
    return lambda timeout: select.select([fd], [], [], timeout / 1000)[0]


def wait_for(fd: int, seconds: float, *, writable: bool = False) -> bool:
    """Wait until ``fd`` is readable (or writable); False: it is not, after so many seconds.

    By what is in ``select`` now, so that other greenlets run meanwhile.
    """
    if not hasattr(select, "poll"):
        return any(select.select([fd], [fd] if writable else [], [], seconds))
    poller = select.poll()
    poller.register(fd, select.POLLIN | (select.POLLOUT if writable else 0))
    return bool(poller.poll(seconds * 1000))


def _port_of(fd: int) -> int | None:
    """The own TCP port of a socket, without a duplicate of its descriptor."""
    try:
        own = _socket.socket(fileno=fd)
    except OSError:  # none
        return None
    try:
        name = own.getsockname()
    except OSError:
        return None
    finally:
        own.detach()
    return int(name[1]) if isinstance(name, tuple) else None


# Where struct tcp_info (linux/tcp.h) has tcpi_bytes_received, a u64, since Linux 4.1.
_RECEIVED: Final = struct.Struct("=128xQ")
_INT: Final = struct.Struct("i")
_NO_INT: Final = bytes(_INT.size)


def bytes_read(fd: int) -> int | None:
    """How many bytes have been read from a TCP socket, without a duplicate of its descriptor."""
    if sys.platform != "linux":
        return None
    try:
        # Whatever it is: to find that out would take more system calls.
        own = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, fd)
    except OSError:  # none
        return None
    try:
        # First what waits to be read: what comes in between then counts as read, never as not.
        (waiting,) = _INT.unpack(ioctl(fd, FIONREAD, _NO_INT))
        raw = own.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _RECEIVED.size)
    except OSError:  # not TCP
        return None
    finally:
        own.detach()
    return int(_RECEIVED.unpack(raw)[0] - waiting) if len(raw) == _RECEIVED.size else None


def _see_nothing(timeout: int) -> object:
    return ()


def _see_something(timeout: int) -> object:
    return True


#: All links whose connection is still referred to: what a forked child has to release.
LINKS: weakref.WeakSet[Link] = weakref.WeakSet()


class Link:
    """One physical connection.

    Attributes:
        connection: the driver's connection object.
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

    def __init__(self, connection: Any) -> None:
        self.connection = connection
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
        self.pid, self.port = self.backend_pid(), _port_of(self.fd)
        self.peer = self.server()
        self.made_by = os.getpid()
        self.poll: Callable[[int], object] = poll_for(self.fd)
        self.peek = self.poll
        LINKS.add(self)

    def _fileno(self) -> int:
        return int(self.connection.fileno())

    # -- what differs ---------------------------------------------------------------------

    def lost(self) -> bool:
        """Whether the driver knows the connection to be unusable. No system call."""
        raise NotImplementedError

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

    def lend(self, *, peeks: bool, asks_outcome: bool) -> None:
        """A wrapper takes it up; a pool may have lent it to others before."""
        self.peek = self.poll if peeks else _see_nothing
        self.asks_outcome = asks_outcome
        self.terms = None
        self.seen_at = time.monotonic()

    def leave_cursor(self, cursor: Any) -> None:
        """A thread that must not use the connection drops a cursor: the next check closes it."""
        self.left.append(cursor)
        self.peek = _see_something

    def close_left(self) -> None:
        """Close what was left, in the thread whose connection this is, between statements."""
        while self.left:
            # An error means that the session is lost, and the cursor with it.
            with contextlib.suppress(self.connection.Error):
                self.left.pop().close()

    def heard(self, now: float) -> None:
        """The server was heard ``now``."""
        self.heard_at = self.seen_at = now

    def doubt(self) -> None:
        """Whatever was seen before does not count: the next statement looks."""
        self.seen_at = -math.inf

    @property
    def last_word(self) -> LastWord | None:
        """What the server said when it ended the session, once that was read.

        A warning after which it was heard again was not its last word.
        """
        word = self._word
        if word is None or word.severity in _LAST or word.at >= self.heard_at:
            return word
        return None

    def _hear(self, word: LastWord) -> None:
        """Keep a last word. A pooler adds its own ("server conn crashed?") to the server's."""
        if self._word is None or self._word.severity not in _LAST:
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
        return bytes_read(self.fd)

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
        self.status = _unknown
        self.connection = weakref.proxy(left, lambda _: self._gone(error))

    def _gone(self, error: type[Exception]) -> None:
        self.connection = _Closed(error)

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


def _unknown() -> int:
    return UNKNOWN


class _Closed:
    """In the place of a connection that is no more: as psycopg2 has a closed one."""

    closed = 1

    def __init__(self, error: type[Exception]) -> None:
        self._error = error
        self.Error = error.__base__

    def close(self) -> None:
        """Nothing is left to close."""

    def __getattr__(self, name: str) -> Any:
        raise self._error("connection already closed")


class LeftCursor:
    """In the place of a driver's cursor whose connection is replaced before its next statement."""

    closed = True
    description = query = None  # which Django's debug log reads
    rowcount = -1

    def __init__(self, cursor: Any) -> None:
        self.arraysize = cursor.arraysize
        self._error = cursor.connection.InterfaceError

    def close(self) -> None:
        """Nothing is left to close."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error("cursor already closed")

    execute = executemany = fetchone = fetchmany = fetchall = _refuse


class Psycopg3Link(Link):
    """psycopg 3: the libpq connection is open to us (``connection.pgconn``)."""

    __slots__ = ()
    keeps_rows = True

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.status = partial(getattr, connection.pgconn, "transaction_status")
        connection.add_notice_handler(self._notice)

    def _notice(self, diagnostic: Any) -> None:
        severity = diagnostic.severity_nonlocalized or diagnostic.severity
        if severity in _LAST or (severity == "WARNING" and diagnostic.sqlstate in _WARNED):
            text = diagnostic.message_primary or ""
            self._hear(LastWord(severity, diagnostic.sqlstate, text))

    def lost(self) -> bool:
        """See :meth:`Link.lost`."""
        return bool(self.connection.closed)

    def registered(self) -> dict[str, Any]:
        """See :meth:`Link.registered`."""
        connection = self.connection
        own = {name: getattr(connection, name) for name in _FACTORIES}
        return {**own, "adapters": connection.adapters}

    def register(self, registered: dict[str, Any]) -> None:
        """See :meth:`Link.register`: there is no other way to make a connection's adapters."""
        own = {name: value for name, value in registered.items() if name != "adapters"}
        super().register(own)
        adapters = registered["adapters"]
        self.connection._adapters = type(adapters)(adapters)

    def wrote_unseen(self) -> bool:
        """See :meth:`Link.wrote_unseen`."""
        return not told_by_texts(("%",), self.connection)

    def busy(self) -> bool:
        """See :meth:`Link.busy`."""
        pgconn = self.connection.pgconn
        # The lock is held while a notifies() generator runs: what we read it would miss.
        return bool(pgconn.pipeline_status) or self.connection.lock.locked()

    def in_pipeline(self) -> bool:
        """See :meth:`Link.in_pipeline`."""
        # Of a closed connection libpq says that there is none; the block is still to be left.
        return getattr(self.connection, "_pipeline", None) is not None

    def consume(self) -> None:
        """See :meth:`Link.consume`."""
        pgconn = self.connection.pgconn
        # An error here is the end of the stream; lost() then tells.
        with contextlib.suppress(self.connection.Error):
            for _ in range(_MAX_ROUNDS):
                pgconn.consume_input()
                pgconn.is_busy()  # makes libpq parse what it has read
                self._hand_on_notifies()
                if not self.poll(0):
                    break

    def _hand_on_notifies(self) -> None:
        """As psycopg's own fetch does: to the handlers or to the backlog."""
        pgconn = self.connection.pgconn
        while (notify := pgconn.notifies()) is not None:
            if pgconn.notify_handler is not None:
                pgconn.notify_handler(notify)

    def ping(self, timeout: float) -> bool:
        """See :meth:`Link.ping`."""
        pgconn = self.connection.pgconn
        deadline = time.monotonic() + timeout
        try:
            pgconn.send_query(b"SELECT 1")
            while pgconn.flush():
                if not self._wait(deadline, writable=True):
                    return False
                pgconn.consume_input()
            while True:
                while pgconn.is_busy():
                    if not self._wait(deadline):
                        return False
                    pgconn.consume_input()
                if (result := pgconn.get_result()) is None:
                    self._hand_on_notifies()
                    return not self.lost()
                if text := result.error_field(_MESSAGE):
                    self._refused(result.error_field(_SQLSTATE) or b"", text)
        except self.connection.Error:
            return False
        except BaseException:
            # A signal handler's: the answer is still to come, and would be taken for another's.
            self.close()
            raise

    def server(self) -> tuple[str | None, int | None]:
        """See :meth:`Link.server`."""
        pgconn = self.connection.pgconn
        return pgconn.host.decode(errors="replace") or None, int(pgconn.port or 0) or None

    def backend_pid(self) -> int:
        """See :meth:`Link.backend_pid`."""
        return int(self.connection.pgconn.backend_pid)

    def keeps_prepared(self) -> bool:
        """Whether the driver would believe in its prepared statements after DISCARD ALL.

        It asks the server (a round trip). Newer versions notice what has become of them.
        """
        from psycopg import __version__ as version

        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        if numbers >= _NOTICES_DISCARD:
            return False
        return bool(self.ask("SELECT FROM pg_catalog.pg_prepared_statements LIMIT 1"))

    def cursor(self) -> Any:
        """See :meth:`Link.cursor`."""
        from psycopg.rows import tuple_row

        return self.connection.cursor(row_factory=tuple_row)


class Psycopg2Link(Link):
    """psycopg2: libpq is hidden, a FATAL shows only in ``notices`` and only if polled for."""

    __slots__ = ()
    keeps_rows = False  # "cursor already closed"
    hides_words = True  # with libpq 17

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.status = connection.get_transaction_status

    def lost(self) -> bool:
        """See :meth:`Link.lost`."""
        return bool(self.connection.closed)

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
            for _ in range(_MAX_ROUNDS):
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
        if severity in _LAST or (warned and "idle" not in text):
            self._hear(LastWord(severity, None, text.strip()))

    def ping(self, timeout: float) -> bool:
        """See :meth:`Link.ping`."""
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
        """With a build of psycopg2 that does not show its libpq."""
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


def libpq_version(driver: Any) -> int:
    """The version of the libpq in use, as ``PQlibVersion`` has it."""
    if hasattr(driver, "pq"):
        return int(driver.pq.version())
    return int(driver.extensions.libpq_version())


def link_to(connection: Any) -> Link:
    """The link for a driver's connection object."""
    if not hasattr(connection, "pgconn"):
        return Psycopg2Link(connection)
    # One link for the life of a connection: a pool hands the same one out again and again, and
    # each link adds a notice handler.
    link = getattr(connection, "_django_resilient_pg_link", None)
    if not isinstance(link, Psycopg3Link):
        link = connection._django_resilient_pg_link = Psycopg3Link(connection)
    return link
