"""Whether a connection of a pool may be lent: alive, young enough, clean, passed by its check."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, cast

from .. import deadlines
from ..conf.records import Record
from ..driver.choose import link_to
from ..driver.link import Link
from ..driver.liveness import Vital, inspect
from ..driver.psycopg3 import Psycopg3Link
from ..facts import Path
from ..policy.limits import jittered
from ..recovery.announce_loss import announce_idle_loss
from ..state import announce
from ..state.wrapper import Wrapper


class Refusal(Record):
    """The last time that the user's own check refused a connection.

    Attributes:
        at: when (monotonic seconds).
        name: of the class of its error.
    """

    at: float
    name: str


class Fitness:
    """What is asked of the connections of one pool.

    Args:
        alias: of the pool.
        check: the user's own, from ``OPTIONS["pool"]``.

    Attributes:
        refusal: the check's last one.
    """

    def __init__(self, alias: str, check: Callable[[Any], object] | None) -> None:
        self._alias, self._check = alias, check
        self._silent_at = self._not_before = -math.inf
        self.refusal: Refusal | None = None

    def distrust(self) -> None:
        """What was made up to now is not lent any more."""
        self._not_before = monotonic()

    def holds_until(self, connection: Any, lifetime: float, jitter: float) -> float:
        """Until when what was found now may go without being asked (monotonic seconds)."""
        if self._check is not None:
            return -math.inf
        return float(connection.made_at + _lifetime_of(connection, lifetime, jitter))

    def allows(self, db: Wrapper, connection: Any, lifetime: float, *, quiet: bool) -> bool:
        """Whether to lend this connection. No round trip, unless it was idle for long.

        Args:
            db: the wrapper that wants one.
            connection: of the pool.
            lifetime: seconds that one may live, before jitter.
            quiet: others were lost for the same reason: their line is enough.
        """
        link, now = link_to(connection), monotonic()
        options, idle = db.resilience.options, now - link.heard_at
        # Also those that were made before the limits were known.
        old = now - connection.made_at > _lifetime_of(connection, lifetime, options.age_jitter)
        if old or connection.made_at <= self._not_before:
            return False
        looked = options.peek or idle > options.ping_after
        if looked and self._inspected(db, link, idle, quiet) is not Vital.ALIVE:
            return False
        if connection.lent and db._session.continues and not self._cleaned(db, link):
            return False
        return self._check is None or self._passes(db, connection, self._check)

    def _inspected(self, db: Wrapper, link: Link, idle: float, quiet: bool) -> Vital:
        resilience = db.resilience
        options, facts = resilience.options, resilience.facts
        # Where one of them has just not answered, those idle for as long are not waited for.
        suspect = link.heard_at < self._silent_at
        vital = inspect(
            link,
            idle=idle,
            idle_limit=resilience.limits.idle.seconds,
            ping_after=options.ping_after,
            ping_timeout=0.0 if suspect else deadlines.allowed(options.ping_timeout),
            path=Path.UNKNOWN if facts is None else facts.path,
            took=partial(resilience.shared.took, "liveness"),
        )
        if vital is Vital.LOST:
            if link.last_word is None and idle > options.ping_after:
                self._silent_at = monotonic()
            announce_idle_loss(db, link, idle, quiet=quiet)
        elif vital is Vital.ALIVE and idle > options.ping_after:
            link.heard_at = monotonic()
        return vital

    def _cleaned(self, db: Wrapper, link: Link) -> bool:
        """Make a used session like a new one, before it takes the place of a lost one.

        What others left on it would else turn up in the middle of a request, without any error.
        """
        connection = link.connection
        try:
            connection.autocommit = True  # in a transaction it is refused; Django sets it again
            connection.isolation_level = connection.read_only = connection.deferrable = None
            if cast(Psycopg3Link, link).keeps_prepared():
                why = "its driver would not forget prepared statements"
            else:
                link.ask("DISCARD ALL")
                db._configure_connection(connection)
                return True
        except connection.Error as error:
            why = type(error).__name__
        text = 'Closed a pooled connection of "%s" that could not be cleaned: %s.'
        announce.log(db, logging.DEBUG, text, self._alias, why)
        return False

    def _passes(self, db: Wrapper, connection: Any, check: Callable[[Any], object]) -> bool:
        """The user's own check; no error of it is raised, as in psycopg_pool."""
        try:
            check(connection)
        except Exception as error:
            name = type(error).__name__
            connection.refused, self.refusal = True, Refusal(monotonic(), name)
            text = 'Closed a pooled connection of "%s" that failed its check: %s.'
            announce.log(db, logging.INFO, text, self._alias, name)
            return False
        return True


def _lifetime_of(connection: Any, lifetime: float, jitter: float) -> float:
    return jittered(lifetime, jitter, lambda: float(connection.luck))
