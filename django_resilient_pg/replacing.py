"""Putting a new connection in the place of a lost one, and giving up where that is not allowed.

Only through the outermost ``close()``, ``ensure_connection()`` and ``cursor()``: other engines
and ``connection_created`` receivers hang their own session state there.
"""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from django.db.utils import Error

from . import notes, signals
from .drivers import Link
from .errors import SessionLost, TransactionLost
from .losses import Loss
from .resilience import logger
from .verdicts import Reason

if TYPE_CHECKING:
    from .mixins import ResilientDatabaseMixin


@dataclass(frozen=True, slots=True)
class Lost:
    """A loss that may not be papered over.

    Attributes:
        loss: ``None`` if the connection was given up, because a statement was left half-way.
        pinned_by: the session state that is gone; "" when it was a transaction.
    """

    loss: Loss | None
    pinned_by: str


class _Atomic:
    """Django's transaction state, which ``connect()`` would reset."""

    _NAMES = tuple(
        "in_atomic_block savepoint_ids atomic_blocks needs_rollback commit_on_exit run_on_commit"
        " savepoint_state rollback_exc run_commit_hooks_on_set_autocommit_on".split()
    )

    def __init__(self, db: Any) -> None:
        self._values = {name: getattr(db, name) for name in self._NAMES if hasattr(db, name)}

    def restore(self, db: Any) -> None:
        for name, value in self._values.items():
            setattr(db, name, value)


def replace(db: ResilientDatabaseMixin, reason: Reason | None, idle: float) -> None:
    """Close, connect and restore Django's transaction state; BEGIN comes by itself.

    Raises:
        Error: no new connection could be made. Inside a transaction the old, closed one
            stays in place, so that nothing can run outside of it.
    """
    began = monotonic()
    atomic, autocommit = _Atomic(db), db.autocommit
    old, old_link = db.connection, db._link
    characteristics = _characteristics(old_link)
    db.in_atomic_block = False
    try:
        if reason is None:
            _leave_to_its_cursors(db)
        drop(db)
        db.ensure_connection()
    except BaseException:
        if not autocommit:
            db.connection = db._bound_to = old
            db._link = old_link
            give_up(db, Lost(Loss(reason or Reason.UNKNOWN, idle), ""))
        raise
    finally:
        atomic.restore(db)
    assert db._link is not None
    if not autocommit:
        db._set_autocommit(False)
        db.autocommit = False
    db._link.adopt(characteristics)
    _announce_replaced(db, reason, idle, monotonic() - began)


def _announce_replaced(
    db: ResilientDatabaseMixin, reason: Reason | None, idle: float, took: float
) -> None:
    db.resilience.shared.count("replaced")
    levels = {None: logging.DEBUG, Reason.FORK: logging.INFO}
    level = levels.get(reason, logging.WARNING)
    logger.log(
        level,
        'The connection "%s" was replaced in %s%s.',
        db.alias,
        notes.seconds(took),
        "" if reason is not None else f" before use, after {notes.seconds(idle)} idle",
    )
    record = signals.ConnectionReplaced(db.alias, reason, idle, took)
    signals.connection_replaced.send_robust(sender=type(db), connection=db, record=record)


def drop(db: ResilientDatabaseMixin) -> None:
    """Close the connection the outermost way, whatever it says; the next is to be made like it."""
    session = db._session
    if db._link is not None:
        db._link.dropped = True
        if db._link.lost():
            db._link.close()
    try:
        with contextlib.suppress(Error):
            db.close()
    finally:
        db.connection = db._link = db._bound_to = None
        db._session = session.gone()  # close() is where the application starts clean; this is not
        db._goes_on = True


def drop_unfinished(db: ResilientDatabaseMixin) -> None:
    """Drop a connection that is not set up yet; a pool would else hand it on like that."""
    if db._link is not None:
        db._link.close()
    drop(db)


def _leave_to_its_cursors(db: ResilientDatabaseMixin) -> None:
    """Have a connection that lives closed with the last of its cursors; those may have rows left.

    psycopg2 only: it gives none of a closed connection, and closes one that nobody refers to. An
    engine that takes its connections back (to a pool) gets this one too.
    """
    from django.db.backends.postgresql.base import DatabaseWrapper  # imports a driver

    closes = type(db)._close is DatabaseWrapper._close  # type: ignore[attr-defined]
    if closes and db._link is not None and not db._link.keeps_rows:
        db.connection = None


def restore_savepoints(db: ResilientDatabaseMixin, savepoints: list[str]) -> None:
    """Open a lost transaction's savepoints again; the driver sends BEGIN before the first."""
    if not savepoints:
        return
    assert db._link is not None
    with db.wrap_database_errors:
        for sid in savepoints:
            db._link.ask(db.ops.savepoint_create_sql(sid))
    db._savepoints = savepoints


def abandon(db: ResilientDatabaseMixin, loss: Loss | None, *, raw_transaction: bool) -> None:
    """Give a connection up: for good, or until what depended on it has been left; see Lost."""
    pinned_by = db._session.pinned_by or ("BEGIN" if raw_transaction else "")
    if db.autocommit and not pinned_by:
        drop(db)
        return
    give_up(db, Lost(loss, pinned_by if db.autocommit else ""))


def give_up(db: ResilientDatabaseMixin, lost: Lost) -> None:
    """Keep the dead connection in its place, so that nothing can run as if nothing had been."""
    db._lost = lost
    db._seen_at = -math.inf  # the next statement looks, and is told
    db.errors_occurred = True
    if db._link is not None:
        db._link.close()


def abandon_interrupted(db: ResilientDatabaseMixin) -> None:
    """Give a connection up on which a statement was left half-way."""
    logger.warning(
        'A statement on "%s" was interrupted half-way; its connection is given up.', db.alias
    )
    if db._link is not None:
        db._link.close()
    abandon(db, None, raw_transaction=False)


def leave_lost_transaction(db: ResilientDatabaseMixin) -> None:
    """Turn autocommit on without the connection, which the next statement makes anew."""
    db.validate_no_atomic_block()
    hooks, due = db.run_on_commit[: db._hooks_due], db.run_commit_hooks_on_set_autocommit_on
    drop(db)
    db.autocommit, db._split = True, False
    if due:
        db.run_on_commit = hooks
        db.run_commit_hooks_on_set_autocommit_on = False
        db.run_and_clear_commit_hooks()


def lost_error(db: ResilientDatabaseMixin) -> Error | None:
    """What every statement raises until the lost transaction or session is left."""
    lost = db._lost
    if lost is None:
        return None
    if not lost.pinned_by:
        return transaction_lost(db, lost.loss)
    error = SessionLost(notes.session_lost(db.alias, lost.pinned_by))
    _add_notes(db, error, lost.loss)
    return error


def transaction_lost(db: ResilientDatabaseMixin, loss: Loss | None) -> TransactionLost:
    """That the transaction was lost, as far as it was one; see :class:`Lost`."""
    text = notes.split_transaction_lost if db._split else notes.transaction_lost
    error = TransactionLost(text(db.alias))
    error.transaction_lost = not db._split
    _add_notes(db, error, loss)
    return error


def _add_notes(db: ResilientDatabaseMixin, error: Error, loss: Loss | None) -> None:
    if loss is None:
        error.add_note(notes.interrupted(db.alias))
    else:
        error.add_note(notes.lost(db.alias, loss.reason, loss.idle))
    if db._in_testcase:
        error.add_note(notes.IN_TESTCASE)


def _characteristics(link: Link | None) -> dict[str, object]:
    if link is None:
        return {}
    try:
        return link.characteristics()
    except link.connection.Error:
        # psycopg2 does not say for a closed connection.
        return {}
