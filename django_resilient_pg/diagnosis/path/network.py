"""Names, addresses and sockets, every wait ended in time whatever the other side does."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ..settings.hosts import Host, socket_path
from .floods import TICK, TooMuch, beyond

T = TypeVar("T")

#: Addresses tried at once: no alias has more servers.
MOST: Final = 16
#: Seconds for a call to end after it was stopped.
STOPPING: Final = 1.0
# Where distributions (and upstream) put the Unix socket; which of them libpq has compiled in
# cannot be asked.
_FOLDERS: Final = ("/var/run/postgresql", "/tmp")


def limited(
    call: Callable[[], T],
    seconds: float,
    *,
    late: Callable[[T], object] | None = None,
    stop: Callable[[], object] | None = None,
    flooded: Callable[[], bool] | None = None,
) -> T:
    """Return what ``call`` returns, or give up after some seconds.

    For what takes no timeout of its own (``getaddrinfo``, a driver's ``connect``). It runs in a
    thread, which cannot be stopped: given up, it ends by itself, and a result that comes then
    goes to ``late``. Where there is a ``stop`` that makes it end, that is called and waited for.

    Args:
        call: what may take too long.
        seconds: to wait for it.
        late: gets a result that comes afterwards.
        stop: makes it end.
        flooded: hangs up if the peer has sent too much, and tells so; see ``floods``.

    Raises:
        TimeoutError: it took too long, "no answer within 5 s".
        TooMuch: the peer has sent too much.
    """
    box: Future[T] = Future()

    def run() -> None:
        try:
            box.set_result(call())
        except BaseException as error:
            box.set_exception(error)

    threading.Thread(target=run, name="checkdbconn", daemon=True).start()
    try:
        return _result(box, seconds, flooded)
    except BaseException as error:
        too_long = isinstance(error, TimeoutError) and not isinstance(error, TooMuch)
        if too_long and box.done():
            return box.result()  # what came in the last moment, or its own TimeoutError
        _leave(box, late, stop)
        if too_long:
            raise TimeoutError(f"no answer within {seconds:.3g} s") from None
        raise


def _result(box: Future[T], seconds: float, flooded: Callable[[], bool] | None) -> T:
    if flooded is None:
        return box.result(seconds)
    deadline, too_much = time.monotonic() + seconds, False
    while (left := deadline - time.monotonic()) > 0 and not box.done():
        wait([box], min(left, TICK))
        # Each of several attempts may be flooded: the call goes on until it ends by itself.
        too_much = (not box.done() and flooded()) or too_much
    if too_much and (not box.done() or box.exception() is not None):
        raise TooMuch
    return box.result(0)


def _leave(
    box: Future[T], late: Callable[[T], object] | None, stop: Callable[[], object] | None
) -> None:
    def pass_on(done: Future[T]) -> None:
        if late is not None and done.exception() is None:
            late(done.result())

    box.add_done_callback(pass_on)
    if stop is not None and not box.done():
        stop()
        wait([box], STOPPING)


def answer(call: Callable[[], T], fd: int, seconds: float) -> T:
    """Return what a question on an open connection brings; hang up if that takes too long.

    Raises:
        TimeoutError: no answer came in time, or one without an end.
    """
    too_much, hung_up = beyond(fd), threading.Event()

    def flooded() -> bool:
        if too_much():
            hang_up(fd)
            hung_up.set()
        return hung_up.is_set()

    found = limited(call, seconds, stop=lambda: hang_up(fd), flooded=flooded)
    if hung_up.is_set():
        raise TooMuch  # what came of it is the doing of ours
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """One address of a host.

    Attributes:
        host: whose it is.
        family: ``AF_INET``, ``AF_INET6`` or ``AF_UNIX``.
        address: as ``socket.connect`` takes it.
    """

    host: Host
    family: int
    address: Any

    def __str__(self) -> str:
        if not isinstance(self.address, tuple):
            return str(self.address).replace("\0", "@")
        host, port = self.address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Knock:
    """What an address did when it was connected to.

    Attributes:
        place: the address.
        seconds: until it accepted or refused; ``None``: it did neither.
        error: the system's words, "" if it accepted.
        code: ``errno``; 0 if it accepted.
    """

    place: Place
    seconds: float | None
    error: str
    code: int

    @property
    def accepted(self) -> bool:
        """Whether a connection came about."""
        return not self.code


def resolve(host: Host, seconds: float) -> tuple[Place, ...]:
    """Return the addresses of a host, in the system's order.

    Raises:
        OSError: it has none; ``strerror`` has the system's words.
        TimeoutError: the resolver did not answer in time.
    """
    if host.unix:
        return tuple(Place(host, socket.AF_UNIX, path) for path in _unix_paths(host))
    flags = socket.AI_NUMERICHOST if host.address else 0

    def look_up() -> list[Any]:
        name = host.address or host.name
        return socket.getaddrinfo(name, host.port, type=socket.SOCK_STREAM, flags=flags)

    try:
        found = limited(look_up, seconds)
    except ValueError:  # an empty label, or one of more than 63 characters
        raise OSError(socket.EAI_NONAME, "This is no host name") from None
    return tuple(Place(host, family, address) for family, _, _, _, address in found)


def _unix_paths(host: Host) -> Iterable[str]:
    for folder in (host.name,) if host.name else _FOLDERS:
        path = socket_path(folder, host.port)
        if host.name or os.path.exists(path):
            yield "\0" + path[1:] if path[0] == "@" else path


def knock(places: Sequence[Place], seconds: float) -> tuple[Knock, ...]:
    """Connect to all addresses side by side, send nothing, and close.

    Ends after ``seconds``, and earlier as soon as each host has accepted at one address or
    refused at all of its own.
    """
    with contextlib.closing(_Round(places[:MOST])) as round_:
        round_.wait(seconds)
        return tuple(round_.results)


class _Round:
    """The connections that :func:`knock` is waiting for."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.results = [Knock(place, None, "no answer", errno.ETIMEDOUT) for place in places]
        self._began = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._open: list[socket.socket] = []
        for number, place in enumerate(places):
            self._begin(number, place)

    def _begin(self, number: int, place: Place) -> None:
        try:
            own = socket.socket(place.family, socket.SOCK_STREAM)
        except OSError as error:  # no IPv6 here
            self._note(number, error.errno or errno.EAFNOSUPPORT)
            return
        self._open.append(own)
        own.setblocking(False)
        try:
            code = own.connect_ex(place.address)
        except (OSError, ValueError):  # no address to Python, such as a path that is too long
            code = errno.EINVAL
        if code == errno.EINPROGRESS:
            self._selector.register(own, selectors.EVENT_WRITE, number)
        else:
            self._note(number, code)

    def _note(self, number: int, code: int) -> None:
        error = os.strerror(code) if code else ""
        spent = time.monotonic() - self._began
        self.results[number] = Knock(self.results[number].place, spent, error, code)

    def wait(self, seconds: float) -> None:
        deadline = self._began + seconds
        while not self._settled() and (remaining := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(remaining):
                own = key.fileobj
                assert isinstance(own, socket.socket)
                self._selector.unregister(own)
                self._note(key.data, own.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _settled(self) -> bool:
        pending = {self.results[key.data].place.host for key in self._selector.get_map().values()}
        return pending <= {each.place.host for each in self.results if each.accepted}

    def close(self) -> None:
        self._selector.close()
        for own in self._open:
            own.close()


def hang_up(fd: int) -> None:
    """Shut the connection of a descriptor down: whoever waits for it, in whatever thread, wakes."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as own:
        own.shutdown(socket.SHUT_RDWR)
