"""Connecting within a budget, and what follows a new connection."""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from django.db.utils import Error

from . import keepalives, notes, signals
from .ageing import jittered
from .losses import judge_error
from .providers import CONNECT_TIMEOUT
from .resilience import gather_facts, logger
from .retry import Budget, backoff
from .retry import connect_again as attempt_again
from .verdicts import Phase

if TYPE_CHECKING:
    from .mixins import ResilientDatabaseMixin


@contextlib.contextmanager
def spending(db: ResilientDatabaseMixin, already: float = 0.0) -> Iterator[Budget]:
    """One budget for all that is waited for until the outermost user is done.

    ``already`` seconds were spent before; a budget under way has counted them itself.
    """
    if db._budget is not None:
        yield db._budget
        return
    db._budget = Budget(deadline(db) - already)
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
    # Where a sleeping server must wake first, connecting may take longer than a statement.
    db._wake = max(0.0, float(str(added.get("connect_timeout", 0))) - CONNECT_TIMEOUT)
    return _bounded(db, params | added)


def _bounded(db: ResilientDatabaseMixin, params: dict[str, Any]) -> dict[str, Any]:
    """No single attempt may outlast the budget (libpq takes whole seconds)."""
    if db._budget is not None and "connect_timeout" in params:
        left = max(1, math.ceil(db._budget.remaining()))
        configured = int(params["connect_timeout"])
        params["connect_timeout"] = min(configured, left) if configured > 0 else left
    return params


def connect_again(
    db: ResilientDatabaseMixin, error: Error, began: float, connect: Callable[[], None]
) -> None:
    """Try again after a first failure, if it may pass."""
    options = db.resilience.options

    def passing(failed: BaseException) -> bool:
        return isinstance(failed, Error) and judge_error(None, failed, Phase.CONNECT).transient

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
                    most=options.max_backoff,
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
    gather_facts(db)
    resilience = db.resilience
    limits, options = resilience.limits, resilience.options
    db._quiet = min(limits.idle.seconds, options.ping_after)
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
