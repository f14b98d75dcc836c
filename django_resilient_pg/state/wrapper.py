"""The state of one wrapper, and the only methods that change it.

Below everything that recovers, connects or announces: those are handed a :class:`Wrapper` and call
its methods. ``hooks`` completes it to what Django uses. Part of the healthy path, so it imports
nothing that costs time.

Invariants:

* After :meth:`Wrapper._bind` the link is that of the connection in place; without a connection
  there is no link.
* An invalidated wrapper has a closed link that nobody trusts: the next statement is told.
* Discarding keeps the session for the next connection; closing starts a new one.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.db.backends.base.base import NO_DB_ALIAS
from django.db.utils import Error

from ..driver.choose import link_to
from ..driver.closed import LeftCursor
from ..driver.link import UNKNOWN, Link
from .connector import Connector
from .originals import engine_below, original
from .session import Session
from .stubs import Base
from .transaction import MANUAL, TransactionState
from .unit_of_work import MOST_TEXTS, UNDER_WAY, UNIT

if TYPE_CHECKING:
    from .loss import Invalidation, Loss
    from .shared import Resilience


def _weakly(method: Callable[[bool], None]) -> Callable[[bool], None]:
    """A method that does not keep its wrapper: in a circle it would wait for the collector."""
    reference = weakref.WeakMethod(method)

    def call(given: bool) -> None:
        bound = reference()
        if bound is not None:
            bound(given)

    return call


class Wrapper(Base):
    """What the engine knows of one alias in one thread."""

    #: The engine that this one is composed with; see :mod:`..originals`.
    _below: Any
    #: Django's method that closes a connection, or gives it back to its pool.
    _gives_back: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        below = cls._below = engine_below(cls, Wrapper)
        cls._gives_back = original(below, "_close") if hasattr(below, "_close") else object()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Nothing is parsed and nothing connects here: psqlextra makes an instance at import.
        self._link: Link | None = None
        self._transaction = TransactionState(_weakly(self._on_split))
        self._session = Session()
        self._connector = Connector()
        self._invalid: Invalidation | None = None

    @cached_property
    def resilience(self) -> Resilience:
        """What the engine knows: options, facts, limits and stats; read-only."""
        from .shared import Resilience

        return Resilience(self)

    @property
    def pool(self) -> Any:
        """The pool of this alias; ``hooks.connections`` makes it."""
        raise NotImplementedError

    @property
    def _pooled(self) -> bool:
        return bool(self.settings_dict["OPTIONS"].get("pool")) and self.alias != NO_DB_ALIAS

    @property
    def _thread_ends(self) -> bool:
        """Whether its thread ends with the request under way."""
        return self._connector.thread_ends

    @property
    def _in_testcase(self) -> bool:
        """Whether the outermost block is of Django's TestCase, which rolls it back anyway."""
        return any(getattr(block, "_from_testcase", False) for block in self.atomic_blocks)

    # -- the connection in place ------------------------------------------------------------

    def _bind(self) -> Link:
        """Attach to the driver connection that is now in place."""
        self._link = link = link_to(self.connection, self.alias)
        resilience = self.resilience
        options = resilience.options
        link.lend(peeks=options.peek, asks_outcome=options.commit_outcome)
        link.quiet = min(resilience.limits.idle.seconds, options.ping_after)
        if not self._session.due:
            earlier = self._session
            self._session = self._session_after_close()
            self._session.continues = earlier.continues
            self._session.registered = earlier.registered
        self._invalid = None
        self._transaction.moved(self.autocommit)
        return link

    def _rebind(self) -> bool:
        """As :meth:`_bind`, to a connection of which nothing is to be found out any more.

        Its pool has lent it before, on terms that it has found to hold just now.
        """
        terms, connector = self.resilience.terms, self._connector
        if terms is None or connector.lost or connector.seeks_primary:
            return False
        # What receivers of connection_created have run on it is not looked into here.
        if self._link is not None or terms.shared.learned.suspicion is not None:
            return False
        link = getattr(self.connection, "_django_resilient_pg_link", None)
        if link is None or link.terms is not terms or not self._session.blank:
            return False
        if UNDER_WAY:
            self._session = self._session_after_close()
        self._link, self._invalid = link, None
        self._transaction.moved(self.autocommit)
        return True

    def _close(self) -> None:
        """As Django's; what a pool has lent goes back without asking twice which pool that is."""
        lent: Any = self.connection
        pool = getattr(lent, "_pool", None)  # None has none either
        if (
            pool is None
            or self._below._close is not type(self)._gives_back
            or pool is not self._connection_pools.get(self.alias)
        ):
            super()._close()
            return
        try:
            lent._pool.putconn(lent)
        except BaseException:
            with self.wrap_database_errors:
                raise
        self.connection = None

    def _observe(self, link: Link) -> int:
        """Compare the transaction with the driver; returns its ``PQtransactionStatus``."""
        status, transaction = link.status(), self._transaction
        transaction.observe(status, self.autocommit)
        if status == UNKNOWN and not (link.announced or link.inherited or self._invalid):
            transaction.lost_unseen(self.autocommit, manual=not link.connection.autocommit)
        return status

    def _put_back(self, link: Link | None, *, split: bool) -> None:
        """Put a lost connection back into its place, so that nothing runs outside of it."""
        self.connection = None if link is None else link.connection
        self._link = link
        self._transaction.moved(self.autocommit, split=split)

    def _release(self, session: Session) -> None:
        """There is no connection any more; the next one begins with this session."""
        self.connection = self._link = self._invalid = None
        self._session = session
        self._transaction.moved(self.autocommit)

    def _discard(self) -> None:
        """Close the connection the outermost way, whatever it says; the next is made like it.

        Other engines and receivers hang their own state to ``close()``. For the application that
        is where a new session starts; here the session goes on.
        """
        self._keep_registered()
        session, link = self._session.gone(), self._link
        if link is not None and link.lost():
            link.close()
        try:
            with contextlib.suppress(Error):
                self.close()
        finally:
            self._release(session)

    def _keep_registered(self) -> None:
        """Keep what was registered on the driver's object, for the next one."""
        link, session = self._link, self._session
        if link is None or session.registered is not None:
            return
        session.registered = link.registered()
        self._note_unseen()

    def _note_unseen(self) -> None:
        """Remember what no other connection tells of what was run on this one."""
        unit = UNIT.get() if UNDER_WAY else None
        if unit is not None and self._link is not None and self._link.wrote_unseen():
            unit.cannot_tell(self.alias)

    def _leave_to_its_cursors(self, asking: Any) -> None:
        """Have a connection that lives closed with the last of its cursors, which may have rows.

        psycopg2 only: it gives none of a closed connection, and closes one that nobody refers to.
        An engine that takes its connections back (to a pool) gets this one too.

        Args:
            asking: the cursor wrapper about to send its next statement, if any: no rows are wanted
                of it any more.
        """
        from django.db.backends.postgresql.base import DatabaseWrapper  # imports a driver

        own = type(self)._close is Wrapper._close
        closes = own and self._below._close is DatabaseWrapper._close  # type: ignore[attr-defined]
        link = self._link
        if closes and link is not None and not link.keeps_rows:
            if asking is not None and asking._link is link:
                asking.cursor = LeftCursor(asking.cursor)
            self._keep_registered()
            self.connection = None
            link.leave()

    def _invalidate(self, invalid: Invalidation) -> None:
        """Keep the dead connection in its place, so that nothing can run as if nothing had been."""
        self._invalid = invalid
        self.errors_occurred = True
        if self._link is not None:
            self._link.doubt()  # the next statement looks, and is told
            self._link.close()

    def _discard_or_invalidate(self, loss: Loss | None) -> None:
        """Discard a connection, or invalidate it where something depended on it."""
        from .loss import Invalidation

        pinned_by = self._session.pinned_by
        if not pinned_by and self._transaction.phase is MANUAL:
            pinned_by = "BEGIN"
        if self.autocommit and not pinned_by:
            self._discard_or_hold(loss)
            return
        self._invalidate(Invalidation(loss, pinned_by if self.autocommit else ""))

    def _discard_or_hold(self, loss: Loss | None) -> None:
        """Discard a connection, or keep it in its place until its pipeline is left.

        What comes next in the pipeline would take effect without what went before.
        """
        if self._link is not None and self._link.in_pipeline():
            from .loss import PIPELINE, Invalidation

            self._invalidate(Invalidation(loss, PIPELINE))
        else:
            self._discard()

    def _leave_lost_transaction(self) -> None:
        """Turn autocommit on without the connection, which the next statement makes anew."""
        self.validate_no_atomic_block()
        hooks = self.run_on_commit[: self._transaction.hooks_due]
        due = self.run_commit_hooks_on_set_autocommit_on
        self._discard_or_hold(None if self._invalid is None else self._invalid.loss)
        self.autocommit = True
        self._transaction.moved(True)
        if due:
            self.run_on_commit = hooks
            self.run_commit_hooks_on_set_autocommit_on = False
            self.run_and_clear_commit_hooks()

    # -- session ----------------------------------------------------------------------------

    def _session_after_close(self) -> Session:
        """A clean one; units of work under way remember what the old one held."""
        unit = UNIT.get() if UNDER_WAY else None
        if unit is not None:
            unit.keep_session(self.alias, self._session.held)
        session = self._session
        return session if unit is None and session.blank else Session()

    def _start_session_of(self, session: Session) -> None:
        """The next connection is given what this session held."""
        session.continues = session.holds or self._session.continues
        self._session = session

    # -- what has taken effect --------------------------------------------------------------

    def _on_split(self, by_text: bool) -> None:
        """The transaction was ended inside its block: what it ran has taken effect, or may have."""
        self._note_lasting()
        if not by_text:  # otherwise the session reads the text itself
            self._session.controlled()

    def _transaction_over(self) -> None:
        """Nothing of the transaction is left, and Django forgets its hooks."""
        self._session.rolled_back()
        self._transaction.over(0)

    def _note_committed(self) -> None:
        """What the transaction ran has taken effect, or may have; its hooks are about to run."""
        self._note_lasting()
        if (unit := UNIT.get()) is not None:
            unit.ran_hooks(len(self.run_on_commit))

    def _note_lasting(self) -> None:
        unit = UNIT.get()
        if unit is None or self._connector.connecting:
            return  # what connection_created receivers commit is done again by each connection
        unit.committed(self)
        texts = self._transaction.texts
        for text in texts:
            unit.took_effect(self.alias, text)
        if len(texts) >= MOST_TEXTS or self._transaction.was_split:
            unit.cannot_tell(self.alias)
