"""Connecting where nothing is known to be wrong; what follows when that fails is ``attempts``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from django.db.utils import Error

from ..state.collecting import BOX, collected, end
from ..state.wrapper import Wrapper
from . import fork  # noqa: F401  registers itself


def _attempts() -> Any:
    """What deals with a failure, imported with the first one; ``None``: that cannot be done."""
    try:
        from . import attempts
    except OSError:  # no file descriptor is left
        return None
    return attempts


def connect(db: Wrapper, attempt: Callable[[], None]) -> None:
    """Connect, what it announces being collected; see :func:`_connect`.

    Most requests with a pool find nothing wrong: with those what is for failures begins with one.
    """
    terms, connector = db.resilience.terms, db._connector
    if (
        terms is None
        or terms.shared.breaker.down
        or terms.shared.breaker.mute
        or connector.budget is not None
        or db._transaction.announcements
    ):
        connector.retry(partial(collected, _connect, db, attempt))
        return
    began, outer = monotonic(), BOX.get()
    try:
        connector.retry(attempt)
    except Error as error:
        connector.retry(partial(collected, partial(_failed, began, error), db, attempt))
    finally:
        if BOX.get() is not outer:
            end(outer)


def _failed(began: float, error: Error, db: Wrapper, attempt: Callable[[], None]) -> None:
    """An attempt has failed: others, or its error."""
    failed = _attempts()
    if failed is None:
        raise error
    failed.after(db, attempt, began, error)


def _connect(db: Wrapper, attempt: Callable[[], None]) -> None:
    """Connect; after a transient failure, again until the budget is spent.

    ``attempt`` makes one attempt. While the server is down one thread of the process at a time
    makes them; the others wait for its verdict. Waiting costs tokens: when the bucket is empty
    nothing waits.

    Raises:
        ServerDown: this thread has not asked, because another one does or has just done so.
        Error: the last attempt's own error.
    """
    if db._transaction.announcements:
        from ..state.announce import tell_kept

        tell_kept(db)  # of a transaction in which the connection was closed
    terms = db.resilience.terms
    shared = db.resilience.shared_now() if terms is None else terms.shared
    breaker, budget = shared.breaker, db._connector.budget
    if breaker.down or breaker.mute or (budget is not None and budget.strict):
        in_turn = _attempts()
        if in_turn is not None:
            in_turn.connect(db, attempt)
            return
    if terms is None and not db._pooled:  # a pool counts its own
        shared.count("attempt")
    began = monotonic()
    try:
        attempt()
    except Error as error:
        _failed(began, error, db, attempt)
    else:
        if breaker.down and (later := _attempts()) is not None:  # by now
            later.answered(db, attempt)
