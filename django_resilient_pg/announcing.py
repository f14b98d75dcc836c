"""Log lines and signals of a recovery: kept until its outcome is fixed, then sent.

A logging handler or a receiver may use the connection that it is told of (to write a row, say). In
the middle of a recovery that would be a second one within the first. So what a recovery has to
tell is collected, in order, and goes out when the statement has its result or its error; inside of
a transaction when that is over, which a failing handler could otherwise break.

Those who are told have the alias to themselves: what the application has open on it is laid aside
(:meth:`.state.wrapper.Wrapper._laid_aside`). They belong to no unit of work, and all together they
may spend little time on a server that does not answer.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from threading import get_ident
from typing import Any, Final

from django.dispatch import Signal

from . import deadlines
from .resilience import logger
from .retry import Budget
from .state.wrapper import Wrapper
from .units import UNIT

# Seconds that all who are told of one recovery may spend on connecting and retrying.
_PATIENCE: Final = 2.0
# What they lose themselves is told too, and what is lost then; whose session is lost each time it
# is told of a loss is not told for ever.
_ROUNDS: Final = 3

#: What is told, and of which connection; ``None``: of none.
_Item = tuple[Wrapper | None, Callable[[], object]]


class _Box:
    """What a recovery under way in this thread has to tell."""

    def __init__(self) -> None:
        self.items: list[_Item] = []
        # A context is copied to other threads, whose recoveries are their own.
        self.thread = get_ident()


_BOX: ContextVar[_Box | None] = ContextVar("django_resilient_pg_announcements", default=None)


def _here() -> _Box | None:
    box = _BOX.get()
    return box if box is not None and box.thread == get_ident() else None


@contextlib.contextmanager
def collecting() -> Iterator[None]:
    """A recovery: what it has to tell goes out at its end, or at that of the one around it."""
    if _here() is not None:
        yield
        return
    box = _Box()
    token = _BOX.set(box)
    try:
        yield
    finally:
        _BOX.reset(token)
        _keep_or_send(box.items)


def collected(do: Callable[[Wrapper, Any], None], db: Wrapper, argument: Any) -> None:
    """Call ``do`` within :func:`collecting`: every pooled request does, so without a generator."""
    box = _BOX.get()
    if box is not None and box.thread == get_ident():
        do(db, argument)
        return
    box = _Box()
    token = _BOX.set(box)
    try:
        do(db, argument)
    finally:
        _BOX.reset(token)
        if box.items:
            _keep_or_send(box.items)


def log(db: Wrapper | None, level: int, message: str, *args: object, at_once: bool = False) -> None:
    """A line of the log, with the time of now.

    ``at_once``: it is of use only while what it tells of goes on, as when the server is down.
    """
    if logger.isEnabledFor(level):
        path, line, function, _ = logger.findCaller(stacklevel=2)
        record = logger.makeRecord(logger.name, level, path, line, message, args, None, function)
        if at_once:
            _send([(db, partial(logger.handle, record))])
        else:
            tell(db, partial(logger.handle, record))


def send(db: Wrapper, signal: Signal, record: object) -> None:
    """A signal about this connection."""
    tell(db, partial(signal.send_robust, sender=type(db), connection=db, record=record))


def tell(db: Wrapper | None, what: Callable[[], object]) -> None:
    """Call ``what`` when the recovery under way is over, or now if there is none."""
    with collecting():
        box = _here()
        assert box is not None
        box.items.append((db, what))


def tell_kept(db: Wrapper) -> None:
    """A transaction is over: send what waited for that."""
    items: list[_Item] = [(db, what) for what in db._transaction.announcements]
    db._transaction.announcements = []
    box = _here()
    if box is None:
        _send(items)
    else:
        box.items += items


def _keep_or_send(items: list[_Item]) -> None:
    due: list[_Item] = []
    for db, what in items:
        if db is None or db.connection is None:
            due.append((db, what))
        elif db.in_atomic_block or not db.autocommit:
            db._transaction.announcements.append(what)
        else:
            due.append((db, what))
    if due:
        _send(due)


def _send(items: list[_Item]) -> None:
    box = _Box()
    # The units of work around the statement have no part in this.
    with _set_in(_BOX, box), _set_in(UNIT, None), contextlib.ExitStack() as stack:
        stack.enter_context(deadlines.only_hard())
        budget = Budget(_PATIENCE, strict=True)
        for db in {id(db): db for db, _ in items if db is not None}.values():
            if not db._thread_sharing_count and db._thread_ident == get_ident():
                stack.enter_context(db._laid_aside(budget))
        for _ in range(_ROUNDS):
            for _, what in items:
                _call(what)
            items, box.items = box.items, []


def _call(what: Callable[[], object]) -> None:
    """Whatever is wrong with a handler is no error of the statement's."""
    try:
        what()
    except Exception:
        if logging.raiseExceptions and sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                traceback.print_exc(file=sys.stderr)  # as logging's own handlers do


@contextlib.contextmanager
def _set_in(variable: ContextVar[Any], value: object) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
