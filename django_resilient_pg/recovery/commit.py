"""The end of a transaction on a connection that was lost."""

from __future__ import annotations

from time import monotonic
from typing import Final

from django.db.utils import Error

from ..connecting.budgets import spending
from ..connecting.replace import replace, transaction_lost
from ..driver.exceptions import judge_error, reason_of
from ..driver.link import IDLE, Link
from ..driver.literals import told_by_texts
from ..errors import CommitOutcomeUnknown
from ..policy import messages
from ..policy.rules import Budget
from ..policy.verdicts import Phase
from ..sql.statements import STANDARD_STRINGS, analyse, is_plain, read_well
from ..state import announce
from ..state.collecting import collecting
from ..state.loss import Invalidation, Loss
from ..state.transaction import MANUAL
from ..state.unit_of_work import MOST_TEXTS, NO_TEXT
from ..state.wrapper import Wrapper
from .announce_loss import announce_idle_loss, announce_loss
from .catalogue import why_may_write
from .outcome import Outcome, TransactionId, mark, outcome

_ROLLED_BACK: Final = "Not retried: the server has rolled its transaction back."


@collecting()
def gone_before_commit(db: Wrapper, link: Link) -> bool:
    """Look before COMMIT is sent.

    Returns:
        True when the connection is gone but nothing had run in the transaction, so that nothing
        is missing; False when it lives.

    Raises:
        TransactionLost: it is gone, and with it what the transaction had done.
    """
    transaction = db._transaction
    empty = transaction.has_run_nothing or link.status() == IDLE
    known = link.lost()
    if not known and not (db._thread_sharing_count or link.busy()):
        link.consume()
    if not link.lost():
        return False
    if not known:
        announce_idle_loss(db, link, monotonic() - link.heard_at)
    texts = _texts(db, link)
    link.close()
    if transaction.phase is MANUAL:
        texts |= {
            NO_TEXT
        }  # what it ran was not kept, nor whether a text has ended the transaction since
    if db._invalid is not None or not (empty or _only_read(db, link, texts)):
        loss = _known(db, link)
        error = transaction_lost(db, loss)
        db._transaction_over()
        db._invalidate(Invalidation(loss, ""))  # a second commit() must not succeed
        raise error
    db._transaction_over()
    return True


def _known(db: Wrapper, link: Link) -> Loss | None:
    """What is known of the loss, which surfaces now if it has not done so before."""
    if db._invalid is not None:
        return db._invalid.loss
    announce.surfaced(db, link.incident, _ROLLED_BACK)
    return Loss(reason_of(link), monotonic() - link.heard_at, incident=link.incident)


def _only_read(db: Wrapper, link: Link, texts: frozenset[object]) -> bool:
    """Whether a lost transaction can only have read, so that nothing of it is missing."""
    loss = Loss(reason_of(link), monotonic() - link.heard_at)
    return _ask(db, loss, None, texts, committing=False) is Outcome.COMMITTED


def _texts(db: Wrapper, link: Link) -> frozenset[object]:
    """What a transaction ran; asked before its connection is closed, which knows how to read it."""
    ran = db._transaction.texts
    texts = [text for text in ran if isinstance(text, str)]
    read = read_well(texts, link.parameter(STANDARD_STRINGS))
    if read and told_by_texts(texts, link.connection):
        return frozenset(ran)
    return frozenset({NO_TEXT})


@collecting()
def mark_transaction(db: Wrapper, link: Link) -> TransactionId | None:
    """Learn the id of a transaction before its COMMIT is sent (one round trip).

    Returns:
        ``None`` for one that has run nothing but reads that call nothing, of which it is not asked
        for, and where the server does not tell it.

    Raises:
        TransactionLost: the connection died at this: COMMIT was not sent.
    """
    ran = db._transaction.texts
    if len(ran) < MOST_TEXTS and all(map(is_plain, ran)):
        return None
    try:
        with db.wrap_database_errors:
            return mark(link)
    except Error as error:
        verdict = judge_error(link, error, Phase.STATEMENT)
        if not verdict.lost:
            raise
        loss = announce_loss(db, verdict, error, "commit")
        link.close()
        announce.surfaced(db, loss.incident, _ROLLED_BACK)
        raise transaction_lost(db, loss) from error


@collecting()
def has_committed(db: Wrapper, link: Link, error: Error, marked: TransactionId | None) -> bool:
    """Find out what became of a transaction whose COMMIT failed.

    Returns:
        True: it has committed, or only read; False: the connection lives, so the error is the
        server's own answer.

    Raises:
        TransactionLost: the server says that it was rolled back.
        CommitOutcomeUnknown: nobody can say.
    """
    verdict = judge_error(link, error, Phase.COMMIT)
    if not (link.lost() or verdict.lost):
        return False
    texts = _texts(db, link)
    ran, pending = db._transaction.set_texts_aside(), db._session.pending
    loss = announce_loss(db, verdict, error, "commit", committing=True)
    link.close()
    found = _ask(db, loss, marked, texts)
    db.resilience.shared.count("outcome", found.value)
    if found is Outcome.ABORTED:
        announce.surfaced(db, loss.incident, _ROLLED_BACK)
        raise transaction_lost(db, loss) from error
    db._transaction.take_texts_back(ran)
    if pending:
        # Set in a transaction that may have been committed: no new session is like the old one.
        db._session.pin(f"{pending[0].words} in a transaction whose COMMIT was lost")
        db._invalidate(Invalidation(loss, db._session.pinned_by))
    if found is Outcome.COMMITTED:
        if loss.incident is not None:
            loss.incident.heal("Its transaction has committed.")
        return True
    db._note_committed()  # it may have: also if the application swallows what follows
    db._transaction_over()
    # What else is tried before rollback() is told that it may have taken effect.
    db._transaction.outcome_unknown(db.autocommit)
    if db._invalid is None:
        db._invalidate(Invalidation(loss, ""))
    xid = None if marked is None or marked.xid is None else int(marked.xid)
    announce.surfaced(db, loss.incident, "The outcome of its COMMIT is unknown.")
    message = messages.commit_unknown(db.alias, loss.reason, xid)
    unknown = CommitOutcomeUnknown(message, alias=db.alias, xid=xid)
    unknown.add_note(messages.lost(db.alias, loss.reason, loss.idle, loss.sqlstate))
    raise unknown from error


def _ask(
    db: Wrapper,
    loss: Loss,
    marked: TransactionId | None,
    texts: frozenset[object],
    *,
    committing: bool = True,
) -> Outcome:
    """Ask on a new connection, which stays in the place of the lost one.

    If that one dies as well the question is asked again: it is a read like any other.
    """
    if marked is None or marked.xid is None:
        # That no id was given out proves nothing of a write: foreign tables and NOTIFY do without,
        # and so does a server, proxy or coordinator that has none to give out.
        if not only_reads(texts):
            return Outcome.UNKNOWN
        if not texts:
            return Outcome.COMMITTED  # whether there still is a server does not matter
    if committing:
        db.resilience.shared.count("asked")
    with spending(db) as budget:
        for _ in range(1 + db.resilience.options.read_retries):
            try:
                replace(db, loss.reason, loss.idle)
            except Error:
                break
            fresh = db._link
            assert fresh is not None
            try:
                with db.wrap_database_errors:
                    return _answer(fresh, marked, texts, budget)
            except Error:
                if not fresh.lost():
                    fresh.connection.rollback()
                    break
    return Outcome.UNKNOWN


def _answer(
    fresh: Link, marked: TransactionId | None, texts: frozenset[object], budget: Budget
) -> Outcome:
    if marked is not None and marked.xid is not None:
        found = outcome(fresh, marked, seconds=budget.remaining())
    elif why_may_write(fresh, map(str, texts), over=True):
        found = Outcome.UNKNOWN
    else:
        found = Outcome.COMMITTED
    fresh.connection.rollback()  # the questions have begun a transaction
    return found


def only_reads(texts: frozenset[object]) -> bool:
    """Whether every statement of a transaction was a read or local to it, by its text."""
    if len(texts) >= MOST_TEXTS:
        return False
    return all(isinstance(text, str) and analyse(text).passes for text in texts)


@collecting()
def lost_in_rollback(db: Wrapper, link: Link, error: Error) -> None:
    """The connection died during ROLLBACK: the server has done it by itself."""
    announce_loss(db, judge_error(link, error, Phase.STATEMENT), error, "rollback")
    link.close()
