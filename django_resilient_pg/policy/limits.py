"""How long a connection may live and stay idle, and where each number comes from. Pure.

The idle limit is ``idle_margin`` times the shortest idle timeout known; ``CONN_MAX_AGE`` is
clamped to it. Nothing known: no limit.
"""

from __future__ import annotations

import enum
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from ..conf.options import Options
from ..conf.records import Record
from ..facts import Facts, Path

NOTHING_KNOWN: Final = "no idle timeout is known"

# Without keepalives the devices that cannot be seen count with the shortest of their usual
# timeouts: 240 s (Azure's load balancer, NAT gateway and firewall).
_UNSEEN_DEVICES: Final = 240.0
# Part of a provider's maximum lifetime that a connection may reach: the rest is for its last use.
_LIFETIME_MARGIN: Final = 0.9
# Seconds. What is learned says nothing of times that are shorter than this, and holds for so long:
# the path may be another one by then.
_SHORTEST: Final = 0.5
_FORGOTTEN_AFTER: Final = 3600.0


class Kept(enum.Enum):
    """What keeps the connections of an alias between two units of work."""

    BY_THREAD = "by the thread that made it"
    IN_POOL = "in a pool"
    #: Each request has a thread of its own (ASGI), so nothing would ever use it again.
    NOT_AT_ALL = "not at all"


class Limit(Record):
    """A number of seconds and where it comes from.

    Attributes:
        seconds: ``math.inf`` is none.
        source: part of a sentence, with the number before any margin:
            "idle_session_timeout of the server (3 s)".
    """

    seconds: float
    source: str


class Limits(Record):
    """What the connections of one alias may do.

    Attributes:
        idle: seconds without use after which one is replaced before use; the margin is in it.
        age: seconds after which one is closed, before jitter: the effective ``CONN_MAX_AGE``.
            ``None``: unlimited.
        age_source: where ``age`` comes from.
        ping_after: seconds idle after which a peek alone is not trusted.
    """

    idle: Limit
    age: float | None
    age_source: str
    ping_after: float


class Suspected(Record):
    """A connection was found dead without a word, for which nobody knows the cause yet.

    Attributes:
        idle: seconds that it was not used.
        heard_at: when the server was last heard on it (monotonic seconds).
    """

    idle: float
    heard_at: float


class Learned:
    """The shortest time after which an idle connection of one alias was found dead.

    It counts for an hour, and until a connection has outlived it. Thread safe. The caller leaves
    out those whose end was announced (administrator, restart, crash): these say nothing about idle
    time.

    Args:
        clock: monotonic seconds.

    Attributes:
        shortest: that time, which may have been forgotten by now; see :meth:`value`.
        suspicion: what :meth:`suspected` would return.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self.shortest: float | None = None
        self._since: float  # when shortest was found
        self.suspicion: Suspected | None = None

    def renew_lock(self) -> None:
        """After a fork: a thread that is not here any more may hold it."""
        self._lock = threading.Lock()

    def note(self, idle: float) -> None:
        """A connection was terminated after ``idle`` seconds without use."""
        idle = max(idle, _SHORTEST)
        with self._lock:
            known = self.value()
            if known is None or idle < known:
                self.shortest, self._since = idle, self._clock()

    def suspect(self, found: Suspected) -> None:
        """One was found dead without a word: to be noted if the server has not been restarted."""
        with self._lock:
            self.suspicion = found

    def suspected(self) -> Suspected | None:
        """Return what was suspected last, once."""
        if self.suspicion is None:
            return None
        with self._lock:
            found, self.suspicion = self.suspicion, None
            return found

    def outlived(self, idle: float) -> None:
        """A connection was found alive after ``idle`` seconds without use."""
        with self._lock:
            if self.shortest is not None and idle > self.shortest:
                self.shortest = None

    def value(self) -> float | None:
        """Return that time in seconds; ``None``: none was found dead."""
        shortest = self.shortest
        if shortest is None or self._clock() - self._since > _FORGOTTEN_AFTER:
            return None
        return shortest


def limits(
    options: Options,
    facts: Facts | None,
    learned: float | None,
    conn_max_age: float | None,
    kept: Kept = Kept.BY_THREAD,
) -> Limits:
    """Return the limits.

    Args:
        options: of the alias.
        facts: of its server and path; ``None`` before the first connection.
        learned: :meth:`Learned.value`.
        conn_max_age: the setting, in seconds; ``None`` is unlimited. A pool has none.
        kept: what keeps connections between two units of work.
    """
    # min() keeps the first of equals: what the user said himself before what was found out.
    shortest = min(
        _idle_timeouts(options, facts, learned),
        key=lambda limit: limit.seconds,
        default=Limit(math.inf, NOTHING_KNOWN),
    )
    idle = Limit(shortest.seconds * options.idle_margin, shortest.source)
    age = min(_ages(idle, facts, conn_max_age, kept), key=lambda limit: limit.seconds)
    return Limits(
        idle=idle,
        age=None if math.isinf(age.seconds) else age.seconds,
        age_source=age.source,
        ping_after=options.ping_after,
    )


def jittered(age: float, jitter: float, random: Callable[[], float]) -> float:
    """Return an age in seconds shortened by up to the part ``jitter`` of it.

    ``random`` returns numbers from 0 up to 1.
    """
    return age if math.isinf(age) else age * (1 - jitter * random())


def _ages(
    idle: Limit, facts: Facts | None, conn_max_age: float | None, kept: Kept
) -> Iterator[Limit]:
    """Yield everything that bounds a connection's age."""
    if kept is Kept.IN_POOL:
        # Idle time is looked at when one is taken: a busy one need not be replaced for it.
        yield Limit(math.inf, "the pool")
    elif kept is Kept.NOT_AT_ALL:
        yield Limit(0.0, "ASGI, where each request has a thread of its own; a pool keeps them")
    else:
        yield Limit(math.inf if conn_max_age is None else conn_max_age, "CONN_MAX_AGE")
        yield idle
    provider = facts.provider if facts is not None else None
    if provider is not None and provider.max_lifetime is not None:
        text = f"maximum lifetime of a connection at {provider.name} ({provider.max_lifetime:g} s)"
        yield Limit(provider.max_lifetime * _LIFETIME_MARGIN, text)


def _idle_timeouts(options: Options, facts: Facts | None, learned: float | None) -> Iterator[Limit]:
    """Yield every idle timeout known to apply, before the margin."""
    if options.idle_timeout is not None:
        yield Limit(options.idle_timeout, f"the option idle_timeout ({options.idle_timeout:g} s)")
    if facts is not None:
        yield from _found_out(facts)
    if learned is not None:
        yield Limit(learned, f"a connection found dead after {learned:.3g} s without use")


def _found_out(facts: Facts) -> Iterator[Limit]:
    """Yield the idle timeouts of the server and of what lies before it."""
    server, provider = facts.idle_session_timeout, facts.provider
    if server is not None:
        yield Limit(server, f"idle_session_timeout of the server ({server:g} s)")
    if provider is not None and provider.idle_timeout is not None:
        seconds = provider.idle_timeout
        if not (provider.keepalives_help and _kept_alive(facts, seconds)):
            yield Limit(seconds, f"the idle timeout of {provider.name} ({seconds:g} s)")
    if not (_local(facts) or _kept_alive(facts, _UNSEEN_DEVICES)):
        text = f"NAT and firewalls forget what has no keepalives ({_UNSEEN_DEVICES:g} s)"
        yield Limit(_UNSEEN_DEVICES, text)


def _kept_alive(facts: Facts, timeout: float) -> bool:
    """Whether keepalives pass at shorter intervals than ``timeout`` seconds.

    The server's own count too, where nothing ends its TCP connection before ours.
    """
    own = facts.socket.keepalives
    if own is not None and own.keepalives and 0 < (own.keepalives_idle or 0) < timeout:
        return True
    theirs = facts.tcp_keepalives_idle
    end_to_end = facts.path in {Path.DIRECT, Path.VIRTUAL_IP}
    return end_to_end and theirs is not None and theirs < timeout


def _local(facts: Facts) -> bool:
    """Whether no device can be between: a Unix socket, or both ends have one address."""
    link = facts.socket
    if link.unix:
        return True
    return link.local is not None and link.peer is not None and link.local[0] == link.peer[0]
