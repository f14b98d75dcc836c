"""The buttons: what each does to the database or to the path there, and for how long."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from testproject import guard
from testproject.lab.world import World

PATIENCE = 20.0


@contextmanager
def sessions_ended(world: World) -> Iterator[None]:
    """An administrator terminates all sessions."""
    world.primary.terminate(*world.backends())
    yield


@contextmanager
def idle_timeout(world: World) -> Iterator[None]:
    """The server terminates sessions that are idle for 3 s."""
    world.primary.configure(idle_session_timeout="3s")
    yield
    world.primary.configure(idle_session_timeout=None)


@contextmanager
def restarted(world: World) -> Iterator[None]:
    """The server stops, and starts again."""
    world.primary.stop("fast")
    yield
    world.primary.start()


@contextmanager
def crashed(world: World) -> Iterator[None]:
    """A process of the server is killed; the server ends all sessions and recovers."""
    victim = world.backends()[0]
    guard.send(victim, signal.SIGKILL)
    guard.wait_gone([victim], PATIENCE)
    yield
    world.primary.wait_recovered()


@contextmanager
def failed_over(world: World) -> Iterator[None]:
    """The primary crashes, the standby takes over."""
    world.fail_over()
    yield


@contextmanager
def path_dropped(world: World) -> Iterator[None]:
    """Both paths forget their connections; later they answer with a reset."""
    for proxy in world.proxies.values():
        proxy.drop()
    yield
    for proxy in world.proxies.values():
        proxy.let_go()


@contextmanager
def refused(world: World) -> Iterator[None]:
    """All connections are cut, and nobody listens."""
    with ExitStack() as stack:
        for proxy in world.proxies.values():
            stack.enter_context(proxy.down())
        yield


@contextmanager
def commit_lost(world: World) -> Iterator[None]:
    """The next COMMIT of each application takes effect; the answer is lost."""
    for proxy in world.proxies.values():
        proxy.cut_at(1, "answer", containing=b"COMMIT")
    deadline = time.monotonic() + PATIENCE
    while any(proxy.messages_left for proxy in world.proxies.values()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no order was committed within {PATIENCE:g} s")
        time.sleep(0.05)
    yield


@dataclass(frozen=True, slots=True)
class Fault:
    """One button.

    ``about``: what it does. ``sentence``: what there is to be seen. ``mark``: the name beside its
    line in the charts. ``seconds``: how long it lasts. ``after``: what to put right in the end.
    """

    name: str
    group: str
    label: str
    mark: str
    about: str
    sentence: str
    act: Callable[[World], AbstractContextManager[None]]
    seconds: float = 0.0
    after: Callable[[World], None] | None = None


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "sessions",
            "Sessions",
            "End all sessions",
            "sessions",
            "pg_terminate_backend() for every connection",
            "Every session was terminated: requests that were using one fail on Django's "
            "engine, and are retried on this one.",
            sessions_ended,
        ),
        Fault(
            "idle",
            "Sessions",
            "Idle timeout of 3 s",
            "idle timeout",
            "idle_session_timeout, for 10 s",
            "Sessions that are idle for 3 s are terminated: checkouts that wait for a payment "
            "fail on Django’s engine; this one checks its connection first.",
            idle_timeout,
            seconds=10.0,
        ),
        Fault(
            "restart",
            "Server",
            "Restart",
            "restart",
            "A fast shutdown, back after 2 s",
            "The server restarts: on Django’s engine requests fail until it is back, on this "
            "one they wait and are then answered.",
            restarted,
            seconds=2.0,
        ),
        Fault(
            "crash",
            "Server",
            "Crash",
            "crash",
            "kill -9 of one server process",
            "A server process was killed, and PostgreSQL recovers: on Django’s engine requests "
            "fail meanwhile, on this one they wait.",
            crashed,
        ),
        Fault(
            "failover",
            "Server",
            "Fail over to the standby",
            "failover",
            "The primary crashes, the standby is promoted",
            "The primary crashed, and the standby takes over: on Django’s engine requests fail "
            "until then, on this one they wait.",
            failed_over,
            after=World.add_standby,
        ),
        Fault(
            "silence",
            "Path",
            "Drop the path silently",
            "silent drop",
            "No packet passes, nobody is told, for 10 s",
            "The path loses every packet of the open connections: Django’s engine waits for "
            "answers that never come; this one notices, and reconnects.",
            path_dropped,
            seconds=10.0,
        ),
        Fault(
            "refuse",
            "Path",
            "Refuse connections",
            "refused",
            "Connections are cut, nobody listens for 4 s",
            "Nobody listens at the database’s address: on Django’s engine requests fail at "
            "once, on this one they wait.",
            refused,
            seconds=4.0,
        ),
        Fault(
            "commit",
            "Path",
            "Lose a COMMIT",
            "COMMIT lost",
            "It takes effect, the answer is lost",
            "An order was saved, but the answer to its COMMIT was lost: on Django’s engine the "
            "shopper sees an error and orders twice; this one asks the server.",
            commit_lost,
        ),
    )
}
