"""The state of one wrapper, and the only methods that change it.

Below everything that recovers, connects or announces: those are handed a :class:`Wrapper` and call
its methods. ``mixins`` completes it to what Django uses. Part of the healthy path, so it imports
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
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from django.db.backends.base.base import NO_DB_ALIAS
from django.db.utils import Error

from ..driver.choose import link_to
from ..driver.closed import LeftCursor
from ..driver.link import ACTIVE, IDLE, IN_TRANSACTION, UNKNOWN, Link
from ..sql.memory import OPENINGS, make_room
from ..sql.texts import text_of
from .connector import Connector
from .originals import engine_below, original
from .session import Session, Where, local_setting
from .transaction import MANUAL, TransactionState
from .unit_of_work import MOST_TEXTS, UNDER_WAY, UNIT

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

    from ..policy.rules import Budget
    from ..sql.local_settings import Local
    from .call import Call
    from .loss import Invalidation, Loss
    from .shared import Resilience

    class Base(DatabaseWrapper):
        """Django's wrapper with what its type stubs leave out (Django 5.2 to 6.1)."""

        health_check_enabled: bool
        health_check_done: bool
        _thread_ident: int
        _thread_sharing_count: int

        _connection_pools: dict[str, Any]

        def _cursor(self, name: str | None = None) -> Any: ...
        def _configure_connection(self, connection: Any) -> Any: ...
        def _configure_role(self, connection: Any) -> bool: ...
        def _close(self) -> None: ...
        def _commit(self) -> None: ...
        def _rollback(self) -> None: ...
        def _savepoint(self, sid: str) -> None: ...
        def _savepoint_rollback(self, sid: str) -> None: ...
        def _savepoint_commit(self, sid: str) -> None: ...
        def _set_autocommit(self, autocommit: bool) -> None: ...

else:
    Base = object


#: What a wrapper has of one connection and its transaction: its own, and Django's.
_LAID_ASIDE = tuple(
    "_link _transaction _session _connector _invalid connection autocommit in_atomic_block"
    " savepoint_ids atomic_blocks needs_rollback commit_on_exit run_on_commit savepoint_state"
    " rollback_exc run_commit_hooks_on_set_autocommit_on close_at closed_in_transaction"
    " errors_occurred health_check_enabled health_check_done".split()
)


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
        """The pool of this alias; ``mixins`` makes it."""
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
        self._link = link = link_to(self.connection)
        resilience = self.resilience
        options = resilience.options
        link.lend(peeks=options.peek, asks_outcome=options.commit_outcome)
        link.belongs_to(self.alias)
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

    @contextlib.contextmanager
    def _laid_aside(self, budget: Budget) -> Iterator[None]:
        """Within it the alias is as before its first connection; after it, as it was.

        For the handlers and receivers of a recovery. Whatever they do on the alias they do on a
        connection of its own, which is closed in the end. It is given the settings of the session,
        and taken from no pool, where the threads that recover might all wait for each other's.
        """
        kept = {name: getattr(self, name) for name in _LAID_ASIDE if hasattr(self, name)}
        settings, options = self.settings_dict, self.settings_dict["OPTIONS"]
        own = {name: value for name, value in options.items() if name != "pool"}
        self.settings_dict = {**settings, "OPTIONS": own}
        self.connection = self._link = self._invalid = None
        self.autocommit = self.in_atomic_block = self.needs_rollback = False
        self.commit_on_exit, self.run_commit_hooks_on_set_autocommit_on = True, False
        self.savepoint_ids, self.atomic_blocks, self.run_on_commit = [], [], []
        self.closed_in_transaction = self.errors_occurred = False
        self._transaction, self._connector = TransactionState(self._on_split), Connector()
        self._connector.budget = budget
        session = Session.of(self._session.held())
        try:
            # The outermost way: other engines have state of their own for each connection.
            self.close()
            self._start_session_of(session)
            yield
        finally:
            self.in_atomic_block = False
            try:
                with contextlib.suppress(Error):
                    self.close()
            finally:
                self.settings_dict = settings
                for name, value in kept.items():
                    setattr(self, name, value)

    def _discard_unfinished(self) -> None:
        """Discard a connection that is not set up yet; a pool would otherwise hand it on so."""
        if self._link is not None:
            self._link.close()
        self._discard()

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

    # -- what a statement means -------------------------------------------------------------

    def _note_effect(self, sql: object) -> None:
        """Remember what a transaction ran, or what took effect in a unit of work."""
        if not self.autocommit:
            self._transaction.ran(sql)
        elif not self._connector.connecting and (unit := UNIT.get()) is not None:
            # What runs while connecting is retried by itself.
            unit.took_effect(self.alias, sql)

    def _note_session(
        self, sql: object, params: Any, *, first: bool = False, many: bool = False
    ) -> None:
        """Remember what a statement that succeeded left in its session and transaction.

        Args:
            sql, params: the statement.
            first: see :class:`..state.call.Call`.
            many: what it leaves cannot be told from its text alone.
        """
        link = self._link
        if self._connector.connecting or link is None:
            return  # what connection_created receivers run is repeated by each connection
        transaction, status = self._transaction, link.status()
        if first and params is None and sql.__class__ is str:
            setting: Local | None = OPENINGS.get(sql)
            if (
                setting is not None
                and status == IN_TRANSACTION
                and not (self.autocommit or many or transaction.controlling)
                and not getattr(self.connection, "_num_transactions", 0)
            ):
                self._begin_with(setting, link)
                return
        if self.autocommit:
            transaction.observe(status, True)
        elif not transaction.controlling:
            self._note_end(sql, status)
        unit = UNIT.get() if UNDER_WAY else None
        if unit is not None:
            unit.keep_session(self.alias, self._session.held)
        where = self._where(status, many)
        self._session.note(
            sql,
            params,
            where,
            driver=self.connection,
            replays=self.resilience.options.replay_session,
            saving=transaction.controlling,
        )
        if first and where is Where.TRANSACTION and not transaction.controlling:
            self._note_opening(sql, params)

    def _note_opening(self, sql: object, params: Any) -> None:
        """Remember a first statement that only sets something for its transaction."""
        link = self._link
        setting = local_setting(sql, params, driver=self.connection)
        if link is None or setting is None:
            return
        if params is None and sql.__class__ is str and not self._session.holds:
            make_room(OPENINGS)
            OPENINGS[sql] = setting
        self._begin_with(setting, link)

    def _begin_with(self, setting: Local, link: Link) -> None:
        transaction = self._transaction
        # In a savepoint the mode of the transaction ends with the savepoint, released or not.
        if not (setting.of_transaction and transaction.has_savepoints):
            transaction.began_with(setting, link.bytes_read)

    def _where(self, status: int, many: bool) -> Where:
        """In what a statement has just run."""
        # Within transaction() of psycopg 3 its end is the driver's, and not known here.
        nested = getattr(self.connection, "_num_transactions", 0)
        # Ended inside its block: what follows may take effect at once (psycopg2), or with an end
        # that nobody here sees.
        unseen = nested or self._transaction.was_split
        # ACTIVE: in a pipeline, whose results are still to come.
        if many or unseen or status == ACTIVE or (self.autocommit and status != IDLE):
            return Where.UNCLEAR
        return Where.AUTOCOMMIT if self.autocommit else Where.TRANSACTION

    def _note_end(self, sql: object, status: int) -> None:
        """Notice that a text has ended the transaction inside its block, or may have: COMMIT.

        psycopg2 takes no notice of it, so that what follows takes effect at once.
        """
        text = text_of(sql)
        statements = reader()
        if status == IDLE or statements is None or statements.ends_transaction(text):
            self._transaction.split(by_text=True)

    def _note_failed(self, call: Call) -> None:
        """Remember what a statement may have done although it failed."""
        if not self.autocommit:
            self._note_end(call.sql, UNKNOWN)  # by its text alone
            self._note_unsent(call)
        elif UNDER_WAY and (call.many or self._may_commit_inside(call.sql)):
            self._note_effect(call.sql)

    def _note_wrong(self, call: Call) -> None:
        """As :meth:`_note_failed`, of a text that leaves nothing behind, and is wrong."""
        if not self.autocommit:
            self._note_unsent(call)
        elif UNDER_WAY and call.many:
            self._note_effect(call.sql)  # of the rows before

    def _note_unsent(self, call: Call) -> None:
        if self._link is not None:
            status = self._link.status()
            self._transaction.unsent(call.first, status)
            self._transaction.failed(status)

    def _may_commit_inside(self, sql: object) -> bool:
        """Whether a statement that failed may have committed before: CALL, several statements."""
        link, statements = self._link, reader()
        standard = link is None or link.parameter("standard_conforming_strings") == "on"
        if statements is None:
            return True
        found = statements.analyse(text_of(sql), standard_strings=standard)
        return bool(found.kind is statements.Kind.UNREPEATABLE)

    def _note_left(self, call: Call) -> None:
        """Pin a living session in which a statement that failed may have left something.

        Locks it took before; what the first of several statements, or of many rows, has set.
        """
        if self._connector.connecting or self._link is None or self._link.lost():
            return
        statements = reader()
        if statements is None:
            self._session.pin("a text that could not be read when it had failed")
        elif words := statements.left_by_failure(text_of(call.sql), many=call.many):
            self._session.pin(words)

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
