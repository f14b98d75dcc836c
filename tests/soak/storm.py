"""Faults at random, one after another: of sessions, of the server, of the path to it."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final, Self

from testproject import guard
from testproject.cluster import Mode
from testproject.postgres import Server
from tests.faults.proxy import Point, Proxy

#: Seconds between two faults.
PAUSE: Final = (0.1, 0.6)
#: Seconds that an outage takes: refused, silent, down.
OUTAGE: Final = (0.1, 1.5)
PATIENCE: Final = 30.0


class Storm:
    """Breaks what the application works with, from entering to leaving the context.

    Faults are dealt from a shuffled pack, so that each comes up in every run that is long enough.
    What goes wrong with the faults themselves is raised when the context is left.

    Args:
        proxy: between the application and the server.
        only: names of faults; without, all of them.
        pause: shortest and longest time between two faults, in seconds.
    """

    def __init__(
        self,
        server: Server,
        proxy: Proxy,
        rng: random.Random,
        *,
        only: Collection[str] = (),
        pause: tuple[float, float] = PAUSE,
    ) -> None:
        self.done: Counter[str] = Counter()
        self._server, self._proxy, self._random = server, proxy, rng
        self._names, self._pause = only or list(FAULTS), pause
        self._pack: list[str] = []
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="storm", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """End; the fault under way is finished first."""
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._random.uniform(*self._pause)):
                name = self._next()
                FAULTS[name][1](self)
                self.done[name] += 1
        except Exception as error:  # raised again where the context is left
            self._error = error

    def _next(self) -> str:
        if not self._pack:
            self._pack = [name for name in self._names for _ in range(FAULTS[name][0])]
            self._random.shuffle(self._pack)
        return self._pack.pop()

    def _outage(self) -> None:
        self._stop.wait(self._random.uniform(*OUTAGE))

    # -- of sessions ------------------------------------------------------------------------

    def terminate(self) -> None:
        """An administrator ends a session."""
        for pid in self._one():
            self._server.execute("SELECT pg_terminate_backend(%s)", [pid])

    def crash(self) -> None:
        """A process of the server is killed: the server ends all sessions and recovers."""
        for pid in self._one():
            guard.send(pid, signal.SIGKILL)
            guard.wait_gone([pid], PATIENCE)
        self._server.wait_recovered()

    def time_out(self) -> None:
        """The server ends sessions of the application that are idle for some milliseconds."""
        self._server.execute(f"ALTER ROLE {self._server.user} SET idle_session_timeout = '8ms'")
        self._proxy.cut("close")  # the setting is for new sessions
        self._outage()
        self._server.execute(f"ALTER ROLE {self._server.user} RESET idle_session_timeout")

    def _one(self) -> list[int]:
        found = self._server.backends()
        return [self._random.choice(found)] if found else []

    # -- of the server ----------------------------------------------------------------------

    def restart(self) -> None:
        """The server restarts, and is down for a while."""
        how: Mode = self._random.choice(("fast", "immediate"))
        self._server.stop(how)
        self._outage()
        self._server.start()

    # -- of the path ------------------------------------------------------------------------

    def cut_one(self) -> None:
        """A connection ends at a message that is under way."""
        points: tuple[Point, ...] = ("before", "after", "answer")
        point = self._random.choice(points)
        self._proxy.cut_at(self._random.randrange(1, 30), point, leaves=self._random.random() < 0.3)

    def cut_all(self) -> None:
        """All connections end."""
        self._proxy.cut(self._random.choice(("reset", "close")))

    def forget(self) -> None:
        """The path ends all connections towards the clients; the server notices later."""
        self._proxy.cut_clients()
        self._outage()
        self._proxy.let_go()

    def refuse(self) -> None:
        """All connections end, and nobody listens for a while."""
        with self._proxy.down():
            self._outage()

    def reject(self) -> None:
        """New connections are accepted and ended, as by a balancer without backends."""
        with self._proxy.during("cut"):
            self._proxy.cut("close")
            self._outage()

    def fall_silent(self) -> None:
        """Nothing is forwarded for a while; then the connections end, or go on."""
        with self._proxy.during(self._random.choice(("deaf", "mute"))):
            self._outage()
            if self._random.random() < 0.7:
                self._proxy.cut()


#: How often a pack has each fault.
FAULTS: Final[dict[str, tuple[int, Callable[[Storm], None]]]] = {
    "terminate": (14, Storm.terminate),
    "cut one": (14, Storm.cut_one),
    "cut all": (4, Storm.cut_all),
    "forget": (2, Storm.forget),
    "refuse": (2, Storm.refuse),
    "reject": (2, Storm.reject),
    "silence": (2, Storm.fall_silent),
    "idle timeout": (1, Storm.time_out),
    "restart": (1, Storm.restart),
    "crash": (1, Storm.crash),
}
