"""What follows a new connection: its facts, its limits, and what became of lost sessions."""

from __future__ import annotations

import logging
import math
import random
from time import monotonic
from typing import Final

from asgiref.sync import SyncToAsync
from django.db.utils import Error, OperationalError

from .. import facts
from ..conf.wanted import Wanted
from ..driver.link import Link
from ..policy.limits import jittered
from ..state.unit_of_work import UNIT
from ..state.wrapper import Wrapper

# For how many seconds the server has been up: since its start, or since its last recovery from a
# crash, at which it resets these statistics (see ``outcome``).
_UP: Final = (
    "SELECT EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)"
    " GREATEST(pg_catalog.pg_postmaster_start_time(),"
    " pg_catalog.pg_stat_get_bgwriter_stat_reset_time()))::pg_catalog.float8"
)


def _gather_facts(db: Wrapper) -> None:
    """Ask server and socket once per process and alias; a refusal is remembered as such."""
    shared, link = db.resilience.shared, db._link
    if shared.facts is not None or link is None:
        return
    found = facts.first_answer(link, db.settings_dict)
    if found.refusal and link.lost():
        raise db.Database.OperationalError(found.refusal)
    shared.facts = found
    _end_question(db, link)


def _end_question(db: Wrapper, link: Link) -> None:
    """With AUTOCOMMIT=False a question begins a transaction."""
    if not db.autocommit and not link.lost():
        link.connection.rollback()


def _learn(db: Wrapper) -> None:
    """Learn from a connection that ended without a word, unless the server ended as well."""
    learned, link = db.resilience.shared.learned, db._link
    found = learned.suspected()
    if found is None or link is None:
        return
    try:
        [(up,)] = link.ask(_UP)
    except link.connection.Error:
        pass  # not known, so nothing is learned
    else:
        if float(up) > monotonic() - found.heard_at:
            learned.note(found.idle)
    _end_question(db, link)


def _ask_after_lost(db: Wrapper) -> None:
    """Find out what became of the sessions that were lost without a word, before anything runs.

    Raises:
        Error: the new connection is lost in turn; the next one asks again.
    """
    from ..policy import messages
    from ..policy.verdicts import Reason
    from ..state import announce
    from .budgets import spending

    link, connector = db._link, db._connector
    assert link is not None
    kept = [one for one in connector.lost if not one.forgotten(monotonic())]
    try:
        with spending(db) as budget, db.wrap_database_errors:
            for one in kept:
                one.settle(link, budget.remaining())
                _end_question(db, link)
    finally:
        connector.settled([one for one in kept if one.why or not one.asked])
    for one in kept:
        if one.crashed:
            if one.incident is not None and not one.incident.crashed():
                text = 'Server of "%s" has crashed since its last answer.'
                announce.log(db, logging.INFO, text, db.alias, reason=Reason.CRASH.value)
            if (unit := UNIT.get()) is not None:
                unit.met_crash(one.text)
        if one.why:
            text = "Statements that may wait for locks are not retried: %s."
            announce.log(db, logging.INFO, text, messages.not_ended(db.alias, one.why))


def mark_unheard(error: BaseException) -> None:
    """An error of a session that was ended before the server said anything on it."""
    error.unheard = True  # type: ignore[attr-defined]


def note_thread(db: Wrapper) -> None:
    """Note whether this thread ends with its request."""
    ends = False
    if SyncToAsync.thread_sensitive_context.get(None) is not None:
        from .asgi import watch

        watch(db)
        ends = True
    if ends is not db._connector.thread_ends:
        db._connector.in_thread(ends=ends)


def settle(db: Wrapper) -> None:
    """After connecting: learn the facts once, then set how long this connection may live.

    Raises:
        Error: the session ended at one of these questions: worth another attempt, unless the
            words are final.
    """
    try:
        _settle(db)
    except (Error, db.Database.Error) as error:
        if db._link is None or db._link.lost():
            mark_unheard(error)
            db.resilience.shared.breaker.mute = True
        raise
    db.resilience.shared.connected = db._connector.settings


def _hear(db: Wrapper) -> None:
    """Have a server say something that has ended sessions at their first statement.

    By a ping: with psycopg2 nothing else shows what the server says instead.

    Raises:
        OperationalError: it has ended this one as well.
    """
    from .budgets import deadline

    link = db._link
    if link is None or link.ping(deadline(db)):
        return
    word = link.last_word
    link.close()
    raise OperationalError(
        "the server ended the session at its first statement" if word is None else word.text
    )


def _settle(db: Wrapper) -> None:
    note_thread(db)
    if db.resilience.shared.breaker.mute:
        _hear(db)
    if db._connector.lost:
        _ask_after_lost(db)
    _gather_facts(db)
    _learn(db)
    if db._connector.seeks_primary or db._connector.wanted is Wanted.PRIMARY:
        from .primary import require

        require(db)
    resilience, link = db.resilience, db._link
    limits, options = resilience.limits, resilience.options
    if link is not None:
        link.quiet = min(limits.idle.seconds, options.ping_after)
    if db._pooled:
        pool = db.pool
        ours = link is not None and getattr(link.connection, "_pool", None) is pool
        if link is not None and ours:
            pool.agree(db, link, limits)
        else:
            pool.follow(limits)
        return
    if limits.age is None or (db.close_at is None and math.isinf(limits.age)):
        return
    age = jittered(limits.age, options.age_jitter, random.random)
    db.close_at = monotonic() + age
    configured = db.settings_dict["CONN_MAX_AGE"]
    shared = resilience.shared
    if not shared.age_logged and (configured is None or configured > limits.age):
        from ..policy.messages import seconds
        from ..state import announce

        shared.age_logged = True
        announce.log(
            db,
            logging.INFO,
            'CONN_MAX_AGE of "%s" is %s; connections are kept for at most %s: %s.',
            db.alias,
            "unlimited" if configured is None else seconds(configured),
            seconds(limits.age),
            limits.age_source,
        )
