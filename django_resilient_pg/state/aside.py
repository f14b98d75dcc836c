"""An alias laid aside: for who uses it in the middle of its own recovery."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from django.db.utils import Error

from .connector import Connector
from .session import Session
from .transaction import TransactionState
from .wrapper import Wrapper

if TYPE_CHECKING:
    from ..policy.rules import Budget

#: Django's transaction state, which ``connect()`` would reset.
OF_TRANSACTION: Final = tuple(
    "in_atomic_block savepoint_ids atomic_blocks needs_rollback commit_on_exit run_on_commit"
    " savepoint_state rollback_exc run_commit_hooks_on_set_autocommit_on".split()
)
# What a wrapper has of one connection and its transaction: its own, and Django's.
_KEPT: Final = (
    *OF_TRANSACTION,
    *"_link _transaction _session _connector _invalid connection autocommit".split(),
    *"close_at closed_in_transaction errors_occurred health_check_enabled".split(),
    "health_check_done",
)


def values_of(db: Wrapper, names: Iterable[str]) -> dict[str, Any]:
    """Attributes of a wrapper, as far as this version of Django has them."""
    return {name: getattr(db, name) for name in names if hasattr(db, name)}


def put_back(db: Wrapper, values: Mapping[str, Any]) -> None:
    """The attributes are as they were."""
    for name, value in values.items():
        setattr(db, name, value)


@contextlib.contextmanager
def laid_aside(db: Wrapper, budget: Budget) -> Iterator[None]:
    """Within it the alias is as before its first connection; after it, as it was.

    For the handlers and receivers of a recovery. Whatever they do on the alias they do on a
    connection of its own, which is closed in the end. It is given the settings of the session,
    and taken from no pool, where the threads that recover might all wait for each other's.
    """
    kept = values_of(db, _KEPT)
    settings, options = db.settings_dict, db.settings_dict["OPTIONS"]
    own = {name: value for name, value in options.items() if name != "pool"}
    db.settings_dict = {**settings, "OPTIONS": own}
    db.connection = db._link = db._invalid = None
    db.autocommit = db.in_atomic_block = db.needs_rollback = False
    db.commit_on_exit, db.run_commit_hooks_on_set_autocommit_on = True, False
    db.savepoint_ids, db.atomic_blocks, db.run_on_commit = [], [], []
    db.closed_in_transaction = db.errors_occurred = False
    db._transaction, db._connector = TransactionState(db._on_split), Connector()
    db._connector.budget = budget
    session = Session.of(db._session.held())
    try:
        # The outermost way: other engines have state of their own for each connection.
        db.close()
        db._start_session_of(session)
        yield
    finally:
        db.in_atomic_block = False
        try:
            with contextlib.suppress(Error):
                db.close()
        finally:
            db.settings_dict = settings
            put_back(db, kept)
