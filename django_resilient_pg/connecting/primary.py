"""Primary or standby: which one an alias is to reach, and which one it has reached.

A standby answers reads, the server's own ``SELECT 1`` among them, and refuses every write with
SQLSTATE 25006. A server tells what it is in ``in_hot_standby`` (PostgreSQL 14, reported when a
connection is made and whenever it changes), or when asked ``pg_is_in_recovery()``.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from time import monotonic
from typing import Final

from django.db.utils import Error, OperationalError

from ..conf.wanted import Wanted
from ..driver.choose import link_to
from ..driver.link import IDLE, Link
from ..facts import Path
from ..policy import messages
from ..state.wrapper import Wrapper
from . import physical_attempt

# What a session may set itself, as ``session_effects`` names it.
_OWN_WISH: Final = ("default_transaction_read_only", "session characteristics")
# A setting of the server, as a failover manager makes it: not of this session, role or database.
_FENCED: Final = (
    "SELECT pg_catalog.pg_is_in_recovery(), EXISTS (SELECT FROM pg_catalog.pg_settings AS s"
    " WHERE s.setting OPERATOR(pg_catalog.=) 'on'"
    " AND s.name OPERATOR(pg_catalog.=) 'default_transaction_read_only'"
    " AND s.source OPERATOR(pg_catalog.=) 'configuration file')"
)

_TAKES_WRITES: Final = (
    "SELECT NOT pg_catalog.pg_is_in_recovery()"
    " AND pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off'"
)


class Refusal(enum.Enum):
    """Why a server refused to write.

    STANDBY: it is one now, and the connection may be left for another server. FENCED: it is a
    primary that was made read-only by its configuration. OWN: the application has asked for that,
    or its connection may not be left.
    """

    STANDBY = "standby"
    FENCED = "fenced"
    OWN = "own"


def require(db: Wrapper) -> None:
    """Refuse a new connection to a standby, of an alias that is to reach the primary.

    Raises:
        OperationalError: it leads to a standby; it is closed. Worth trying again.
    """
    if db._link is None:
        return
    try:
        if is_standby(db, db._link):
            raise OperationalError(messages.standby(db.alias))
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


def why_refused(db: Wrapper, link: Link, *, untouched: bool) -> Refusal:
    """Why a write was refused with SQLSTATE 25006.

    The same is the answer to a write in the application's own read-only transaction.

    Args:
        db: the connection.
        link: its link; the statement has failed on it.
        untouched: nothing had run before it in its transaction.
    """
    session = db._session
    own_wish = "default_transaction_read_only" in session.settings
    if db._connector.wanted is Wanted.REPLICA or own_wish:
        return Refusal.OWN
    if link.parameter("in_hot_standby") == "on":
        return _by_standby(db, untouched=untouched)
    if link.status() == IDLE and not db._thread_sharing_count:
        with db.wrap_database_errors:
            [(standby, fenced)] = link.ask(_FENCED)
        if standby:
            return _by_standby(db, untouched=untouched)
        return Refusal.FENCED if fenced else Refusal.OWN
    if any(name.startswith(_OWN_WISH) for name in session.settings):
        return Refusal.OWN
    fenced = link.parameter("default_transaction_read_only") == "on" and was_primary(db)
    return Refusal.FENCED if fenced else Refusal.OWN


def _by_standby(db: Wrapper, *, untouched: bool) -> Refusal:
    left = _may_be_left(db) and (untouched or was_primary(db))
    return Refusal.STANDBY if left else Refusal.OWN


def _may_be_left(db: Wrapper) -> bool:
    """Whether the connection may be replaced under the application."""
    return not (db._thread_sharing_count or db._session.pinned_by)


def better_is_found(db: Wrapper) -> bool:
    """Whether the alias leads to a server that takes writes, while its connection does not.

    Connects beside the connection in place, which is kept: it is the only one that works until
    there is a better one. Where there is none, once a second for all threads.
    """
    shared = db.resilience.shared
    if not (_may_be_left(db) and shared.may_seek(monotonic())):
        return False
    found = _beside_takes_writes(db)
    if not found:
        shared.sought_in_vain(monotonic())
    return found


def _beside_takes_writes(db: Wrapper) -> bool:
    try:
        parameters = db.get_connection_params()
        # By the driver, not from a pool, whose connections lead to the same.
        made = physical_attempt.make(db, lambda given: db.Database.connect(**given), parameters)
        beside = link_to(made)
    except (Error, db.Database.Error):
        return False
    try:
        return beside.ask(_TAKES_WRITES) == [(True,)]
    except beside.connection.Error:
        return False
    finally:
        beside.close()


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
