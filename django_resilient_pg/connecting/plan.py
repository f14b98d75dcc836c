"""What libpq is given for an attempt to connect: the parameters, and the time for each address."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from .. import deadlines
from ..conf.options import is_own
from ..conf.wanted import wanted
from ..driver.choose import libpq_version
from ..policy import parameters, places
from ..providers import CONNECT_TIMEOUT
from ..state.wrapper import Wrapper

if TYPE_CHECKING:
    from ..policy.rules import Budget

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
    added = parameters.additions(params, os.environ)
    if connector.connecting or db._pooled:  # else it is asked what the user has set
        added |= parameters.default_root(params, os.environ, libpq_version(db.Database))
    primary = db.resilience.options.primary
    attributes = parameters.session_attributes(params, os.environ)
    reach = wanted(db.alias, primary, attributes)
    if primary and not attributes:
        added["target_session_attrs"] = "primary"  # so that libpq goes through all hosts
    # Where a sleeping server must wake first, connecting may take longer than a statement.
    wake = max(0.0, float(str(added.get("connect_timeout", 0))) - CONNECT_TIMEOUT)
    settings = hash(repr(sorted((params | added).items())))
    connector.planned(reach, wake, settings, direct=parameters.direct_tls(params, os.environ))
    return _bounded(db, params | added)


def _bounded(db: Wrapper, params: dict[str, Any]) -> dict[str, Any]:
    """No attempt may outlast the budget: libpq takes whole seconds, for each address."""
    connector = db._connector
    asked = not connector.connecting and connector.budget is None  # nobody connects now
    # A pool's connections outlive the budget of whoever needs the pool first.
    if db._pooled or asked or "connect_timeout" not in params:
        return params
    # What is no number stays: the driver says so itself.
    with contextlib.suppress(TypeError, ValueError):
        configured = float(params["connect_timeout"])
        every = _places(db, params)
        if len(every) == 1:
            left = _seconds_for_one(connector.budget)
        else:
            left = _seconds_for_each(db, every, params)
        # psycopg cuts a fraction off, and takes less than 1 for no limit.
        if configured > left or configured < 1:
            params["connect_timeout"] = int(min(left, max(configured, 1)))
    return params


def _seconds_for_one(budget: Budget | None) -> float:
    """For an only address. The first attempt has no budget: it has what is configured."""
    seconds = deadlines.left(hard=True) if budget is None else budget.remaining()
    return max(1, math.ceil(seconds)) if math.isfinite(seconds) else math.inf


def _seconds_for_each(db: Wrapper, every: Sequence[places.Place], params: dict[str, Any]) -> float:
    """For each of several addresses: all of them together end in time.

    Where there is too little time for all of them a retry is made on some, the next one on others.
    The first attempt tries them all: it may be the only one.
    """
    from .budgets import deadline

    budget = db._connector.budget
    if budget is None:
        seconds = min(deadline(db), deadlines.left(hard=True))
        return max(places.LEAST, seconds // len(every)) if seconds else math.inf
    seconds = budget.remaining()
    number = max(1, min(len(every), int(seconds / places.LEAST)))
    if number < len(every):
        first = db.resilience.shared.probe.failures * number % len(every)
        params.update(places.only([*every[first:], *every[:first]][:number]))
    return max(places.LEAST, seconds // number)


def _places(db: Wrapper, params: dict[str, Any]) -> Sequence[places.Place]:
    """The addresses of an alias; names are resolved once a minute."""
    shared, now = db.resilience.shared_now(), monotonic()
    until, found = shared.places
    if now > until and math.isfinite(deadlines.left(hard=True)):
        # No deadline ends the resolution of a name here; it ends the attempt, in its own thread.
        return found or places.places(params, os.environ, resolve=lambda _: ())
    if now > until:
        found = places.places(params, os.environ)
        shared.places = now + _RESOLVED, found
    return found
