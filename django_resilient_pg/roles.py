"""Primary or standby: which one an alias is to reach, and which one it has reached.

A standby answers reads, the server's own ``SELECT 1`` among them, and refuses every write with
SQLSTATE 25006. A server tells what it is in ``in_hot_standby`` (PostgreSQL 14, reported when a
connection is made and whenever it changes), or when asked ``pg_is_in_recovery()``.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from django.core.exceptions import ImproperlyConfigured
from django.db.utils import Error, OperationalError

from . import notes
from .drivers import IDLE, Link
from .facts import Path
from .replacing import drop

if TYPE_CHECKING:
    from .mixins import ResilientDatabaseMixin

_PRIMARY: Final = frozenset({"primary", "read-write"})
_REPLICA: Final = frozenset({"standby", "read-only", "prefer-standby"})
# What a session may set itself, as ``assignments`` names it.
_OWN_WISH: Final = ("default_transaction_read_only", "session characteristics")
# A setting of the server, as a failover manager makes it: not of this session, role or database.
_FENCED: Final = (
    "SELECT pg_catalog.pg_is_in_recovery() OR EXISTS (SELECT FROM pg_catalog.pg_settings AS s"
    " WHERE s.setting OPERATOR(pg_catalog.=) 'on'"
    " AND s.name OPERATOR(pg_catalog.=) 'default_transaction_read_only'"
    " AND s.source OPERATOR(pg_catalog.=) 'configuration file')"
)


class Wanted(enum.Enum):
    """What an alias is to reach."""

    PRIMARY = "primary"
    REPLICA = "replica"
    ANY = "any"


def wanted(alias: str, primary: bool | None, attributes: str) -> Wanted:
    """What the option ``primary`` and libpq's ``target_session_attrs`` say together.

    Raises:
        ImproperlyConfigured: they contradict each other.
    """
    if primary and attributes in _REPLICA:
        raise ImproperlyConfigured(
            f'The resilience option "primary" of the database "{alias}" is True, but its'
            f' target_session_attrs is "{attributes}". Remove one of them.'
        )
    if primary or (primary is None and attributes in _PRIMARY):
        return Wanted.PRIMARY
    return Wanted.REPLICA if attributes in _REPLICA else Wanted.ANY


def require(db: ResilientDatabaseMixin) -> None:
    """Refuse a new connection to a standby where the alias is to reach the primary.

    Raises:
        OperationalError: it leads to a standby; it is closed. Worth trying again.
    """
    if db._link is None or not (db._seeks_primary or db._wanted is Wanted.PRIMARY):
        return
    try:
        if is_standby(db, db._link):
            raise OperationalError(notes.standby(db.alias))
    except Error:
        # Not left to a pool either: it would hand it out again.
        db._link.close()
        drop(db)
        if db._pooled:
            db.pool.distrust()
        raise


def is_standby(db: ResilientDatabaseMixin, link: Link) -> bool:
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


def refused_by_standby(db: ResilientDatabaseMixin, link: Link, *, untouched: bool) -> bool:
    """Whether a write was refused because the server is a standby now, or fenced off as one.

    The same SQLSTATE is the answer to a write in the application's own read-only transaction.

    Args:
        db: the connection.
        link: its link; the statement has failed on it.
        untouched: nothing had run before it in its transaction.
    """
    session = db._session
    if db._wanted is Wanted.REPLICA or db._thread_sharing_count or session.pinned_by:
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


def was_primary(db: ResilientDatabaseMixin) -> bool:
    """Whether this alias has reached a server that took writes, or is to."""
    facts = db.resilience.facts
    found = facts is not None and facts.in_recovery is False and facts.read_only is False
    return db._wanted is Wanted.PRIMARY or found


@contextlib.contextmanager
def looking_for_primary(db: ResilientDatabaseMixin) -> Iterator[None]:
    """Within this, no standby will do for an alias that had reached a primary."""
    db._seeks_primary = was_primary(db)
    try:
        yield
    finally:
        db._seeks_primary = False
