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
from typing import Any

from ..driver.exceptions import judge_error
from ..policy.verdicts import Phase
from ..state.collecting import collecting
from ..state.effects import note_session
from ..state.wrapper import Wrapper
from .announce_loss import announce_loss, announce_refusal


def heard_after(db: Wrapper, name: str, send: Callable[..., Any]) -> Any:
    """The driver's method of this name, which notes when it was over, or how it was lost."""
    ways: dict[str, Callable[..., Any]] = {"copy": _copied, "stream": _streamed}
    return partial(ways.get(name, _called), db, send)


@contextmanager
def _copied(db: Wrapper, send: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
    with _noting(db), send(*args, **kwargs) as copy:
        yield copy


def _streamed(
    db: Wrapper,
    send: Callable[..., Any],
    query: Any,
    params: Any = None,
    **kwargs: Any,
) -> Iterator[Any]:
    # Before: its rows may never be asked for to the end.
    note_session(db, query, params, many=True)
    with _noting(db):
        yield from send(query, params, **kwargs)


def _called(db: Wrapper, send: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with _noting(db):
        return send(*args, **kwargs)


@contextmanager
def _noting(db: Wrapper) -> Iterator[None]:
    try:
        yield
    except db.Database.Error as error:
        _note_if_lost(db, error)
        raise
    if db._link is not None:
        db._link.heard(monotonic())


@collecting()
def _note_if_lost(db: Wrapper, error: Exception) -> None:
    link = db._link
    if link is None or not (verdict := judge_error(link, error, Phase.STATEMENT)).lost:
        return
    loss = announce_loss(db, verdict, error, "statement")
    announce_refusal(db, error, loss, "COPY and stream() are never retried")
