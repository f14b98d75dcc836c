"""One physical attempt to connect, which a deadline can end.

libpq bounds an attempt in whole seconds, two at least, for each address, and does not bound the
resolution of names. Where :class:`.deadlines.deadline` leaves less, the attempt is made in a thread
of its own and left there: it ends by libpq's own bound, and what it still connects to is closed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .. import deadlines
from ..policy import places
from ..state.wrapper import Wrapper
from .background import Attempt


def make(db: Wrapper, connect: Callable[[dict[str, Any]], Any], params: Mapping[str, Any]) -> Any:
    """Connect once, with fresh credentials, within the deadlines around.

    Args:
        db: the wrapper.
        connect: connects with the parameters that it is given.
        params: what libpq gets but for the login.

    Raises:
        Error: the driver's own; an ``OperationalError`` of the driver's where a deadline has ended
            the attempt: see :func:`.background.left`.
    """
    attempt = partial(_within, db, connect, params)
    if path := db.resilience.options.credentials:
        return db.resilience.shared.logins.connect(db.alias, path, attempt)
    return attempt({})


def _within(
    db: Wrapper, connect: Callable[[dict[str, Any]], Any], params: Mapping[str, Any], login: Any
) -> Any:
    seconds, round_ = deadlines.allowed(math.inf), db._connector.round
    if round_ is not None and round_.seconds < seconds:
        from .in_turn import first_of

        every = [places.only([one]) for one in round_.places] or [{}]
        attempts = [Attempt(partial(connect, {**params, **one, **login})) for one in every]
        return first_of(db, attempts, round_)
    if math.isinf(seconds):  # no variable holds the login: error trackers record those
        return connect({**params, **login})
    attempt = Attempt(partial(connect, {**params, **login}))
    if attempt.ends_within(seconds):
        return attempt.result()
    bound = deadlines.tightest(hard=True)
    words = "" if bound is None else bound.words
    error = db.Database.OperationalError(f"connection timeout expired: {words} is used up")
    error.left = attempt
    raise error
