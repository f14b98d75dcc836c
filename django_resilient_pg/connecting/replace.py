"""Replacing a lost connection, and invalidating it where that is not allowed.

Only through the outermost ``close()``, ``ensure_connection()`` and ``cursor()``: other engines
and ``connection_created`` receivers hang their own session state there.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

from django.db.utils import Error

from .. import signals
from ..driver.link import Link
from ..errors import SessionLost, TransactionLost
from ..policy import messages
from ..policy.verdicts import Reason
from ..state import announce
from ..state.aside import OF_TRANSACTION, put_back, values_of
from ..state.incidents import Incident
from ..state.loss import PIPELINE, Invalidation, Loss
from ..state.opening import Step
from ..state.transaction import SPLIT
from ..state.wrapper import Wrapper


def replace(db: Wrapper, reason: Reason | None, idle: float, asking: Any = None) -> None:
    """Close, connect and restore Django's transaction state; BEGIN comes by itself.

    Args:
        db: the wrapper.
        reason: of the loss; ``None``: the connection lives, but is replaced before use.
        idle: seconds since the server was last heard on it.
        asking: the cursor wrapper for whose next statement it is replaced, if any.

    Raises:
        Error: no new connection could be made. Inside a transaction the old, closed one
            stays in place, so that nothing can run outside of it; so it does inside a pipeline,
            where none is made.
    """
    began, lost = monotonic(), list(db._connector.lost)
    if db._link is not None and db._link.in_pipeline():
        raise SessionLost(messages.pipeline_lost(db.alias))
    atomic, autocommit = values_of(db, OF_TRANSACTION), db.autocommit
    split = db._transaction.phase is SPLIT
    old = db._link
    characteristics = _characteristics(old)
    db.in_atomic_block = False
    try:
        if reason is None:
            db._leave_to_its_cursors(asking)
        db._discard()
        db.ensure_connection()
    except BaseException:
        if not autocommit:
            db.autocommit = False
            db._put_back(old, split=split)
            db._invalidate(Invalidation(Loss(reason or Reason.UNKNOWN, idle), ""))
        raise
    finally:
        put_back(db, atomic)
    assert db._link is not None
    if not autocommit:
        db._set_autocommit(False)
        db.autocommit = False
        db._transaction.moved(autocommit, split=split)
    db._link.adopt(characteristics)
    if any(session.crashed for session in lost):
        reason = Reason.CRASH
    incident = None if old is None or old is db._link else old.incident
    _announce_replaced(db, incident, reason, idle, monotonic() - began)


def _announce_replaced(
    db: Wrapper, incident: Incident | None, reason: Reason | None, idle: float, took: float
) -> None:
    shared = db.resilience.shared
    shared.count("replaced")
    shared.took("reconnect", took)
    sentence = messages.reconnected(db.alias, took)
    if incident is not None and not incident.surfaced:
        incident.heal(sentence)  # one line for both
    else:
        after = f" It had been idle for {messages.seconds(idle)}." if reason is None else ""
        text, value = "%s%s", None if reason is None else reason.value
        announce.log(db, logging.DEBUG, text, sentence, after, reason=value, idle=idle, took=took)
    record = signals.ConnectionReplaced(db.alias, reason, idle, took)
    announce.send(db, signals.connection_replaced, record)


def restore_opening(db: Wrapper, opening: list[Step]) -> None:
    """Replay what a lost transaction began with; the driver sends BEGIN before the first of it.

    Nothing comes in between: SET TRANSACTION must be sent before any query.

    Raises:
        Error: the connection is lost again; or the server refuses a setting.
    """
    if not opening:
        return
    link, words = db._link, ""
    assert link is not None
    db._transaction.restored(opening)  # before: a loss on the way leaves it to be restored
    try:
        with db.wrap_database_errors:
            for step in opening:
                if isinstance(step, str):
                    link.ask(db.ops.savepoint_create_sql(step))
                else:
                    words = step.words
                    link.ask(step.sql, step.params)
        db._transaction.replayed(link.bytes_read)
    except Error as error:
        if words and not link.lost():
            error.add_note(messages.opening_refused(db.alias, words))
        raise


def discard_interrupted(db: Wrapper) -> None:
    """Discard a connection on which a statement was interrupted."""
    if db._link is not None:
        db._link.close()
    db._discard_or_invalidate(None)
    announce.log(db, logging.WARNING, "%s", messages.interrupted(db.alias))


def lost_error(db: Wrapper) -> Error | None:
    """What every statement raises until the lost transaction or session is left."""
    invalid = db._invalid
    if invalid is None:
        return None
    if not invalid.pinned_by:
        return transaction_lost(db, invalid.loss)
    if invalid.pinned_by is PIPELINE:
        error = SessionLost(messages.pipeline_lost(db.alias))
    else:
        error = SessionLost(messages.session_lost(db.alias, invalid.pinned_by))
    _add_notes(db, error, invalid.loss)
    return error


def transaction_lost(db: Wrapper, loss: Loss | None) -> TransactionLost:
    """That the transaction was lost, as far as it was one; see :class:`.loss.Invalidation`."""
    split = db._transaction.was_split
    text = messages.split_transaction_lost if split else messages.transaction_lost
    error = TransactionLost(text(db.alias))
    final = loss is not None and loss.final
    error.transaction_lost = not (split or final)
    error.connection_lost = not final
    _add_notes(db, error, loss)
    return error


def _add_notes(db: Wrapper, error: Error, loss: Loss | None) -> None:
    error.database_alias = db.alias  # type: ignore[attr-defined]
    if loss is None:
        error.add_note(messages.interrupted(db.alias))
    else:
        error.add_note(messages.lost(db.alias, loss.reason, loss.idle, loss.sqlstate))
    if db._in_testcase:
        error.add_note(messages.IN_TESTCASE)


def _characteristics(link: Link | None) -> dict[str, object]:
    if link is None:
        return {}
    try:
        return link.characteristics()
    except link.connection.Error:
        # psycopg2 does not say for a closed connection.
        return {}
