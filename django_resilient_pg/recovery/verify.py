"""Checking a connection that is in doubt, and announcing what was found.

Off the healthy path: something has arrived on the socket, the connection was idle for long, or an
error came out of a statement.
"""

from __future__ import annotations

import math
from functools import partial
from time import monotonic
from typing import Any

from django.db.utils import Error

from .. import deadlines
from ..connecting.replace import lost_error, replace, restore_opening
from ..driver.exceptions import judge_error, reason_of
from ..driver.link import IDLE, UNKNOWN, Link
from ..driver.liveness import Vital, inspect
from ..facts import Path
from ..policy import messages
from ..policy.verdicts import Phase, Reason
from ..state import announce
from ..state.collecting import collecting
from ..state.loss import PIPELINE, Invalidation, Loss
from ..state.transaction import MANUAL
from ..state.wrapper import Wrapper
from .announce_loss import announce_idle_loss, announce_loss, announce_refusal


@collecting()
def verify(db: Wrapper, status: int, now: float, asking: Any = None) -> None:
    """Something arrived, or the connection was idle for long, or it is in no state to use.

    ``asking``: the cursor wrapper that is about to send a statement, if any.
    """
    if _left_lost_pipeline(db):
        db._discard()
        return
    if (error := lost_error(db)) is not None:
        db.errors_occurred = True
        raise error
    link, transaction = db._link, db._transaction
    if link is not None:
        db._observe(link)
    if link is None or db.closed_in_transaction or status not in {IDLE, UNKNOWN}:
        return
    # The threads that share a connection must not replace it under one another; nor may what runs
    # while connecting replace what is being set up.
    if db._connector.connecting or db._thread_sharing_count or (status == IDLE and link.busy()):
        return
    vital = inspect_connection(db, now)
    if vital is Vital.ALIVE and link.left:
        _close_left(db, link)
        vital = Vital.LOST if link.lost() else vital
    if vital is Vital.ALIVE:
        link.seen(now)
        return
    idle = now - link.heard_at
    reason = reason_of(link) if vital is Vital.LOST else None
    # After an end that the driver has seen nothing of it is missing.
    begun = transaction.begun and status != IDLE
    if begun or (pinned_by := _pinned_by(db, link)):
        pinned_by = "" if begun else pinned_by
        loss = Loss(reason or Reason.UNKNOWN, idle, incident=link.incident)
        db._invalidate(Invalidation(loss, pinned_by))
        announce.surfaced(db, link.incident, messages.why_invalid(pinned_by))
        verify(db, status, now)
    if transaction.opening:
        _replace_with_opening(db, reason, idle, asking)
    else:
        replace(db, reason, idle, asking)


def _close_left(db: Wrapper, link: Link) -> None:
    options = db.resilience.options
    link.lend(peeks=options.peek, asks_outcome=options.commit_outcome)  # peeks as before
    link.close_left()
    if link.lost():
        announce_idle_loss(db, link, monotonic() - link.heard_at, learns=False)


def _replace_with_opening(db: Wrapper, reason: Reason | None, idle: float, asking: Any) -> None:
    """Replace a connection, and again if the next one is lost while it is given the opening.

    Raises:
        Error: how it was lost the last time, with a note.
    """
    from ..connecting.budgets import pause, spending

    opening, retries = list(db._transaction.opening), db.resilience.options.read_retries
    with spending(db) as budget:
        for attempt in range(1 + retries):
            if attempt > 1:
                pause(db, attempt, budget)  # as in recovery: at once the first time
            replace(db, reason, idle, asking)
            try:
                restore_opening(db, opening)
                return
            except Error as error:
                verdict = judge_error(db._link, error, Phase.STATEMENT)
                if not verdict.lost:
                    raise
                loss = announce_loss(db, verdict, error, "statement")
                if attempt == retries or budget.remaining() <= 0:
                    why = "the connection was lost again each time that its beginning was replayed"
                    announce_refusal(db, error, loss, why)
                    raise
            reason, idle = loss.reason, loss.idle


def _pinned_by(db: Wrapper, link: Link) -> str:
    """What a new connection would not have, or ""."""
    if db._session.pinned_by:
        return db._session.pinned_by
    if db._transaction.phase is MANUAL:
        return "BEGIN"
    return PIPELINE if link.in_pipeline() else ""


def _left_lost_pipeline(db: Wrapper) -> bool:
    """Whether what holds a lost connection in its place is a pipeline that is over."""
    invalid, link = db._invalid, db._link
    held = invalid is not None and invalid.pinned_by is PIPELINE
    return held and link is not None and not link.in_pipeline()


def inspect_connection(db: Wrapper, now: float) -> Vital:
    """Look into the connection; a loss is counted, announced and learned from."""
    link = db._link
    assert link is not None
    idle = now - link.heard_at
    resilience = db.resilience
    options, facts = resilience.options, resilience.facts
    # State that would be lost with the session outweighs an idle limit.
    holds = db._session.pinned_by or link.cursors
    limit = math.inf if holds else resilience.limits.idle.seconds
    vital = inspect(
        link,
        idle=idle,
        idle_limit=limit,
        ping_after=options.ping_after,
        ping_timeout=deadlines.allowed(options.ping_timeout),
        path=Path.UNKNOWN if facts is None else facts.path,
        took=partial(resilience.shared.took, "liveness"),
    )
    if vital is Vital.LOST:
        announce_idle_loss(db, link, idle)
    elif vital is Vital.ALIVE and idle > options.ping_after:
        link.heard(now)
        resilience.shared.learned.outlived(idle)
    return vital


def is_alive(db: Wrapper) -> bool:
    """Whether a connection that is in no transaction lives; as :func:`inspect_connection`."""
    return inspect_connection(db, monotonic()) is Vital.ALIVE


def ping_in_transaction(db: Wrapper, link: Link) -> bool:
    """Ask a connection that is in a transaction whether it lives; its loss is announced."""
    if link.ping(deadlines.allowed(db.resilience.options.ping_timeout)):
        return True
    announce_idle_loss(db, link, monotonic() - link.heard_at, learns=False)
    return False
