"""Transactions and savepoints: Django's hooks."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from django.db.utils import Error

from ..driver.link import FRESH, IDLE, IN_TRANSACTION, UNKNOWN, Link
from ..driver.process import SAME, notice_fork
from ..state.originals import COMMIT, COMMIT_ASKED
from ..state.transaction import DIRTY, MANUAL, OPENED
from ..state.unit_of_work import NO_TEXT, UNDER_WAY, UNIT
from .cursors import CursorHooks

if TYPE_CHECKING:
    from ..recovery.outcome import TransactionId


class TransactionHooks(CursorHooks):
    """Begins and ends transactions; of a lost one it has the server asked, or says so."""

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        """Entering a transaction looks first; leaving one needs nothing of a dead connection."""
        link, connector, status = self._link, self._connector, IDLE
        if (
            connector.lender is not None
            and link is None
            and autocommit
            and self.connection.autocommit
            and self.resilience.terms is not None
            and not (self.in_atomic_block or self.run_commit_hooks_on_set_autocommit_on)
        ):
            # A pool has lent it as it was given back; its driver takes a lock to set what is set.
            self.autocommit = autocommit
            return
        if link is not None and not connector.connecting and self.connection is not None:
            if not autocommit:
                if monotonic() - link.seen_at > FRESH and not self._glance(link, link.status()):
                    self._look()
                if self._transaction.phase is MANUAL and self._link is not None:
                    self._observe(self._link)  # it may have been ended past Django
                super().set_autocommit(False, force_begin_transaction_with_broken_autocommit)
                self._transaction.begin()  # now: the driver may refuse
                return
            status = link.status()
            if status == UNKNOWN:
                try:
                    self._leave_lost_transaction()
                finally:
                    self._tell_kept()
                return
        try:
            super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)
            if status != IDLE and link is not None and link is self._link:
                # psycopg2 knows nothing of a transaction that a text has begun: it goes on.
                self._observe(link)
        finally:
            if self._transaction.announcements:
                self._tell_kept()

    def _tell_kept(self) -> None:
        """A transaction is over, for which log lines and signals may have waited."""
        if self._transaction.announcements and not self.in_atomic_block:
            from ..state.announce import tell_kept

            tell_kept(self)

    def commit(self) -> None:
        """As Django's; see :meth:`cursor`."""
        if self._below.commit is COMMIT and _get_running_loop() is None:
            COMMIT_ASKED(self)
        else:
            super().commit()

    def _commit(self) -> None:
        """COMMIT; of one that was lost ``commit`` finds out what became of it."""
        link = self._link
        if link is None or link.connection is not self.connection:
            super()._commit()
            self._note_committed()
            return
        unit = UNIT.get() if UNDER_WAY else None
        if unit is not None:
            unit.begin(self)  # raises if the request is replayed without what has come here
        try:
            status, transaction = link.status(), self._transaction
            if (
                status != IN_TRANSACTION
                or transaction.phase is not DIRTY
                or self._invalid is not None
                or monotonic() - link.seen_at > FRESH
            ) and self._is_over(link, status):
                return
            asks = link.asks_outcome or (unit is not None and unit.is_transaction_of(self))
            marked = self._mark(link, status) if asks else None
            try:
                super()._commit()
            except BaseException as error:
                if not self._has_committed(link, error, marked):
                    raise
            sent = transaction.phase >= OPENED and not self.autocommit
            if unit is not None:
                self._note_committed()
            if self._session.pending or transaction.announcements:
                self._after_commit()
            transaction.over(len(self.run_on_commit))
            if sent:
                link.heard_at = link.seen_at = monotonic()
            else:  # in autocommit psycopg2 sends nothing, whatever a text has begun
                transaction.observe(link.status(), self.autocommit)
        finally:
            if unit is not None:
                unit.end(self)

    def _after_commit(self) -> None:
        if self._session.pending:
            self._session.committed()
        if not self.settings_dict["AUTOCOMMIT"]:
            self._tell_kept()  # it stays off

    def _is_over(self, link: Link, status: int) -> bool:
        """Look before COMMIT is sent: whether there is nothing left to send it to.

        Raises:
            TransactionLost: the connection is gone, and with it what the transaction had done.
        """
        transaction = self._transaction
        if not SAME[0]:
            notice_fork()
            status = link.status()
        self._observe(link)
        if status == IN_TRANSACTION and self.autocommit:
            transaction.texts.add(NO_TEXT)  # begun past set_autocommit(): what it ran was not kept
        stale = monotonic() - link.seen_at > FRESH and not self._thread_sharing_count
        # A loss seen before COMMIT is sent is certain, not "outcome unknown".
        if self._invalid is not None or status == UNKNOWN or (stale and link.peek(0)):
            from ..recovery.commit import gone_before_commit

            if gone_before_commit(self, link):
                hooks = len(self.run_on_commit)
                self._note_committed()
                transaction.over(hooks)
                return True
        if self._session.pending and status != IN_TRANSACTION:
            self._session.rolled_back()  # the server answers the COMMIT of a failed transaction so
        return False

    def _mark(self, link: Link, status: int) -> TransactionId | None:
        """The id of the transaction, asked for before COMMIT.

        Returns:
            ``None``: it has only read, or it cannot be asked for.
        """
        if status != IN_TRANSACTION or not (self._transaction.begun and link.sends_commit()):
            return None
        try:
            from ..recovery.commit import mark_transaction
        except OSError:  # no file descriptor is left
            return None
        try:
            return mark_transaction(self, link)
        except Error:
            raise
        except BaseException:
            # Not the database's: Django does not roll back then. COMMIT has not been sent.
            self._discard_interrupted(link)
            raise

    def _has_committed(
        self, link: Link, error: BaseException, marked: TransactionId | None
    ) -> bool:
        """Whether a transaction has committed although its COMMIT failed; see ``commit``."""
        if isinstance(error, Error):
            from ..recovery.commit import has_committed

            return has_committed(self, link, error, marked)
        self._note_committed()  # it may have
        self._interrupted()
        return False

    def on_commit(self, func: Callable[[], object], robust: bool = False) -> None:
        """As Django's; outside of a transaction the hook runs at once."""
        if (unit := UNIT.get()) is not None:
            if not self.in_atomic_block:
                unit.ran_hooks(1)
            unit.check(self.alias)
        super().on_commit(func, robust)

    def _rollback(self) -> None:
        """A lost connection was rolled back by the server: nothing is left to do."""
        link = self._link
        if link is None or link.connection is not self.connection:
            super()._rollback()
            return
        if not SAME[0]:
            notice_fork()
        try:
            status = self._observe(link)
            if status != UNKNOWN:
                super()._rollback()
                if status != IDLE:
                    link.heard_at = monotonic()
        except Error as error:
            if not link.lost():
                raise
            from ..recovery.commit import lost_in_rollback

            lost_in_rollback(self, link, error)
        except BaseException:
            self._interrupted()
            raise
        self._invalid = None
        self._transaction_over()
        self._transaction.observe(link.status(), self.autocommit)  # psycopg2: as after COMMIT
        if not self.settings_dict["AUTOCOMMIT"]:
            self._tell_kept()  # it stays off

    def _savepoint(self, sid: str) -> None:
        self._control(super()._savepoint, sid)
        self._transaction.opening.saved(sid)
        if self._session.pending:
            self._session.savepoint(sid)

    def _savepoint_rollback(self, sid: str) -> None:
        try:
            self._control(super()._savepoint_rollback, sid)
        except Error:
            # Otherwise Django would mark the outer blocks for a rollback, which ends them silently.
            # So whatever comes next raises TransactionLost, COMMIT included.
            if self._invalid is None or self._invalid.pinned_by or self._in_testcase:
                raise
            self._invalid.rolled_back = sid
            return
        self._session.rolled_back_to(sid)
        self._transaction.opening.rolled_back_to(sid)

    def _savepoint_commit(self, sid: str) -> None:
        if self._invalid is not None and self._invalid.rolled_back == sid:
            return
        self._control(super()._savepoint_commit, sid)
        self._transaction.opening.released(sid)

    def _control(self, run: Callable[[str], None], sid: str) -> None:
        """Run a savepoint statement: by itself it leaves a transaction as it was."""
        status = UNKNOWN if self._link is None else self._link.status()
        self._transaction.control(run, sid, status, self.autocommit)
