"""Who holds a pool's connections for too long (``pool_leak_after``), and where they were borrowed.

Made for a pool whose alias has the option; without it nothing here is imported or called. Nothing
here starts a thread: what is overdue is noticed by whoever borrows, waits or gives back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Collection
from functools import cache
from time import monotonic
from types import FrameType
from typing import Any, Final

import django

from ..conf.records import Record
from ..policy.messages import seconds
from ..policy.plain import plain
from ..sql.texts import text_of
from ..state import announce
from ..state.wrapper import Wrapper

# Frames that are gone through for the place: more than Django's deepest way to a connection.
_DEEPEST: Final = 100
_LONGEST: Final = 200  # characters of a statement that are shown
_READ: Final = 5_000  # characters of it that are read for that
#: Holders that the error of an exhausted pool names.
_NAMED: Final = 5

_STANDARD: Final = os.path.dirname(os.__file__)
_INSTALLED: Final = ("site-packages", "dist-packages")
_PACKAGES: Final = ("asgiref", "psycopg", "psycopg_pool")
_DJANGO: Final = os.path.dirname(django.__file__) + os.sep
_LIBRARY, _DJANGOS, _APPLICATIONS = "library", "django", "application"
_OURS: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep


class Hold(Record):
    """A connection that is held for longer than ``pool_leak_after``.

    Attributes:
        alias: the database alias.
        seconds: since it was borrowed.
        holder: the thread or the asyncio task that borrowed it.
        place: file, line and function, outside of Django and the engine, where it was borrowed.
        statement: the last one that was run on it, without parameters and strings; "" for none.
    """

    alias: str
    seconds: float
    holder: str
    place: str
    statement: str

    def __str__(self) -> str:
        last = f"; last statement: {self.statement}" if self.statement else ""
        return f"{seconds(self.seconds)} by {self.holder}, borrowed at {self.place}{last}"


class Loan:
    """One time that a connection was lent.

    The connection refers to it, and it to nothing of the connection: one that is dropped without
    being given back is closed as ever, and stays in the list.
    """

    __slots__ = ("at", "holder", "place", "text", "told")

    def __init__(self) -> None:
        self.at = monotonic()
        self.holder, self.place = _holder(), _place()
        self.text: object = None
        self.told = False


class Loans:
    """The loans of one pool.

    Args:
        alias: of the pool.
        after: seconds after which a loan is overdue.
        loans: those under way.
    """

    def __init__(self, alias: str, after: float, loans: Collection[Any]) -> None:
        self.after = after
        self._alias, self._loans = alias, loans
        #: Until then none is overdue that was not logged (monotonic seconds).
        self.due = 0.0
        self._lock = threading.Lock()

    def news(self) -> list[Hold]:
        """Those overdue, each once: to be logged."""
        now = monotonic()
        if now < self.due or not self._lock.acquire(blocking=False):
            return []
        try:
            untold = [loan for loan in self._under_way() if not loan.told]
            late = [loan for loan in untold if now - loan.at > self.after]
            self.due = min((one.at for one in untold if one not in late), default=now) + self.after
            for loan in late:
                loan.told = True
        finally:
            self._lock.release()
        return [self._hold(loan, now) for loan in late]

    def last_news(self, loan: object) -> list[Hold]:
        """Of a loan that ends now: whether it was overdue without having been logged."""
        now = monotonic()
        if not isinstance(loan, Loan) or loan.told or now - loan.at <= self.after:
            return []
        loan.told = True
        return [self._hold(loan, now)]

    def tell_news(self, db: Wrapper) -> None:
        """Log those overdue."""
        _tell(db, self.news())

    def tell_last(self, db: Wrapper, loan: object) -> None:
        """Log that a loan which ends now was overdue."""
        _tell(db, self.last_news(loan))

    def holds(self) -> list[Hold]:
        """All that are overdue, the oldest first."""
        now = monotonic()
        late = [loan for loan in self._under_way() if now - loan.at > self.after]
        return [self._hold(loan, now) for loan in sorted(late, key=lambda loan: loan.at)]

    def note(self) -> str:
        """What the error of an exhausted pool says of them, "" if there are none."""
        held = self.holds()
        if not held:
            return ""
        more = f" (and {len(held) - _NAMED} more)" if len(held) > _NAMED else ""
        return (
            f'Connections of the pool of "{self._alias}" held for longer than pool_leak_after'
            f" ({self.after:g} s): {'. '.join(map(str, held[:_NAMED]))}{more}."
        )

    def _under_way(self) -> list[Loan]:
        # list() of a set is one step for the interpreter: others may lend meanwhile.
        return [one for one in list(self._loans) if isinstance(one, Loan)]

    def _hold(self, loan: Loan, now: float) -> Hold:
        return Hold(self._alias, now - loan.at, loan.holder, _shown_place(loan.place), _shown(loan))


def _tell(db: Wrapper, held: list[Hold]) -> None:
    text = 'Pooled connection "%s" held for %s.'
    for one in held:
        announce.log(db, logging.WARNING, text, one.alias, one, at_once=True, took=one.seconds)


def _holder() -> str:
    """The asyncio task that runs in this thread, or else the thread."""
    if asyncio._get_running_loop() is not None and (task := asyncio.current_task()) is not None:
        return f'task "{task.get_name()}"'
    return f'thread "{threading.current_thread().name}"'


def _place() -> tuple[str, int, str] | None:
    """The innermost caller outside of Django, the engine, drivers and the standard library.

    Where there is none (the query is all that a coroutine handed to a thread) it is Django's
    outermost one, which names the method that was called.
    """
    frame: FrameType | None = sys._getframe(1)
    found: FrameType | None = None
    for _ in range(_DEEPEST):
        if frame is None:
            break
        kind = _kind(frame.f_code.co_filename)
        if kind is not _LIBRARY:
            found = frame
            if kind is not _DJANGOS:
                break
        frame = frame.f_back
    if found is None:
        return None
    return found.f_code.co_filename, found.f_lineno, found.f_code.co_qualname


@cache
def _kind(file: str) -> str:
    """Whose code a file is."""
    if file.startswith(_DJANGO):
        return _DJANGOS
    parts = file.split(os.sep)
    installed = next((parts.index(name) for name in _INSTALLED if name in parts), None)
    if file.startswith((_OURS, "<frozen ")):
        return _LIBRARY
    if installed is not None:
        return _LIBRARY if parts[installed + 1] in _PACKAGES else _APPLICATIONS
    return _LIBRARY if file.startswith(_STANDARD + os.sep) else _APPLICATIONS


def _shown_place(place: tuple[str, int, str] | None) -> str:
    return "an unknown place" if place is None else plain(f"{place[0]}:{place[1]} in {place[2]}")


def _shown(loan: Loan) -> str:
    """Its last statement without parameters: as it was before they were put in, and no strings."""
    if loan.text is None:
        return ""
    from ..sql.lexer import bare

    text = text_of(loan.text)[:_READ]
    if "\\" in text:  # what a backslash means in a string depends on the server's settings
        text = text.partition("'")[0]
    words = " ".join(bare(text).split())
    return plain(words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ...")


class _Watched:
    """Over a driver's cursor class: notes with the loan what is run, before parameters go in."""

    connection: Any

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._note(query)
        return super().execute(query, *args, **kwargs)  # type: ignore[misc]

    def executemany(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self._note(query)
        return super().executemany(query, *args, **kwargs)  # type: ignore[misc]

    def _note(self, query: object) -> None:
        # The class may have been handed on to a connection of no pool, with what was registered.
        if (note := getattr(self.connection, "note_statement", None)) is not None:
            note(query)


@cache
def _over(cursor: type[Any]) -> type[Any]:
    # Tracers name a span by the cursor's module.
    names = {"__module__": cursor.__module__, "__qualname__": cursor.__qualname__}
    return type(cursor.__name__, (_Watched, cursor), names)


def watch(connection: Any) -> None:
    """Have what is run on a new connection noted with its loan."""
    connection.cursor_factory = _over(connection.cursor_factory)
    connection.server_cursor_factory = _over(connection.server_cursor_factory)
