"""What libpq is given for an attempt to connect: the parameters, and the time for each address."""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from .. import deadlines
from ..conf.options import is_own
from ..conf.wanted import wanted
from ..driver.choose import libpq_version
from ..policy import parameters, places
from ..policy.lookup import Lookup
from ..providers import CONNECT_TIMEOUT
from ..state.wrapper import Wrapper

# Seconds after which host names are resolved anew.
_RESOLVED: Final = 60.0


def complete(db: Wrapper, params: dict[str, Any]) -> dict[str, Any]:
    """Add the libpq parameters the user did not set; keep each attempt within the budget.

    Raises:
        ImproperlyConfigured: an option is wrong; said before anything is sent.
    """
    for key in list(filter(is_own, params)):
        del params[key]
    connector = db._connector
    unused = connector.connecting and db._pooled and db.alias in db._connection_pools
    if unused and connector.wanted is not None:
        # Asked for every request: the pool has them. Who else asks (the diagnosis) gets them all.
        return params
    db.resilience.options  # noqa: B018  parsed, and so checked
    given = Lookup(params, os.environ)
    added = parameters.additions(given)
    if connector.connecting or db._pooled:  # else it is asked what the user has set
        added |= parameters.default_root(given, libpq_version(db.Database))
    primary = db.resilience.options.primary
    attributes = given.text("target_session_attrs")
    reach = wanted(db.alias, primary, attributes)
    if primary and not attributes:
        added["target_session_attrs"] = "primary"  # so that libpq goes through all hosts
    # Where a sleeping server must wake first, connecting may take longer than a statement.
    wake = max(0.0, float(str(added.get("connect_timeout", 0))) - CONNECT_TIMEOUT)
    settings = hash(repr(sorted((params | added).items())))
    # TLS begins at once, without asking the server for it (PostgreSQL 17).
    connector.planned(reach, wake, settings, direct=given.text("sslnegotiation") == "direct")
    return _bounded(db, given, params | added, own="connect_timeout" in added)


def _bounded(db: Wrapper, given: Lookup, params: dict[str, Any], *, own: bool) -> dict[str, Any]:
    """No attempt may outlast the budget: libpq takes whole seconds, for each address.

    Where those are too many the attempt is made by :mod:`.in_turn`.
    """
    connector = db._connector
    connector.bounded(None)
    asked = not connector.connecting and connector.budget is None  # nobody connects now
    # A pool's connections outlive the budget of whoever needs the pool first.
    if db._pooled or asked or "connect_timeout" not in params:
        return params
    # What is no number stays: the driver says so itself.
    with contextlib.suppress(TypeError, ValueError):
        configured = float(params["connect_timeout"])
        every = _places(db, given)
        left = _seconds(db, first=own or len(every) > 1)
        # psycopg cuts a fraction off, and takes less than 1 for no limit.
        whole = max(places.LEAST, left // len(every)) if math.isfinite(left) else left
        if configured > whole or configured < 1:
            params["connect_timeout"] = int(min(whole, max(configured, 1)))
        if min(max(configured, places.LEAST), whole) * len(every) > left:
            connector.bounded(places.Round(_in_turn(every, given), left))
    return params


def _seconds(db: Wrapper, *, first: bool) -> float:
    """For an attempt, on all its addresses.

    The first one has no budget: it has what is configured for an only address (``first=False``),
    otherwise ``retry_deadline``, which ends no attempt before a driver would.
    """
    from .budgets import deadline

    budget = db._connector.budget
    if budget is not None:
        return max(deadlines.LEAST, budget.remaining())
    seconds = deadline(db) if first else 0.0
    most = max(seconds, places.LEAST) if seconds else math.inf
    return min(most, max(deadlines.LEAST, deadlines.left(hard=True)))


def _in_turn(every: Sequence[places.Place], given: Lookup) -> Sequence[places.Place]:
    """The addresses to try one by one, in libpq's order."""
    # The second needs all of them at once.
    if len(every) == 1 or given.text("target_session_attrs") == "prefer-standby":
        return ()
    balanced = given.text("load_balance_hosts") == "random"
    return random.sample(every, len(every)) if balanced else every


def _places(db: Wrapper, given: Lookup) -> Sequence[places.Place]:
    """The addresses of an alias; names are resolved once a minute."""
    shared, now = db.resilience.shared_now(), monotonic()
    until, found = shared.places
    if now > until and math.isfinite(deadlines.left(hard=True)):
        # No deadline ends the resolution of a name here; it ends the attempt, in its own thread.
        return found or places.places(given, resolve=lambda _: ())
    if now > until:
        found = places.places(given)
        shared.places = now + _RESOLVED, found
    return found
