"""Giving a new session what the lost one had been given, before anything is run on it.

Imported when a session with settings was lost.
"""

from __future__ import annotations

import logging
from time import monotonic

from django.db.utils import Error

from ..driver.exceptions import sqlstate_of
from ..driver.link import IDLE
from ..errors import SessionLost
from ..policy import messages
from ..state import announce
from ..state.wrapper import Wrapper


def refuse_if_pinned(db: Wrapper) -> None:
    """Nothing may run on a new connection when the old one held what cannot be done again.

    Raises:
        SessionLost: it did.
    """
    if db._session.pinned_by:
        raise SessionLost(messages.session_lost(db.alias, db._session.pinned_by))


def restore(db: Wrapper) -> None:
    """Make the settings of the lost session again, in order.

    Runs after Django's own set-up and after the receivers of ``connection_created``.

    Raises:
        SessionLost: the server refuses one (a role that is gone): the new connection is discarded.
        Error: the new connection is lost already; the next one is given all of it again.
    """
    link, session = db._link, db._session
    assert link is not None
    began, words = monotonic(), ""
    try:
        with db.wrap_database_errors:
            for setting in list(session.settings.values()):
                words = setting.words
                link.ask(setting.sql, setting.params)
            if link.status() != IDLE:
                link.connection.commit()  # AUTOCOMMIT is off for this alias
    except Error as error:
        lost = link.lost()
        link.close()
        db._discard()
        if lost:
            raise
        # Neither the server's words nor the error itself: they may quote the value.
        raise SessionLost(messages.not_restored(db.alias, words, sqlstate_of(error))) from None
    session.arrived()
    took = monotonic() - began
    announce.log(
        db,
        logging.DEBUG,
        'Replayed %d session setting(s) on "%s" in %s.',
        len(session.settings),
        db.alias,
        messages.seconds(took),
        took=took,
    )
