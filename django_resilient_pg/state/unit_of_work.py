"""What a unit of work (a request) has done so far that a retry would do twice.

The engine notes the texts of what took effect: statements in autocommit and committed transactions,
on every alias. They are read only if the unit failed. A context variable holds the unit, so it
crosses ``sync_to_async`` with the request, and goes with tasks and threads that run in a copy of
its context. These may outlive the attempt that started them: whatever is sent asks first whether
its attempt has been given up. It says so before it asks, and whoever gives an attempt up asks in
the opposite order, so that one of the two notices the other without a lock.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from ..errors import AttemptAbandoned

logger: Final = logging.getLogger("django_resilient_pg")
#: More different texts than this are not kept: such a unit or transaction counts as one that has
#: written.
MOST_TEXTS: Final = 500
#: Nor are texts that are longer than this (characters): the same holds for these. Room for lists of
#: some ten thousand parameters.
LONGEST_TEXT: Final = 65_536
#: Among the texts of a transaction: something of which there is no text, or not all of it.
NO_TEXT: Final = object()


class Unit:
    """One unit of work: one attempt at a request.

    Attributes:
        parent: the unit that this one is part of, for which all counts too.
        texts: by alias, different texts of what took effect, or may have.
        hooks: ``on_commit`` hooks that have run.
        uncounted: statements of which it cannot be told what they did, by alias.
        foreign: aliases of other engines that were used: nobody counts what took effect there.
        crashes: texts of statements at which a server has crashed; kept likewise.
        sessions: by alias, what the session held when this unit first changed it or closed it; kept
            from one attempt to the next.
        transaction_of: the wrapper whose transaction this unit is (``retry_atomic``), if it is one.
        has_committed: that transaction has been committed, or may have been.
        sending: texts of what is being sent, by cursor; of a COMMIT ``None``, by connection.
        superseded: it is retried, by another unit: nothing more may be done for this one.
        announced: it has been logged that somebody goes on for it after that.
        untold: what ``announce`` keeps until it is known whether the request is replayed.
        ended: it is over; what goes on in its context is no part of it.
    """

    __slots__ = (
        "__weakref__",
        "_deciding",
        "announced",
        "crashes",
        "ended",
        "foreign",
        "has_committed",
        "hooks",
        "parent",
        "sending",
        "sessions",
        "superseded",
        "texts",
        "transaction_of",
        "uncounted",
        "untold",
    )

    def __init__(
        self,
        parent: Unit | None = None,
        transaction_of: Callable[[], object] | None = None,
    ) -> None:
        self.parent = parent
        # A weak reference: a context that outlives the unit must not keep a connection open.
        self.transaction_of = transaction_of
        self.has_committed = False
        self.sessions: dict[str, Any] = {}
        self.crashes: set[object] = set()
        self.texts: dict[str, set[str]] = {}
        self.hooks = 0
        self.uncounted: set[str] = set()
        self.foreign: set[str] = set()
        self.sending: dict[Any, object] = {}
        self.superseded = self.ended = self.announced = False
        self.untold: list[Any] = []
        # What the garbage collector ends while this thread decides may ask as well.
        self._deciding = threading.RLock()

    def again(self) -> Unit:
        """The unit of the next attempt."""
        following = Unit(self.parent, self.transaction_of)
        following.sessions, following.crashes = self.sessions, self.crashes
        following.untold = self.untold
        return following

    def line(self) -> Iterator[Unit]:
        """This unit and all that it is part of."""
        unit: Unit | None = self
        while unit is not None:
            yield unit
            unit = unit.parent

    # -- counting ---------------------------------------------------------------------------

    def took_effect(self, alias: str, text: object) -> None:
        """Note one statement."""
        texts = self.texts.setdefault(alias, set())
        known = isinstance(text, str) and len(text) <= LONGEST_TEXT
        if len(texts) >= MOST_TEXTS or not known:
            self.uncounted.add(alias)
        else:
            texts.add(cast(str, text))
        if self.parent is not None:
            self.parent.took_effect(alias, text)

    def is_transaction_of(self, db: object) -> bool:
        """Whether this unit, or one that it is part of, is a transaction on this wrapper."""
        return any(
            unit.transaction_of is not None and unit.transaction_of() is db for unit in self.line()
        )

    def committed(self, db: object) -> None:
        """Note that a transaction on this wrapper has been committed, or may have been."""
        for unit in self.line():
            if unit.transaction_of is not None and unit.transaction_of() is db:
                unit.has_committed = True

    def keep_session(self, alias: str, held: Callable[[], object]) -> None:
        """Keep what the session on ``alias`` holds, before this unit first changes that."""
        for unit in self.line():
            if alias not in unit.sessions:
                unit.sessions[alias] = held()

    def met_crash(self, text: object) -> None:
        """Note that a server has crashed while it ran this statement."""
        for unit in self.line():
            unit.crashes.add(text)

    def ran_hooks(self, number: int) -> None:
        """Note that so many hooks run now."""
        for unit in self.line():
            unit.hooks += number

    def cannot_tell(self, alias: str) -> None:
        """Note that nobody knows what was done on this alias."""
        for unit in self.line():
            unit.uncounted.add(alias)

    def used_foreign(self, alias: str) -> None:
        """Note the use of another engine's connection."""
        for unit in self.line():
            unit.foreign.add(alias)

    def counted(self) -> int:
        """How much has been noted; grows with everything that is new."""
        texts = sum(len(texts) for texts in self.texts.copy().values())
        return self.hooks + len(self.uncounted) + len(self.foreign) + texts

    # -- what is being sent -----------------------------------------------------------------

    def begin(self, what: Any, text: object = None) -> None:
        """Something is about to be sent. To be ended, unless this raises.

        Args:
            what: the cursor of a statement, the connection of a COMMIT.
            text: of the statement.

        Raises:
            AttemptAbandoned: it must not be.
        """
        self.sending[what] = text
        if self.superseded or self.parent is not None:
            for unit in self.line():
                unit.sending[what] = text
            try:
                self.check(_alias(what))
            except BaseException:
                self.end(what)
                raise

    def end(self, what: Any) -> None:
        """It has been sent, and what it did is noted."""
        self.sending.pop(what, None)
        if self.parent is not None:
            self.parent.end(what)

    def check(self, alias: str) -> None:
        """Ask whether something that has been noted may be done.

        Raises:
            AttemptAbandoned: it must not be.
        """
        for unit in self.line():
            if unit.superseded:
                with unit._deciding:
                    pass  # it may be taken back yet
                if unit.superseded:
                    raise unit._refusal(alias)

    def _refusal(self, alias: str) -> AttemptAbandoned:
        from ..errors import AttemptAbandoned  # off the healthy path

        message = (
            "The attempt at a request or a function under retry_atomic that this belongs to has"
            f' failed and is retried, so nothing more is done on "{alias}" for it. Wait there for'
            " all tasks and threads that it starts, or start what outlives it in a context of its"
            " own (contextvars.Context())."
        )
        # Once: a task that lives on may go on asking, and keep the errors to itself.
        if not self.announced:
            self.announced = True
            from ..policy.messages import fields  # off the healthy path

            logger.warning("%s", message, extra=fields(alias))
        return AttemptAbandoned(message)

    # -- what is announced later ------------------------------------------------------------

    def keep_untold(self, items: list[Any]) -> bool:
        """Keep what ``announce`` has until the outcome of this request is known, if it is one.

        Tasks and threads of the request may lose connections too, at any time.
        """
        with self._deciding:
            wanted = self.transaction_of is None and not (self.ended or self.superseded)
            if wanted:
                self.untold.extend(items)
            return wanted

    def take_untold(self) -> list[Any]:
        """What was kept; from now on it is the caller's."""
        with self._deciding:
            items = self.untold[:]
            del self.untold[: len(items)]
            return items

    # -- superseding -------------------------------------------------------------------------

    def count_sending(self) -> None:
        """Note the statements that are being sent: they may take effect."""
        for what, text in self.sending.copy().items():
            if text is not None:
                self.took_effect(_alias(what), text)

    def supersede(self, judge: Callable[[], str]) -> str:
        """Leave its work to another unit, unless ``judge`` names what it did or it is at work.

        Returns:
            Why not, or "".
        """
        self.count_sending()
        counted = self.counted()
        why = judge()
        if not why and not self.seal(counted):
            return "tasks or threads that it has started are still at work"
        return why

    def seal(self, counted: int) -> bool:
        """Let nothing more be done for this unit, if nothing was but what has been judged.

        Args:
            counted: what :meth:`counted` said before it was judged.

        Returns:
            Whether that is so; if not, all goes on as before.
        """
        with self._deciding:
            self.superseded = True
            # In this order: what ends is noted before it is taken out.
            known = all(self._is_known(*one) for one in self.sending.copy().items())
            if known and self.counted() == counted:
                _keep_asking(self)
                return True
            self.superseded = False
            return False

    def _is_known(self, what: Any, text: object) -> bool:
        return text is not None and text in self.texts.get(_alias(what), ())


def _alias(what: Any) -> str:
    return str(getattr(what, "db", what).alias)


#: One entry for every unit under way in this process, or superseded and still in somebody's
#: context: while there is none, statements need not look for theirs.
UNDER_WAY: list[object] = []
#: The unit under way in this context, if any.
UNIT: ContextVar[Unit | None] = ContextVar("django_resilient_pg_unit", default=None)


def around() -> Unit | None:
    """What a new unit is part of: the unit of this context, unless that is over."""
    unit = UNIT.get()
    while unit is not None and unit.ended and not unit.superseded:
        unit = unit.parent
    return unit


def succeed(unit: Unit) -> Unit:
    """From now on it is the unit of another attempt that counts in this context."""
    following = unit.again()
    UNIT.set(following)
    UNDER_WAY.append(following)
    UNDER_WAY.remove(unit)
    return following


def _keep_asking(unit: Unit) -> None:
    """Have statements look for their unit for as long as somebody has this one."""
    entry = object()
    UNDER_WAY.append(entry)
    weakref.finalize(unit, _forget, entry).atexit = False


def _forget(entry: object) -> None:
    with contextlib.suppress(ValueError):  # a forked child begins with its own
        UNDER_WAY.remove(entry)
