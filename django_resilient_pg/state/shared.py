"""What ``connection.resilience`` is, and what all connections of an alias share in a process."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from ..conf.options import Options, given, of_entry, parse
from ..conf.records import Record
from ..policy.circuit_breaker import CircuitBreaker
from ..policy.limits import Kept, Learned, Limits, limits

if TYPE_CHECKING:
    from typing import Protocol

    from ..facts import Facts
    from ..policy.places import Place
    from ..signals import ConnectionLost
    from .histogram import Histogram, Timings
    from .logins import Logins

    class _Wrapper(Protocol):
        """As much of a wrapper as is needed here."""

        alias: str
        settings_dict: dict[str, Any]

        @property
        def _pooled(self) -> bool: ...

        @property
        def _thread_ends(self) -> bool: ...


logger = logging.getLogger("django_resilient_pg")
# Seconds between two searches for a server that takes writes, of all threads.
_SEEKING: Final = 1.0
# Lost connections that are remembered.
_REMEMBERED: Final = 16


class Stats(Record):
    """Counts since the process started, for one alias.

    Attributes:
        lost: connections lost, by the name of the reason.
        healed: lost connections that the application did not notice.
        surfaced: lost connections that reached the application, as the error of a statement or of a
            COMMIT. Each lost connection is either healed or surfaced once its outcome is known.
        replaced: connections replaced, after losses and for idle limits.
        retried: retries by unit: "statement", "transaction" (``retry_atomic``), "request".
        statement_retries: statements retried, by the row of the guarantees that allowed the retry.
        commit_outcomes_asked: lost COMMITs whose outcome the server was asked for.
        commit_outcomes: lost COMMITs by outcome: "committed", "aborted", "unknown".
        connect_attempts: attempts to make a physical connection.
        connect_retries: attempts to connect that failed and were retried.
        reconnects: how long replacing a connection took.
        liveness_checks: how long liveness checks took. The peek of the healthy path is not timed.
        last_losses: the last lost connections whose outcome is known, the newest last.
        refused: the former name of ``surfaced``.
    """

    lost: Mapping[str, int]
    healed: int
    surfaced: int
    replaced: int
    retried: Mapping[str, int]
    statement_retries: Mapping[str, int]
    commit_outcomes_asked: int
    commit_outcomes: Mapping[str, int]
    connect_attempts: int
    connect_retries: int
    reconnects: Timings
    liveness_checks: Timings
    last_losses: tuple[ConnectionLost, ...]
    refused: int


class Shared:
    """What the connections of one alias to one database have in common in this process."""

    def __init__(self) -> None:
        self.facts: Facts | None = None
        self.learned = Learned()
        self.breaker = CircuitBreaker()
        #: Its addresses, and until when they hold (monotonic seconds).
        self.places: tuple[float, Sequence[Place]] = (-math.inf, ())
        #: What it last connected with (``Connector.settings``); ``None``: it never has.
        self.connected: int | None = None
        self.age_logged = False
        self._sought_at = -math.inf
        self._counts: Counter[tuple[str, str]] = Counter()
        self._timings: dict[str, Histogram] = {}
        self._losses: deque[ConnectionLost] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    @cached_property
    def logins(self) -> Logins:
        """The last login that was refused; of two that two threads make at once one is used."""
        from .logins import Logins

        return Logins()

    def renew_lock(self) -> None:
        """After a fork: a thread that is not here any more may hold it."""
        self._lock = threading.Lock()
        self.learned.renew_lock()

    def may_seek(self, now: float) -> bool:
        """Whether to look for a server that takes writes: once a second while there is none."""
        return now - self._sought_at >= _SEEKING

    def sought_in_vain(self, now: float) -> None:
        """No server takes writes."""
        self._sought_at = now

    def count(self, what: str, detail: str = "", *, by: int = 1) -> None:
        """One more of what :class:`Stats` counts."""
        with self._lock:
            self._counts[what, detail] += by

    def took(self, what: str, seconds: float) -> None:
        """One more duration: of a "reconnect" or of a "liveness" check."""
        try:
            from .histogram import Histogram
        except OSError:  # no file descriptor is left to import it: one that is not counted
            return
        with self._lock:
            if what not in self._timings:
                self._timings[what] = Histogram()
            self._timings[what].add(seconds)

    def settled(self, record: ConnectionLost) -> None:
        """The outcome of a lost connection is known."""
        with self._lock:
            self._counts["healed" if record.healed else "surfaced", ""] += 1
            self._losses.append(record)

    def crashed(self, counted: str) -> None:
        """A loss that was counted by another reason was the server's crash."""
        from ..policy.verdicts import Reason

        with self._lock:
            self._counts["lost", counted] -= 1
            self._counts["lost", Reason.CRASH.name] += 1

    def stats(self) -> Stats:
        """The counts as they are now."""
        from .histogram import Histogram

        with self._lock:
            counts = self._counts.copy()
            none = Histogram()
            reconnects, checks = (
                self._timings.get(what, none).timings() for what in ("reconnect", "liveness")
            )
            losses = tuple(self._losses)

        def by_detail(what: str) -> Mapping[str, int]:
            return MappingProxyType({d: n for (w, d), n in counts.items() if w == what and n})

        return Stats(
            lost=by_detail("lost"),
            healed=counts["healed", ""],
            surfaced=counts["surfaced", ""],
            replaced=counts["replaced", ""],
            retried=by_detail("retried"),
            statement_retries=by_detail("statement"),
            commit_outcomes_asked=counts["asked", ""],
            commit_outcomes=by_detail("outcome"),
            connect_attempts=counts["attempt", ""],
            connect_retries=counts["connect", ""],
            reconnects=reconnects,
            liveness_checks=checks,
            last_losses=losses,
            refused=counts["surfaced", ""],
        )


class Terms(Record):
    """On what a pool lends its connections at present, judged once for all of them.

    They are kept with the connection (``Link.terms``), which is then lent again as it is for as
    long as they hold: until the server's facts are others, or something was learned.

    Attributes:
        shared: what the alias and database have in common.
        facts: of ``shared``, from which they were made.
        options: of the alias.
        quiet: seconds idle after which a peek is not enough.
    """

    shared: Shared
    facts: Facts
    options: Options
    quiet: float


_PLACE: Final = ("HOST", "PORT", "NAME", "USER")

_shared: dict[tuple[str, ...], Shared] = {}
_shared_lock = threading.Lock()


def shared_by(alias: str, settings: Mapping[str, Any]) -> Shared:
    """The one :class:`Shared` of an alias; another server or database is another one."""
    key = (alias, *(str(settings.get(name, "")) for name in _PLACE))
    with _shared_lock:
        found = _shared.get(key)
        if found is None:
            found = _shared[key] = Shared()
        return found


def renew_locks() -> None:
    """After a fork, in the child."""
    global _shared_lock
    _shared_lock = threading.Lock()
    for shared in _shared.values():
        shared.renew_lock()


class Resilience:
    """What the engine knows about one connection. Read-only.

    Reading ``options`` raises ImproperlyConfigured when they are wrong; nothing connects.
    """

    def __init__(self, wrapper: _Wrapper) -> None:
        self._wrapper = wrapper
        # Looked up anew when a connection is made, not for each use.
        self._shared: Shared | None = None
        self._place: tuple[object, ...] = ()
        self._options: Options | None = None
        #: Of the pool that this wrapper last had a connection from.
        self.terms: Terms | None = None
        self._limits: Limits | None = None
        self._limits_for: tuple[Facts | None, float | None, float | None, Kept] | None = None

    @property
    def shared(self) -> Shared:
        """What all connections of this alias share in this process."""
        return self._shared or self.shared_now()

    def shared_now(self) -> Shared:
        """The same, of the server and database that the settings name by now (the tests' own)."""
        settings = self._wrapper.settings_dict
        place = tuple(map(settings.get, _PLACE))
        if self._shared is None or place != self._place:
            self._shared, self._place = shared_by(self._wrapper.alias, settings), place
        return self._shared

    @property
    def options(self) -> Options:
        """``OPTIONS["resilience"]``, checked. Parsed at first use, not at import."""
        if self._options is None:
            alias = self._wrapper.alias
            entry = of_entry(alias, self._wrapper.settings_dict)
            self._options = parse(alias, given(alias, entry))
        return self._options

    @property
    def facts(self) -> Facts | None:
        """What server and socket said at this process's first connection; ``None`` before."""
        return self.shared.facts

    @property
    def limits(self) -> Limits:
        """How long this alias' connections may live and stay idle, and why."""
        shared = self.shared
        max_age = self._wrapper.settings_dict["CONN_MAX_AGE"]
        kept = Kept.NOT_AT_ALL if self._wrapper._thread_ends else Kept.BY_THREAD
        if self._wrapper._pooled:
            kept = Kept.IN_POOL
        basis = (shared.facts, shared.learned.value(), max_age, kept)
        if self._limits is None or self._limits_for != basis:
            self._limits = limits(self.options, *basis)
            self._limits_for = basis
        return self._limits

    @property
    def stats(self) -> Stats:
        """Counts since the process started, for this alias."""
        return self.shared.stats()
