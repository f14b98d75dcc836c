"""The end of a transaction on a connection that was lost."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from django.db.utils import Error

from . import notes
from .drivers import IDLE, Link
from .errors import CommitOutcomeUnknown, TransactionLost
from .losses import judge_error
from .verdicts import Phase
from .watching import note_idle_loss, note_loss

if TYPE_CHECKING:
    from .mixins import ResilientDatabaseMixin


def gone_before_commit(db: ResilientDatabaseMixin, link: Link) -> bool:
    """Look before COMMIT is sent.

    Returns:
        True when the connection is gone but nothing had run in the transaction, so that nothing
        is missing; False when it lives.

    Raises:
        TransactionLost: it is gone, and with it what the transaction had done.
    """
    empty = db._lost is None and (db._untouched or db._status() == IDLE)
    known = link.lost()
    if not known and not (db._thread_sharing_count or link.busy()):
        link.consume()
    if not link.lost():
        return False
    if not known:
        note_idle_loss(db, link, monotonic() - db._heard_at)
    link.close()
    db._transaction_over()
    if not empty:
        raise TransactionLost(notes.transaction_lost(db.alias))
    return True


def raise_if_unknown(db: ResilientDatabaseMixin, link: Link, error: Error) -> None:
    """Say that the outcome is unknown, if it was the connection that failed during COMMIT."""
    verdict = judge_error(link, error, Phase.COMMIT)
    if not (link.lost() or verdict.lost):
        return
    loss = note_loss(db, verdict, error, "commit")
    link.close()
    message = notes.commit_unknown(db.alias, loss.reason)
    raise CommitOutcomeUnknown(message, alias=db.alias) from error


def lost_in_rollback(db: ResilientDatabaseMixin, link: Link, error: Error) -> None:
    """The connection died during ROLLBACK: the server has done it by itself."""
    note_loss(db, judge_error(link, error, Phase.STATEMENT), error, "rollback")
    link.close()
