"""Connecting within a budget, and what follows a new connection."""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from django.db.utils import Error

from . import (
    contexts,
    forking,  # noqa: F401  registers itself
    keepalives,
    notes,
    roles,
    signals,
)
from .ageing import jittered
from .errors import CredentialsUnavailable
from .losses import judge_error
from .providers import CONNECT_TIMEOUT
from .resilience import gather_facts, logger
from .retry import Budget, backoff
from .retry import connect_again as attempt_again
from .units import UNIT
from .verdicts import Phase, Reason

if TYPE_CHECKING:
    from .mixins import ResilientDatabaseMixin


# A server that restarts or changes its role answers (if only "connection refused") and is back
# soon: within a second of that everything should go on. Seconds; the rest is for connecting.
_RETURNS: Final = 0.5
_RETURNING: Final = frozenset({Reason.RESTART, Reason.CRASH, Reason.FAILOVER})
# The verdict's rule for a password that is refused (see reasons.TABLE). Fresh credentials may have
# been asked for just before they were changed, or the place they come from lag a little behind the
# server: so long they are asked for again. Seconds.
_LOGIN_REFUSED: Final = "login refused"
_ROTATES: Final = 1.0


@contextlib.contextmanager
def spending(
    db: ResilientDatabaseMixin, already: float = 0.0, seconds: float | None = None
) -> Iterator[Budget]:
    """One budget for all that is waited for until the outermost user is done.

    ``already`` seconds were spent before; a budget under way has counted them itself. ``seconds``:
    of a new budget, instead of ``retry_deadline``.
    """
    if db._budget is not None:
        yield db._budget
        return
    left = (deadline(db) if seconds is None else seconds) - already
    unit = UNIT.get()
    db._budget = Budget(left if unit is None else min(left, unit.budget.remaining()))
    try:
        yield db._budget
    finally:
        db._budget = None


def deadline(db: ResilientDatabaseMixin) -> float:
    """Seconds for reconnecting: no less than a sleeping server needs to wake."""
    seconds = db.resilience.options.retry_deadline
    return max(seconds, db._wake + CONNECT_TIMEOUT) if db._wake else seconds


def complete(db: ResilientDatabaseMixin, params: dict[str, Any]) -> dict[str, Any]:
    """Add the libpq parameters the user did not set; keep each attempt within the budget.

    Raises:
        ImproperlyConfigured: an option is wrong; said before anything is sent.
    """
    params.pop("resilience", None)
    db.resilience.options  # noqa: B018  parsed, and so checked
    added = keepalives.additions(params, os.environ)
    primary = db.resilience.options.primary
    attributes = keepalives.session_attributes(params, os.environ)
    db._wanted = roles.wanted(db.alias, primary, attributes)
    if primary and not attributes:
        added["target_session_attrs"] = "primary"  # so that libpq goes through all hosts
    # Where a sleeping server must wake first, connecting may take longer than a statement.
    db._wake = max(0.0, float(str(added.get("connect_timeout", 0))) - CONNECT_TIMEOUT)
    return _bounded(db, params | added)


def _bounded(db: ResilientDatabaseMixin, params: dict[str, Any]) -> dict[str, Any]:
    """No single attempt may outlast the budget (libpq takes whole seconds)."""
    # A pool's connections outlive the budget of whoever needs the pool first.
    if db._budget is not None and "connect_timeout" in params and not db._pooled:
        left = max(1, math.ceil(db._budget.remaining()))
        configured = int(params["connect_timeout"])
        params["connect_timeout"] = min(configured, left) if configured > 0 else left
    return params


def pause(db: ResilientDatabaseMixin, failed: int, budget: Budget) -> None:
    """Wait before another round on a server that was there ``failed`` times, and gone again."""
    options = db.resilience.options
    most = max(options.backoff, min(options.max_backoff, _RETURNS))
    wait = backoff(failed, base=options.backoff, most=most, random=random.random)
    time.sleep(min(wait, budget.remaining()))


def connect_again(
    db: ResilientDatabaseMixin, error: Error, began: float, connect: Callable[[], None]
) -> None:
    """Try again after a first failure, if it may pass."""
    options = db.resilience.options
    longest = options.max_backoff

    def passing(failed: BaseException) -> bool:
        nonlocal longest
        if not isinstance(failed, Error) or getattr(failed.__cause__, "final", False):
            return False
        if isinstance(failed, CredentialsUnavailable):
            return failed.passing
        verdict = judge_error(None, failed, Phase.CONNECT)
        if verdict.rule == _LOGIN_REFUSED and options.credentials:
            return monotonic() - began < _ROTATES
        returning = verdict.reason in _RETURNING
        longest = options.max_backoff
        if returning:
            longest = max(options.backoff, min(longest, _RETURNS))
        return verdict.transient

    def announce(attempt: int, wait: float, failed: BaseException) -> None:
        line = str(failed).partition("\n")[0]
        db.resilience.shared.count("connect")
        record = signals.ConnectRetried(db.alias, attempt, wait, line)
        signals.connect_retried.send_robust(sender=type(db), connection=db, record=record)

    if not passing(error):
        raise error
    with spending(db, monotonic() - began) as budget:
        try:
            attempt_again(
                connect,
                error,
                passing=passing,
                wait=lambda attempt: backoff(
                    attempt,
                    base=options.backoff,
                    most=longest,
                    random=random.random,
                ),
                budget=budget,
                announce=announce,
            )
        except Error as last:
            waited = monotonic() - began
            if passing(last):
                last.add_note(notes.unreachable(db.alias, waited, deadline(db)))
            raise


def settle(db: ResilientDatabaseMixin) -> None:
    """After connecting: learn the facts once, then set how long this connection may live."""
    db._passing = contexts.watch(db)
    gather_facts(db)
    roles.require(db)
    resilience = db.resilience
    limits, options = resilience.limits, resilience.options
    db._quiet = min(limits.idle.seconds, options.ping_after)
    if db._pooled:
        db.pool.follow(db)
        return
    if limits.age is None or (db.close_at is None and math.isinf(limits.age)):
        return
    age = jittered(limits.age, options.age_jitter, random.random)
    db.close_at = monotonic() + age
    configured = db.settings_dict["CONN_MAX_AGE"]
    shared = resilience.shared
    if not shared.age_logged and (configured is None or configured > limits.age):
        shared.age_logged = True
        logger.info(
            'CONN_MAX_AGE of "%s" is %s; connections are kept for %s at most: %s.',
            db.alias,
            "unlimited" if configured is None else notes.seconds(configured),
            notes.seconds(limits.age),
            limits.age_source,
        )
