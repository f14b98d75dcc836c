"""The one place that counts, logs and sends: kept until an outcome is known, then sent.

A logging handler or a receiver may use the connection that an event is about (to write a row, say).
In the middle of a recovery that would be a second recovery within the first. So the events of a
recovery are collected, in order, and go out when the statement has its result or its error. Inside
a transaction they wait for its end, which a failing handler could otherwise break. A loss that a
health check has met waits until its outcome is known: each loss is announced once.

Inside a request that :class:`.middleware.RequestRetryMiddleware` may replay, a loss that has
surfaced waits for the outcome of the request, and so do the events after it.

Handlers and receivers have the alias to themselves: what the application has open on it is laid
aside (:func:`.aside.laid_aside`). They belong to no unit of work. All together
they may spend little time on a server that does not answer.
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
from typing import TYPE_CHECKING, Any, Final

from django.db.utils import Error
from django.dispatch import Signal

from .. import deadlines, signals
from ..driver.exceptions import first_line
from ..policy import messages
from ..policy.rules import Budget
from .aside import laid_aside
from .collecting import BOX, Box, announcers, collecting, here
from .incidents import Incident, heal_all, line
from .shared import logger
from .unit_of_work import UNIT, Unit
from .wrapper import Wrapper

if TYPE_CHECKING:
    from .collecting import Item

# Seconds that all handlers and receivers of one recovery may spend on connecting and retrying.
_PATIENCE: Final = 2.0
# Handlers may lose connections themselves. One that does so each time is not called for ever.
_ROUNDS: Final = 3


def _open(box: Box | None, db: Wrapper) -> Incident | None:
    """The first loss of this recovery that was neither healed nor has surfaced yet."""
    for about, what in () if box is None else box.items:
        if about is db and isinstance(what, Incident) and not what.concluded:
            return what
    return None


def _not_reconnected(db: Wrapper, box: Box, error: Error) -> None:
    """A connection that could not be replaced has reached the application."""
    if (incident := _open(box, db)) is not None:
        said = first_line(error, db.settings_dict)
        incident.surface(messages.not_reconnected(db.alias, said))


def log(
    db: Wrapper | None,
    level: int,
    text: str,
    *args: object,
    at_once: bool = False,
    error: BaseException | None = None,
    **known: object,
) -> None:
    """A line of the log, with the time of now.

    Args:
        db: the connection it is about.
        level: of ``logging``.
        text: with places for ``args``.
        args: as ``logging`` takes them.
        at_once: it is of use only while its subject goes on, as when the server is down.
        error: one whose traceback is logged.
        known: the fields that are not those of ``db``; see :data:`..policy.messages.FIELDS`.
    """
    if not logger.isEnabledFor(level):
        return
    record = line(level, text, args)
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    vars(record).update(messages.fields(None if db is None else db.alias) | known)
    if at_once:
        _send([(db, partial(logger.handle, record))])
    else:
        tell(db, partial(logger.handle, record))


def send(db: Wrapper, signal: Signal, record: object) -> None:
    """A signal about this connection."""
    tell(db, partial(signal.send_robust, sender=type(db), connection=db, record=record))


def lost(db: Wrapper, incident: Incident) -> None:
    """A connection was lost; :mod:`.incidents` says what is announced, and when."""
    tell(db, incident)


def surfaced(db: Wrapper, incident: Incident | None, sentence: str) -> None:
    """A loss has reached the application; ``None``: one that nobody has noticed as such."""
    if incident is None:
        db.resilience.shared.count("surfaced")
    elif incident.surface(sentence):
        tell(db, incident)
    elif db._transaction.announcements:
        with collecting():  # at the end of a transaction, if one is under way
            tell_kept(db)


def outage(db: Wrapper, sentence: str) -> None:
    """The server is down for longer than the application can wait.

    Where a lost connection has led to that, or a request fails by it, their line says so.
    """
    if logger.isEnabledFor(logging.WARNING) and _open(here(), db) is None:
        record = line(logging.WARNING, "%s", (sentence,))
        vars(record).update(messages.fields(db.alias))
        tell(db, _Outage(logger.handle, record))


class _Outage(partial[object]):
    """The line of an outage."""


def _has_surfaced(item: Item) -> bool:
    what = item[1]
    return what.surfaced if isinstance(what, Incident) else isinstance(what, _Outage)


def _surfaced(items: list[Item]) -> list[Incident]:
    return [what for _, what in items if isinstance(what, Incident) and what.surfaced]


def retrying(db: Wrapper, record: signals.TransactionRetried, sentence: str, error: str) -> None:
    """The transaction of ``retry_atomic`` is retried, which heals what has surfaced in it."""
    db.resilience.shared.count("retried", "transaction")
    box = here()
    healed = box is not None and heal_all((what for _, what in box.items), sentence, "transaction")
    log(
        db,
        logging.DEBUG if healed else logging.INFO,
        "%s %s",
        sentence,
        error,
        sqlstate=record.sqlstate,
        retried_as="transaction",
    )
    send(db, signals.transaction_retried, record)


def not_retried(db: Wrapper, sentence: str) -> None:
    """The transaction of ``retry_atomic`` has failed for good: the line of its loss says why."""
    box = here()
    if surfaced := _surfaced([] if box is None else [one for one in box.items if one[0] is db]):
        surfaced[-1].conclude(sentence)


def replaying(unit: Unit, sentence: str) -> None:
    """A request is replayed, which heals what has surfaced in it."""
    items: list[Item] = unit.take_untold()
    healed = [
        db
        for db, what in items
        if isinstance(what, Incident) and heal_all([what], sentence, "request") and db is not None
    ]
    for shared in {id(db.resilience.shared): db.resilience.shared for db in healed}.values():
        shared.count("retried", "request")
    _send(items)
    log(None, logging.DEBUG if healed else logging.INFO, "%s", sentence, retried_as="request")


def gave_up(
    unit: Unit, alias: str | None, sentence: str, hidden: BaseException | None = None
) -> None:
    """A request has failed for good by a lost connection: one line for the loss and the request.

    Args:
        unit: of the request.
        alias: of the connection, where it is known.
        sentence: what became of the request.
        hidden: the error that the client's answer hides.
    """
    items: list[Item] = unit.take_untold()
    if surfaced := _surfaced(items):
        surfaced[-1].conclude(sentence, hidden)
    _send([item for item in items if not isinstance(item[1], _Outage)])
    if not surfaced:
        log(None, logging.WARNING, "%s", sentence, error=hidden, alias=alias)


def tell_rest(unit: Unit) -> None:
    """A request is over: what has surfaced in it stays so."""
    if unit.untold:
        _send(unit.take_untold())


def tell(db: Wrapper | None, what: Callable[[], object] | Incident) -> None:
    """Send this when the recovery under way is over, or now if there is none."""
    with collecting():
        box = here()
        assert box is not None
        box.items.append((db, what))


def tell_kept(db: Wrapper) -> None:
    """A transaction is over: send what waited for that."""
    items: list[Item] = [(db, what) for what in db._transaction.announcements]
    db._transaction.announcements = []
    box = here()
    if box is None:
        _send_or_leave(items)
    else:
        box.items[:0] = items  # they are older than what the recovery under way has met


def _is_open(db: Wrapper, what: object) -> bool:
    """Whether it is the loss of the present connection, of which nobody knows what comes of it.

    A health check has met it. The next statement replaces the connection or raises.
    """
    link = db._link
    if not isinstance(what, Incident) or what.concluded:
        return False
    return link is not None and link.incident is what


def _keep_or_send(items: list[Item]) -> None:
    due: list[Item] = []
    for db, what in items:
        if db is None or db.connection is None:
            due.append((db, what))
        elif db.in_atomic_block or not db.autocommit or _is_open(db, what):
            db._transaction.announcements.append(what)
        else:
            due.append((db, what))
    if due:
        _send_or_leave(due)


def _send_or_leave(items: list[Item]) -> None:
    """Send these, or leave them to the request under way, which may be replayed."""
    unit = UNIT.get()
    surfaced = any(map(_has_surfaced, items))
    for one in () if unit is None else unit.line():
        if (surfaced or one.untold) and one.keep_untold(items):
            return
    _send(items)


def _send(items: list[Item]) -> None:
    box = Box()
    # The units of work around the statement have no part in this.
    with _set_in(BOX, box), _set_in(UNIT, None), contextlib.ExitStack() as stack:
        stack.enter_context(deadlines.only_hard())
        budget = Budget(_PATIENCE, strict=True)
        for db in {id(db): db for db, _ in items if db is not None}.values():
            if not db._thread_sharing_count and db._thread_ident == get_ident():
                stack.enter_context(laid_aside(db, budget))
        for _ in range(_ROUNDS):
            for about, what in items:
                _call(_sending(about, what) if isinstance(what, Incident) else what)
            items, box.items = box.items, []
    for _, what in items:
        if isinstance(what, Incident):
            what.settle()


def _sending(db: Wrapper | None, incident: Incident) -> Callable[[], object]:
    signal, about = signals.connection_lost, type(db)
    return partial(
        incident.tell,
        lambda record: signal.send_robust(sender=about, connection=db, record=record),
    )


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


announcers.append((_keep_or_send, _not_reconnected))
