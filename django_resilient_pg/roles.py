"""Primary or standby: which one an alias is to reach, and which one it has reached.

A standby answers reads, the server's own ``SELECT 1`` among them, and refuses every write with
SQLSTATE 25006. A server tells what it is in ``in_hot_standby`` (PostgreSQL 14, reported when a
connection is made and whenever it changes), or when asked ``pg_is_in_recovery()``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from django.db.utils import Error, OperationalError

from . import notes
from .drivers import IDLE, Link
from .facts import Path
from .state.wrapper import Wrapper
from .wanted import Wanted

# What a session may set itself, as ``assignments`` names it.
_OWN_WISH: Final = ("default_transaction_read_only", "session characteristics")
# A setting of the server, as a failover manager makes it: not of this session, role or database.
_FENCED: Final = (
    "SELECT pg_catalog.pg_is_in_recovery() OR EXISTS (SELECT FROM pg_catalog.pg_settings AS s"
    " WHERE s.setting OPERATOR(pg_catalog.=) 'on'"
    " AND s.name OPERATOR(pg_catalog.=) 'default_transaction_read_only'"
    " AND s.source OPERATOR(pg_catalog.=) 'configuration file')"
)


def require(db: Wrapper) -> None:
    """Refuse a new connection to a standby where the alias is to reach the primary.

    Raises:
        OperationalError: it leads to a standby; it is closed. Worth trying again.
    """
    if db._link is None or not (
        db._connector.seeks_primary or db._connector.wanted is Wanted.PRIMARY
    ):
        return
    try:
        if is_standby(db, db._link):
            raise OperationalError(notes.standby(db.alias))
    except Error:
        # Not left to a pool either: it would hand it out again.
        db._link.close()
        db._discard()
        if db._pooled:
            db.pool.distrust()
        raise


def is_standby(db: Wrapper, link: Link) -> bool:
    """What a server without a query under way is; asks it where its word may not be its own."""
    reported = link.parameter("in_hot_standby")
    facts = db.resilience.facts
    # A pooler repeats what a server said when the pooler connected to it, or leaves it out.
    if reported is not None and facts is not None and facts.path is not Path.POOLER:
        return reported == "on"
    with db.wrap_database_errors:
        [(standby,)] = link.ask("SELECT pg_catalog.pg_is_in_recovery()")
        if not db.autocommit:
            link.connection.rollback()  # the question has begun a transaction
    return bool(standby)


def refused_by_standby(db: Wrapper, link: Link, *, untouched: bool) -> bool:
    """Whether a write was refused because the server is a standby now, or fenced off as one.

    The same SQLSTATE is the answer to a write in the application's own read-only transaction.

    Args:
        db: the connection.
        link: its link; the statement has failed on it.
        untouched: nothing had run before it in its transaction.
    """
    session = db._session
    if db._connector.wanted is Wanted.REPLICA or db._thread_sharing_count or session.pinned_by:
        return False
    if "default_transaction_read_only" in session.settings:
        return False  # the application's own wish
    if not (untouched or was_primary(db)):
        return False
    if link.parameter("in_hot_standby") == "on":
        return True
    if link.status() == IDLE:
        with db.wrap_database_errors:
            return bool(link.ask(_FENCED)[0][0])
    if any(name.startswith(_OWN_WISH) for name in db._session.settings):
        return False
    return link.parameter("default_transaction_read_only") == "on" and was_primary(db)


def was_primary(db: Wrapper) -> bool:
    """Whether this alias has reached a server that took writes, or is to."""
    facts = db.resilience.facts
    found = facts is not None and facts.in_recovery is False and facts.read_only is False
    return db._connector.wanted is Wanted.PRIMARY or found


@contextlib.contextmanager
def looking_for_primary(db: Wrapper) -> Iterator[None]:
    """Within this, no standby will do for an alias that had reached a primary."""
    with db._connector.seeks(was_primary(db)):
        yield
