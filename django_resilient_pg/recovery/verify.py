"""Checking a connection that is in doubt, and announcing what was found.

Off the healthy path: something has arrived on the socket, the connection was idle for long, or an
error came out of a statement.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from functools import partial
from time import monotonic
from typing import Any, Final

from django.db.utils import Error

from .. import deadlines, signals
from ..connecting.replace import lost_error, replace, restore_opening
from ..driver.exceptions import first_line, judge_error, reason_of, sqlstate_of
from ..driver.link import IDLE, UNKNOWN, Link
from ..driver.liveness import Vital, inspect
from ..driver.lost_sessions import LostSession
from ..facts import Path
from ..policy import messages
from ..policy.limits import Suspected
from ..policy.rules import was_terminated
from ..policy.verdicts import Phase, Reason, Verdict, code_in
from ..state import announce
from ..state.call import Call
from ..state.collecting import collecting
from ..state.incidents import Incident
from ..state.loss import PIPELINE, Invalidation, Loss
from ..state.transaction import DIRTY, MANUAL
from ..state.wrapper import Wrapper, reader

_LAST_WORDS: Final = "terminating connection"
_IDLE_TIMEOUTS = frozenset({Reason.SERVER_IDLE_TIMEOUT, Reason.PATH_IDLE_TIMEOUT})
# Seconds. An idle connection found dead sooner without a word teaches nothing: a crash looks alike.
_LEARN_FROM = 5.0


@collecting()
def look_closer(db: Wrapper, status: int, now: float, asking: Any = None) -> None:
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
        link.seen_at = now
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
        look_closer(db, status, now)
    if transaction.opening:
        _replace_with_opening(db, reason, idle, asking)
    else:
        replace(db, reason, idle, asking)


def _close_left(db: Wrapper, link: Link) -> None:
    options = db.resilience.options
    link.lend(peeks=options.peek, asks_outcome=options.commit_outcome)  # peeks as before
    link.close_left()
    if link.lost():
        note_idle_loss(db, link, monotonic() - link.heard_at, learns=False)


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
                loss = note_loss(db, verdict, error, "statement")
                if attempt == retries or budget.remaining() <= 0:
                    why = "the connection was lost again each time that its beginning was replayed"
                    note_refused(db, error, loss, why)
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
        note_idle_loss(db, link, idle)
    elif vital is Vital.ALIVE and idle > options.ping_after:
        link.heard_at = now
        resilience.shared.learned.outlived(idle)
    return vital


def is_alive(db: Wrapper) -> bool:
    """Whether a connection that is in no transaction lives; as :func:`inspect_connection`."""
    return inspect_connection(db, monotonic()) is Vital.ALIVE


def ping_in_transaction(db: Wrapper, link: Link) -> bool:
    """Ask a connection that is in a transaction whether it lives; its loss is announced."""
    if link.ping(deadlines.allowed(db.resilience.options.ping_timeout)):
        return True
    note_idle_loss(db, link, monotonic() - link.heard_at, learns=False)
    return False


def note_idle_loss(
    db: Wrapper,
    link: Link,
    idle: float,
    *,
    quiet: bool = False,
    learns: bool = True,
) -> None:
    """Announce a loss that a liveness check found; learn from it if nobody said why.

    ``quiet``: the application did not notice, and others like it were logged just now.
    """
    if link.announced:
        return  # nor is it learned from twice
    word, reason = link.last_word, reason_of(link)
    silent = word is None and not (link.inherited or link.timed_out)
    unannounced = silent and link.status() in {IDLE, UNKNOWN}
    text = (
        "the socket was closed without a message"
        if word is None
        else first_line(word.text, db.settings_dict)
    )
    sqlstate = word.sqlstate if word is not None else None
    silent_end = sqlstate is None and _LAST_WORDS not in text
    session = _remember(db, link, reason, None, silent=silent_end)
    code = sqlstate or code_in(text)
    incident = _announce_loss(db, link, reason, code, text, idle, "before sending", quiet=quiet)
    if session is not None:
        session.incident = incident
    # Last: the limit that this makes did not hold before.
    learned = db.resilience.shared.learned
    if learns and reason in _IDLE_TIMEOUTS:
        learned.note(idle)
    elif learns and unannounced and idle >= _LEARN_FROM:
        learned.suspect(Suspected(idle, link.heard_at))  # the next connection tells


def note_loss(
    db: Wrapper,
    verdict: Verdict,
    error: BaseException,
    noticed: str,
    call: Call | None = None,
    *,
    committing: bool = False,
) -> Loss:
    """Announce a loss that an error showed.

    Args:
        db: the wrapper.
        verdict: on the error.
        error: of the driver's, or Django's translation of it.
        noticed: by what.
        call: the statement that met the loss, if one did.
        committing: its transaction may be committed by now: ``outcome`` finds that out.
    """
    link = db._link
    reason = verdict.reason
    if reason is Reason.UNKNOWN and link is not None:
        reason = reason_of(link)
    idle = 0.0 if link is None else monotonic() - link.heard_at
    line, sqlstate = first_line(error, db.settings_dict), sqlstate_of(error)
    session = None
    if link is not None and not committing:
        silent = sqlstate is None and _LAST_WORDS not in str(error)  # psycopg2 gives no SQLSTATE
        terminated = call is not None and _was_terminated(link, verdict, call)
        session = _remember(db, link, reason, call, silent=silent, terminated=terminated)
    code = sqlstate or code_in(line)
    incident = _announce_loss(db, link, reason, code, line, idle, noticed)
    if session is not None:
        session.incident = incident
    return Loss(reason, idle, session, incident=incident)


def _was_terminated(link: Link, verdict: Verdict, call: Call) -> bool:
    """Whether an administrator has ended this statement, if the server lives on.

    The connection was seen just before a first one was sent: of others nobody knows when that was.
    """
    if not (call.first and call.status == IDLE):
        return False
    return was_terminated(verdict, monotonic() - link.seen_at, hides_words=link.hides_words)


def _remember(
    db: Wrapper,
    link: Link,
    reason: Reason,
    call: Call | None,
    *,
    silent: bool,
    terminated: bool = False,
) -> LostSession | None:
    """Have the next connection ask what became of a session that was lost without a word.

    It may still hold the locks of its transaction, or have crashed by its statement. Not of one
    whose transaction may be committing by itself: that must be left alone.
    """
    # The session of a parent process lives on, whether or not Python has seen the fork.
    if link.announced or link.inherited or link.made_by != os.getpid():
        return None
    silent = silent and link.last_word is None
    transaction = db._transaction
    texts = {*transaction.texts, *([] if call is None else [call.text])}
    holds = silent and transaction.phase is DIRTY and not link.connection.autocommit
    holds = holds and not _are_plain(texts)
    if not (holds or terminated or (silent and call is not None)):
        return None
    facts = db.resilience.facts
    session = LostSession(
        link,
        reason,
        None if call is None else call.text,
        monotonic(),
        holds=holds,
        # After savepoints or settings its transaction is older than the last answer.
        first=call is not None and call.first and call.status == IDLE,
        direct=facts is not None and facts.path is Path.DIRECT,
        terminated=terminated,
    )
    db._connector.has_lost(session)
    return session


def _are_plain(texts: Collection[object]) -> bool:
    """Whether statements have but read, as far as they can be told from others."""
    statements = reader()
    return statements is not None and all(map(statements.is_plain, texts))


def note_refused(db: Wrapper, error: BaseException, loss: Loss, why: str) -> None:
    """A loss reaches the application: its error says what became of the statement.

    The session and its transaction are invalidated.
    """
    split = db._transaction.was_split
    db._abandon(loss)
    # The server has rolled it back: retry_atomic may retry it as a whole.
    error.transaction_lost = not (db.autocommit or split or loss.final)  # type: ignore[attr-defined]
    error.connection_lost = not loss.final  # type: ignore[attr-defined]
    error.database_alias = db.alias  # type: ignore[attr-defined]
    limits = db.resilience.limits
    error.add_note(messages.refused(db.alias, loss.reason, loss.idle, limits, why, loss.sqlstate))
    if db._in_testcase:
        error.add_note(messages.IN_TESTCASE)
    announce.surfaced(db, loss.incident, f"Not retried: {why}.")


def _announce_loss(
    db: Wrapper,
    link: Link | None,
    reason: Reason,
    sqlstate: str | None,
    text: str,
    idle: float,
    noticed: str,
    *,
    quiet: bool = False,
) -> Incident | None:
    """Once for each connection, however often its loss is met with."""
    if link is not None and link.announced:
        found: Incident | None = link.incident
        return found
    pid, (host, port) = (None, (None, None)) if link is None else (link.pid, link.peer)
    record = signals.ConnectionLost(
        db.alias, reason, sqlstate, text, idle, noticed, pid, host, port
    )
    incident = Incident(db.resilience.shared, record, quiet=quiet)
    if link is not None:
        link.announced, link.incident = True, incident
    announce.lost(db, incident)
    return incident
