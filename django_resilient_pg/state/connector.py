"""What one wrapper knows about connecting, apart from any one connection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..conf.wanted import Wanted
    from ..driver.lost_sessions import LostSession
    from ..policy.places import Round
    from ..policy.rules import Budget


class Connector:
    """How one wrapper connects.

    Attributes:
        connecting: ``connect()`` is under way; what runs meanwhile is no work of the application's.
        lender: the pool that it takes its connection from, by Django's own methods.
        round: how the next attempt is made, where a driver cannot keep to the time for it.
        retrying: an outer call is trying already until the deadline.
        budget: what may be spent on reconnecting and retrying, while somebody spends of it.
        wanted: what the alias is to reach; ``None`` before the first connection.
        wake: seconds that a sleeping server may need beyond the ordinary ``connect_timeout``.
        settings: a hash of what it connects with, without what ``credentials`` returns.
        direct: TLS begins at once, which servers before PostgreSQL 17 do not understand.
        lost: sessions lost without a word of which it is not known what became of them, or that
            could not be ended.
        seeks_primary: no standby will do at present.
        thread_ends: this thread ends with its request, so no connection outlives that.
    """

    __slots__ = (
        "budget",
        "connecting",
        "direct",
        "lender",
        "lost",
        "retrying",
        "round",
        "seeks_primary",
        "settings",
        "thread_ends",
        "wake",
        "wanted",
    )

    def __init__(self) -> None:
        self.connecting = self.retrying = self.seeks_primary = self.thread_ends = False
        self.budget: Budget | None = None
        self.wanted: Wanted | None = None
        self.round: Round | None = None
        self.lender: Any = None
        self.wake = 0.0
        self.settings, self.direct = 0, False
        self.lost: list[LostSession] = []

    def connect(
        self,
        do: Callable[[], None],
        failed: Callable[[BaseException], object],
        lender: object = None,
    ) -> None:
        """Call what makes a connection; if it raises, ``failed``, as a part of it."""
        self.connecting, self.lender = True, lender
        try:
            do()
        except BaseException as error:
            failed(error)
            raise
        finally:
            self.connecting, self.lender = False, None

    def retry(self, do: Callable[[], None]) -> None:
        """Call what tries to connect until the deadline."""
        self.retrying = True
        try:
            do()
        finally:
            self.retrying = False

    @contextlib.contextmanager
    def spends(self, budget: Budget) -> Iterator[Budget]:
        """Within it everything is spent of this budget."""
        self.budget = budget
        try:
            yield budget
        finally:
            self.budget = None

    @contextlib.contextmanager
    def seeks(self, primary: bool) -> Iterator[None]:
        """Within it no standby will do, if ``primary``."""
        self.seeks_primary = primary
        try:
            yield
        finally:
            self.seeks_primary = False

    def has_lost(self, session: LostSession) -> None:
        """The next connection asks what became of it."""
        self.lost.append(session)

    def settled(self, kept: list[LostSession]) -> None:
        """Of these alone it is not known yet whether they still hold locks."""
        self.lost = kept

    def planned(self, wanted: Wanted, wake: float, settings: int, *, direct: bool) -> None:
        """What the settings say, read when the parameters for libpq were made."""
        self.wanted, self.wake, self.settings, self.direct = wanted, wake, settings, direct

    def bounded(self, round: Round | None) -> None:
        """How the next attempt is made; ``None``: the driver keeps to the time by itself."""
        self.round = round

    def in_thread(self, *, ends: bool) -> None:
        """Whether the thread that has connected ends with its request."""
        self.thread_ends = ends
