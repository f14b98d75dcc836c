"""What a statement means for its session, its transaction and its unit of work, once it has run.

Part of the healthy path, so it imports nothing that costs time.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ..driver.link import ACTIVE, IDLE, IN_TRANSACTION, UNKNOWN
from ..sql.memory import OPENINGS, make_room
from ..sql.texts import text_of
from .session import Where, local_setting
from .unit_of_work import UNDER_WAY, UNIT

if TYPE_CHECKING:
    from ..sql.local_settings import Local
    from .call import Call
    from .wrapper import Wrapper


@cache
def _statements() -> Any:
    from ..sql import statements

    return statements


def reader() -> Any:
    """What reads texts; its patterns take long to compile, so it is imported for the first one.

    Returns:
        ``None``: no file descriptor is left to import it.
    """
    try:
        return _statements()
    except OSError:
        return None


def note_effect(db: Wrapper, sql: object) -> None:
    """Remember what a transaction ran, or what took effect in a unit of work."""
    if not db.autocommit:
        db._transaction.ran(sql)
    elif not db._connector.connecting and (unit := UNIT.get()) is not None:
        # What runs while connecting is retried by itself.
        unit.took_effect(db.alias, sql)


def note_session(
    db: Wrapper, sql: object, params: Any, *, first: bool = False, many: bool = False
) -> None:
    """Remember what a statement that succeeded left in its session and transaction.

    Args:
        sql, params: the statement.
        first: see :class:`..state.call.Call`.
        many: what it leaves cannot be told from its text alone.
    """
    link = db._link
    if db._connector.connecting or link is None:
        return  # what connection_created receivers run is repeated by each connection
    transaction, status = db._transaction, link.status()
    if first and params is None and sql.__class__ is str:
        setting: Local | None = OPENINGS.get(sql)
        if (
            setting is not None
            and status == IN_TRANSACTION
            and not (db.autocommit or many or transaction.controlling)
            and not getattr(db.connection, "_num_transactions", 0)
        ):
            transaction.began_with(setting, link.bytes_read)
            return
    if db.autocommit:
        transaction.observe(status, True)
    elif not transaction.controlling:
        _note_end(db, sql, status)
    unit = UNIT.get() if UNDER_WAY else None
    if unit is not None:
        unit.keep_session(db.alias, db._session.held)
    where = _where(db, status, many)
    db._session.note(
        sql,
        params,
        where,
        driver=db.connection,
        replays=db.resilience.options.replay_session,
        saving=transaction.controlling,
    )
    if first and where is Where.TRANSACTION and not transaction.controlling:
        _note_opening(db, sql, params)


def _note_opening(db: Wrapper, sql: object, params: Any) -> None:
    """Remember a first statement that only sets something for its transaction."""
    link = db._link
    setting = local_setting(sql, params, driver=db.connection)
    if link is None or setting is None:
        return
    if params is None and sql.__class__ is str and not db._session.holds:
        make_room(OPENINGS)
        OPENINGS[sql] = setting
    db._transaction.began_with(setting, link.bytes_read)


def _where(db: Wrapper, status: int, many: bool) -> Where:
    """In what a statement has just run."""
    # Within transaction() of psycopg 3 its end is the driver's, and not known here.
    nested = getattr(db.connection, "_num_transactions", 0)
    # Ended inside its block: what follows may take effect at once (psycopg2), or with an end
    # that nobody here sees.
    unseen = nested or db._transaction.was_split
    # ACTIVE: in a pipeline, whose results are still to come.
    if many or unseen or status == ACTIVE or (db.autocommit and status != IDLE):
        return Where.UNCLEAR
    return Where.AUTOCOMMIT if db.autocommit else Where.TRANSACTION


def _note_end(db: Wrapper, sql: object, status: int) -> None:
    """Notice that a text has ended the transaction inside its block, or may have: COMMIT.

    psycopg2 takes no notice of it, so that what follows takes effect at once.
    """
    text = text_of(sql)
    statements = reader()
    if status == IDLE or statements is None or statements.ends_transaction(text):
        db._transaction.split(by_text=True)


def note_failed(db: Wrapper, call: Call) -> None:
    """Remember what a statement may have done although it failed."""
    if not db.autocommit:
        _note_end(db, call.sql, UNKNOWN)  # by its text alone
        note_unsent(db, call)
    elif UNDER_WAY and (call.many or _may_commit_inside(db, call.sql)):
        note_effect(db, call.sql)


def note_wrong(db: Wrapper, call: Call) -> None:
    """As :func:`note_failed`, of a text that leaves nothing behind, and is wrong."""
    if not db.autocommit:
        note_unsent(db, call)
    elif UNDER_WAY and call.many:
        note_effect(db, call.sql)  # of the rows before


def note_unsent(db: Wrapper, call: Call) -> None:
    """Tell the transaction that a statement of it failed."""
    if db._link is not None:
        status = db._link.status()
        db._transaction.unsent(call.first, status)
        db._transaction.failed(status)


def _may_commit_inside(db: Wrapper, sql: object) -> bool:
    """Whether a statement that failed may have committed before: CALL, several statements."""
    link, statements = db._link, reader()
    standard = link is None or link.parameter("standard_conforming_strings") == "on"
    if statements is None:
        return True
    found = statements.analyse(text_of(sql), standard_strings=standard)
    return bool(found.kind is statements.Kind.UNREPEATABLE)


def note_left(db: Wrapper, call: Call) -> None:
    """Pin a living session in which a statement that failed may have left something.

    Locks it took before; what the first of several statements, or of many rows, has set.
    """
    if db._connector.connecting or db._link is None or db._link.lost():
        return
    statements = reader()
    if statements is None:
        db._session.pin("a text that could not be read when it had failed")
    elif words := statements.left_by_failure(text_of(call.sql), many=call.many):
        db._session.pin(words)
