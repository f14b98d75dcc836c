"""A lost connection is announced once, remembered for the next one, and learned from."""

from __future__ import annotations

import os
from time import monotonic
from typing import Final

from .. import signals
from ..driver.exceptions import first_line, reason_of, sqlstate_of
from ..driver.link import IDLE, UNKNOWN, Link
from ..driver.lost_sessions import LostSession
from ..facts import Path
from ..policy import messages
from ..policy.limits import Suspected
from ..policy.rules import was_terminated
from ..policy.verdicts import Reason, Verdict, code_in
from ..state import announce
from ..state.call import Call
from ..state.effects import reader
from ..state.incidents import Incident
from ..state.loss import Loss
from ..state.transaction import DIRTY
from ..state.wrapper import Wrapper

_LAST_WORDS: Final = "terminating connection"
_IDLE_TIMEOUTS = frozenset({Reason.SERVER_IDLE_TIMEOUT, Reason.PATH_IDLE_TIMEOUT})
# Seconds. An idle connection found dead sooner without a word teaches nothing: a crash looks alike.
_LEARN_FROM = 5.0


def announce_idle_loss(
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


def announce_loss(
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
    if holds and (statements := reader()) is not None:
        # What has but read, as far as that can be told, has no locks.
        holds = not all(map(statements.is_plain, texts))
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


def announce_refusal(db: Wrapper, error: BaseException, loss: Loss, why: str) -> None:
    """A loss reaches the application: its error says what became of the statement.

    The session and its transaction are invalidated.
    """
    split = db._transaction.was_split
    db._discard_or_invalidate(loss)
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
        link.announce(incident)
    announce.lost(db, incident)
    return incident
