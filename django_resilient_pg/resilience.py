"""What ``connection.resilience`` is, and what all connections of an alias share in a process."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from .ageing import Kept, Learned, Limits, limits
from .facts import Facts
from .logins import Logins
from .options import Options, given, of_entry, parse
from .probing import Probe
from .records import Record
from .verdicts import Reason

logger = logging.getLogger("django_resilient_pg")
# Seconds between two looks for a server that takes writes, of all threads.
_SEEKING: Final = 1.0


class Stats(Record):
    """Counts since the process started, for one alias.

    Attributes:
        lost: connections lost, by the name of the reason.
        replaced: connections replaced, losses and idle limits alike.
        connect_retries: connection attempts made again.
        statement_retries: statements run again, by the row of the promise that allowed it.
        refused: losses that reached the application, as the error of a statement or of a COMMIT.
    """

    lost: Mapping[str, int]
    replaced: int
    connect_retries: int
    statement_retries: Mapping[str, int]
    refused: int


class Shared:
    """What the connections of one alias to one database have in common in this process."""

    def __init__(self) -> None:
        self.facts: Facts | None = None
        self.learned = Learned()
        self.probe = Probe()
        #: What it last connected with (``Connector.settings``); ``None``: it never has.
        self.connected: int | None = None
        self.logins = Logins()
        self.age_logged = False
        self._sought_at = -math.inf
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

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

    def count(self, what: str, detail: str = "") -> None:
        """One more of what :class:`Stats` counts."""
        with self._lock:
            self._counts[what, detail] += 1

    def crashed(self, counted: str) -> None:
        """A loss that was counted by another reason was the server's crash."""
        with self._lock:
            self._counts["lost", counted] -= 1
            self._counts["lost", Reason.CRASH.name] += 1

    def stats(self) -> Stats:
        """The counts as they are now."""
        with self._lock:
            counts = dict(self._counts)

        def by_detail(what: str) -> Mapping[str, int]:
            return MappingProxyType({d: n for (w, d), n in counts.items() if w == what and n})

        return Stats(
            lost=by_detail("lost"),
            replaced=counts.get(("replaced", ""), 0),
            connect_retries=counts.get(("connect", ""), 0),
            statement_retries=by_detail("statement"),
            refused=counts.get(("refused", ""), 0),
        )


class Terms(NamedTuple):
    """On what a pool lends its connections at present, judged once for all of them.

    They are kept with the connection (:attr:`.drivers.Link.terms`), which is then lent again as it
    is for as long as they hold: until the server's facts are others, or something was learned.

    Attributes:
        shared: what the alias and database have in common.
        facts: of ``shared``, from which they were made.
        options: of the alias.
        quiet: seconds idle after which a look is not enough.
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


class _Wrapper(Protocol):
    """As much of a wrapper as is needed here."""

    alias: str
    settings_dict: dict[str, Any]

    @property
    def _pooled(self) -> bool: ...

    @property
    def _thread_ends(self) -> bool: ...


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
