"""Breaks what a load runs on: terminates sessions of the application, restarts the server."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from testproject.witness import WITNESS

if TYPE_CHECKING:
    from testproject.postgres import Mode, Server

# A kill that is later than this part of the time between two is left out: those that were due while
# the server was down would come all at once when it is back, and hit one session again and again.
LATE = 0.5
LOOK = 0.005  # seconds between two looks at how far a load has come

# The witness counts what the load left behind: it is no part of the application.
KILL = """
    WITH sessions AS MATERIALIZED (
        SELECT pid FROM pg_stat_activity
        WHERE datname = %s AND usename = %s AND application_name <> %s
    )
    SELECT pg_terminate_backend((
        SELECT pid FROM sessions ORDER BY pid
        OFFSET floor(%s * (SELECT count(*) FROM sessions))::int LIMIT 1
    ))
"""


def schedule(
    kill_every: float | None, restarts: Sequence[tuple[float, Mode]]
) -> Iterator[tuple[float, Mode | None]]:
    """When something happens, and what: a restart in a mode, or ``None``: a kill."""
    kills = itertools.count(1) if kill_every else ()
    return heapq.merge(
        ((number * (kill_every or 0), None) for number in kills),
        sorted(restarts),
        key=lambda planned: planned[0],
    )


def timely(
    planned: Iterable[tuple[float, Mode | None]],
    elapsed: Callable[[], float],
    wait: Callable[[float], bool],
    late: float,
) -> Iterator[Mode | None]:
    """What is planned, each when its time has come, until ``wait`` says that it is over.

    ``elapsed``: how far it is since the start. ``wait(at)``: waits until then, and returns whether
    to stop. ``late``: a kill that is later is left out.
    """
    for at, mode in planned:
        if mode is None and at - elapsed() < -late:
            continue
        if wait(at):
            return
        yield mode


class Faults:
    """Faults in a thread and sessions of their own, from entering to leaving the context.

    ``kill_every``: seconds between two ``pg_terminate_backend`` of a random session of the
    application (``server.user``) in ``database``; ``None``: none. ``restarts``: pairs of seconds
    after the start and mode; the server then stays down for ``down`` seconds. With ``done`` set
    both are not seconds but what that returns, such as the operations of a load so far: on a busy
    machine an operation is then hit no more often than on an idle one. What goes wrong with the
    faults themselves is raised when the context is left.
    """

    def __init__(
        self,
        server: Server,
        database: str = "app",
        *,
        kill_every: float | None = 0.1,
        restarts: Sequence[tuple[float, Mode]] = (),
        down: float = 0.0,
        seed: int = 1,
        done: Callable[[], float] | None = None,
    ) -> None:
        self.server = server
        self.database = database
        self.done = done
        self.kills = 0
        self.restarts = 0
        self.returned: list[float] = []  # when (time.monotonic) a restarted server was back
        self._down = down
        self._late = (kill_every or 0.0) * LATE
        self._schedule = schedule(kill_every, restarts)
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)

    def __enter__(self) -> Faults:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """End; a restart under way is finished first."""
        self._stop.set()
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _run(self) -> None:
        self._began = time.monotonic()
        try:
            for mode in timely(self._schedule, self._elapsed, self._wait, self._late):
                if mode is None:
                    self._kill()
                else:
                    self._restart(mode)
        except Exception as error:  # raised again where the context is left
            self._error = error

    def _elapsed(self) -> float:
        return self.done() if self.done else time.monotonic() - self._began

    def _wait(self, at: float) -> bool:
        while (early := at - self._elapsed()) > 0:
            if self._stop.wait(LOOK if self.done else early):
                return True
        return self._stop.is_set()

    def _restart(self, mode: Mode) -> None:
        self.server.stop(mode)
        self._stop.wait(self._down)  # shorter when all is over: the server must be up again then
        self.server.start()
        self.returned.append(time.monotonic())
        self.restarts += 1

    def _kill(self) -> None:
        where = (self.database, self.server.user, WITNESS)
        ((hit,),) = self.server.execute(KILL, (*where, self._random.random()))
        self.kills += bool(hit)
