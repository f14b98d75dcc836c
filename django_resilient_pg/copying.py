"""COPY and ``stream()``: what goes past ``execute()`` and takes its time.

Imported at the first of them. When it is over the server has just been heard: a connection that was
busy was not idle. A loss is told as that of any statement; it is the driver's own error that comes
out, as on Django's engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from .drivers import IDLE
from .losses import judge_error
from .verdicts import Phase
from .watching import note_loss, note_refused

if TYPE_CHECKING:
    from .mixins import ResilientDatabaseMixin


def heard_after(db: ResilientDatabaseMixin, name: str, send: Callable[..., Any]) -> Any:
    """The driver's method of this name, which notes when it was over, or how it was lost."""
    ways: dict[str, Callable[..., Any]] = {"copy": _copied, "stream": _streamed}
    return partial(ways.get(name, _called), db, send)


@contextmanager
def _copied(
    db: ResilientDatabaseMixin, send: Callable[..., Any], *args: Any, **kwargs: Any
) -> Iterator[Any]:
    with _noting(db), send(*args, **kwargs) as copy:
        yield copy


def _streamed(
    db: ResilientDatabaseMixin,
    send: Callable[..., Any],
    query: Any,
    params: Any = None,
    **kwargs: Any,
) -> Iterator[Any]:
    # Before: its rows may never be asked for to the end.
    db._note_session(query, params, many=True)
    with _noting(db):
        yield from send(query, params, **kwargs)


def _called(db: ResilientDatabaseMixin, send: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with _noting(db):
        return send(*args, **kwargs)


@contextmanager
def _noting(db: ResilientDatabaseMixin) -> Iterator[None]:
    status = db._status()
    try:
        yield
    except db.Database.Error as error:
        _note_if_lost(db, error, raw_transaction=db.autocommit and status != IDLE)
        raise
    db._heard_at = monotonic()


def _note_if_lost(db: ResilientDatabaseMixin, error: Exception, *, raw_transaction: bool) -> None:
    link = db._link
    if link is None or not (verdict := judge_error(link, error, Phase.STATEMENT)).lost:
        return
    loss = note_loss(db, verdict, error, "statement")
    why = "COPY and stream() never are"
    note_refused(db, error, loss, why, raw_transaction=raw_transaction)
