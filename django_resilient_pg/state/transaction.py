"""What the transaction under way has done, held against what the driver says of it. Pure.

The phases, and what leads from one to the next::

    AUTO <-> MANUAL               Django's autocommit; MANUAL: begun by a text or by the driver
    CLEAN -> OPENED -> DIRTY -> SPLIT         between set_autocommit(False) and its COMMIT

Invariants:

* Only :meth:`begin`, :meth:`over`, :meth:`moved`, :meth:`restored`, :meth:`unsent`,
  :meth:`sent_nothing` and :meth:`began_with` lower the phase; of these only :meth:`begin`,
  :meth:`over` and :meth:`moved` leave SPLIT.
* Where ``opening`` holds something the phase is OPENED or later.
* Settings are added to ``opening`` only while nothing but it has been run, by anybody.
* Texts that hold ``NO_TEXT``, or ``MOST_TEXTS`` of them, never count as "has only read".
* In autocommit the phase is what the driver said last; a dead connection says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..driver.link import FAILED, IDLE, IN_TRANSACTION, UNKNOWN
from .opening import Opening, Step
from .unit_of_work import LONGEST_TEXT, MOST_TEXTS, NO_TEXT

if TYPE_CHECKING:
    from ..sql.local_settings import Local

#: How far a transaction has come. Plain numbers: each statement compares some of them.
Phase: TypeAlias = int
#: Each statement is a transaction of its own.
AUTO: Final[Phase] = 0
#: Django is in autocommit, but a transaction is open that it has not begun.
MANUAL: Final[Phase] = 1
#: Nothing has been run yet.
CLEAN: Final[Phase] = 2
#: Only statements have been run that leave nothing behind, or can be replayed: savepoints,
#: ``SET LOCAL``, ``executemany`` of none.
OPENED: Final[Phase] = 3
#: A statement has been run.
DIRTY: Final[Phase] = 4
#: Ended inside its block, by a text or by the driver: what it ran may have taken effect.
SPLIT: Final[Phase] = 5
_NOTHING_RUN: Final = frozenset({AUTO, CLEAN, OPENED})
# PQtransactionStatus of a transaction under way, a failed one too.
_OPEN: Final = frozenset({IN_TRANSACTION, FAILED})
_SETTLED: Final = frozenset({IDLE, IN_TRANSACTION})


class TransactionState:
    """The transaction of one wrapper.

    Args:
        on_split: called when a transaction is found ended inside its block; with True where its
            text told, False where the driver did.

    Attributes:
        phase: see :data:`Phase`.
        texts: what has been run, for as long as nothing of it is committed; at most ``MOST_TEXTS``.
            Of what has no text of its own, and of what is too long to keep, its ``id()``.
        opening: how it began. While it is OPENED another connection can be given all of this before
            the first real statement.
        controlling: a savepoint statement of Django's own is under way.
        hooks_due: how many of ``run_on_commit`` belong to transactions that were committed.
        announcements: log lines and signals that go out when it is over.
    """

    __slots__ = (
        "_on_split",
        "announcements",
        "controlling",
        "hooks_due",
        "opening",
        "phase",
        "texts",
    )

    def __init__(self, on_split: Callable[[bool], None]) -> None:
        self._on_split = on_split
        self.phase = AUTO
        self.texts: set[object] = set()
        self.opening = Opening()
        self.controlling = False
        self.hooks_due = 0
        self.announcements: list[Any] = []

    # -- what it is -------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether a statement of this transaction may be missing after a loss."""
        return self.phase >= DIRTY

    @property
    def was_split(self) -> bool:
        """Whether something of it may have taken effect, or will by itself."""
        return self.phase is SPLIT or self.phase is MANUAL

    @property
    def has_run_nothing(self) -> bool:
        """Whether its loss leaves nothing missing."""
        return self.phase in _NOTHING_RUN

    # -- where it begins and ends -----------------------------------------------------------

    def begin(self) -> None:
        """Django has entered a transaction; BEGIN itself goes out with the first statement.

        psycopg2 enters one that a text has begun: what that has run was not kept.
        """
        if self.phase is MANUAL:
            self.phase = DIRTY
            self.texts.add(NO_TEXT)
        else:
            self.phase = CLEAN

    def over(self, hooks_due: int) -> None:
        """COMMIT or ROLLBACK has ended the transaction; ``hooks_due`` of its hooks are to run."""
        self.phase = AUTO  # where autocommit stays off, the next statement finds it CLEAN
        self.hooks_due = hooks_due
        if self.opening:
            self.opening.forget()
        if self.texts:
            self.texts.clear()

    def moved(self, autocommit: bool, *, split: bool = False) -> None:
        """Another connection is in place, and has run nothing.

        Args:
            autocommit: Django's.
            split: it stands in for a lost one, on which the transaction had been split.
        """
        if autocommit:
            self.phase = AUTO
        else:
            self.phase = SPLIT if split else CLEAN
        if self.texts:
            self.texts = set()
        if self.opening:
            self.opening.forget()

    def restored(self, opening: Iterable[Step]) -> None:
        """This is about to be replayed on another connection."""
        self.opening[:] = opening
        self.texts.update(step.sql for step in self.opening if not isinstance(step, str))
        if self.opening and self.phase is CLEAN:
            self.phase = OPENED

    def replayed(self, bytes_read: Callable[[], int | None]) -> None:
        """All of it is there; ``bytes_read``: see :meth:`.Opening.began_with`."""
        if not self.opening.replayed(bytes_read):
            self.dirtied()

    def outcome_unknown(self, autocommit: bool) -> None:
        """COMMIT was lost and nobody can say what became of it: it may have taken effect."""
        self.over(0)
        self.phase = MANUAL if autocommit else SPLIT

    # -- what the driver says ---------------------------------------------------------------

    def observe(self, status: int, autocommit: bool) -> None:
        """Compare with the driver: the one place that notices what went past Django.

        Args:
            status: ``PQtransactionStatus``; of a dead connection UNKNOWN, which tells nothing.
            autocommit: Django's.
        """
        if autocommit:
            self._observe_autocommit(status)
            return
        self.phase = max(self.phase, CLEAN)
        if status == IDLE:
            if self.phase is DIRTY or self.phase is OPENED:
                self.split()
        elif status != UNKNOWN and (
            self.phase is CLEAN or (self.phase is OPENED and status == FAILED)
        ):
            # Begun past Django's cursors.
            self.phase = DIRTY
            self.texts.add(NO_TEXT)
        if (
            self.phase is OPENED
            and status != UNKNOWN
            and self.opening.read is not None
            and self.opening.has_unseen()
        ):
            self.phase = DIRTY
            self.texts.add(NO_TEXT)

    def _observe_autocommit(self, status: int) -> None:
        if status == IDLE:
            self.phase = AUTO
        elif status in _OPEN:
            self.phase = MANUAL
        elif self.phase > MANUAL:  # ACTIVE: in a pipeline, which leaves no transaction behind
            self.phase = AUTO

    def lost_unseen(self, autocommit: bool, *, manual: bool) -> None:
        """Code that uses the driver directly has met the loss; nobody saw what it ran before.

        Args:
            autocommit: Django's.
            manual: the driver's own was off, so it may have begun a transaction.
        """
        if not autocommit:
            self.texts.add(NO_TEXT)
            self.split()
        elif manual:
            self.phase = MANUAL

    # -- statements -------------------------------------------------------------------------

    def enter(self, status: int, autocommit: bool) -> bool:
        """A statement is about to be sent.

        Returns:
            Whether a loss leaves nothing of its transaction missing but the statement itself.
        """
        phase = self.phase
        if autocommit:
            if phase is AUTO and status == IDLE:
                return True
        elif status == IN_TRANSACTION:
            if phase is DIRTY:
                return False
        elif phase is CLEAN and status == IDLE:
            self.phase = DIRTY
            return True
        self.observe(status, autocommit)
        phase = self.phase
        if phase is CLEAN or phase is OPENED:
            self.phase = DIRTY
        return phase in _NOTHING_RUN and status in _SETTLED

    def began_with(self, setting: Local, bytes_read: Callable[[], int | None]) -> None:
        """A first statement has only set something: see :meth:`.Opening.began_with`."""
        if self.phase is DIRTY and self.opening.began_with(setting, bytes_read):
            self.phase = OPENED

    def ran(self, sql: object) -> None:
        """A statement has been run in a transaction of Django's, or may have been."""
        if len(self.texts) < MOST_TEXTS:
            kept = isinstance(sql, str) and len(sql) <= LONGEST_TEXT
            self.texts.add(sql if kept else id(sql))

    def dirtied(self) -> None:
        """Something that is no statement (COPY) is about to be sent."""
        if self.phase is CLEAN or self.phase is OPENED:
            self.phase = DIRTY

    def unsent(self, first: bool, status: int) -> None:
        """A statement failed: a first one that the driver itself refused has changed nothing."""
        if first and self.phase is DIRTY and status == IDLE:
            self.phase = CLEAN

    def failed(self, status: int) -> None:
        """A statement of it failed: only what ends it, or a part of it, can follow.

        Where something else does, code that uses the driver directly has begun anew, unseen.
        """
        if status == FAILED:
            self.texts.add(NO_TEXT)

    def sent_nothing(self, first: bool, status: int) -> None:
        """A statement with no rows: nothing was sent but, by psycopg 3, BEGIN."""
        if first and self.phase is DIRTY:
            self.phase = OPENED if status == IN_TRANSACTION else CLEAN

    def split(self, *, by_text: bool = False) -> None:
        """It was ended inside its block, or may have been."""
        if by_text or self.phase is not SPLIT:
            self.phase = SPLIT
            self.opening.forget()  # the savepoints ended with it
            self._on_split(by_text)

    # -- savepoints -------------------------------------------------------------------------

    def control(self, run: Callable[[str], None], sid: str, status: int, autocommit: bool) -> None:
        """Run a savepoint statement: by itself it leaves a transaction as it was.

        A transaction that otherwise only read has still only read, so its text is not kept.
        """
        self.observe(status, autocommit)
        before, texts = self.phase, self.texts
        self.controlling, self.texts = True, set()
        try:
            run(sid)
        finally:
            self.controlling, self.texts = False, texts
        if before is CLEAN or before is OPENED:
            self.phase = OPENED
            if self.opening.read is not None:
                self.opening.read_on()

    # -- texts ------------------------------------------------------------------------------

    def set_texts_aside(self) -> set[object]:
        """Begin to keep texts anew; what was kept, for :meth:`take_texts_back`."""
        texts, self.texts = self.texts, set()
        return texts

    def take_texts_back(self, texts: set[object]) -> None:
        """Texts that were set aside belong to the transaction under way after all."""
        self.texts |= texts
