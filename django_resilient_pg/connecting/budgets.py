"""For how long an alias may be waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import sleep
from typing import TYPE_CHECKING

from ..providers import CONNECT_TIMEOUT
from ..state.wrapper import Wrapper

if TYPE_CHECKING:
    from ..policy.rules import Budget


@contextlib.contextmanager
def spending(
    db: Wrapper, already: float = 0.0, seconds: float | None = None, words: str = ""
) -> Iterator[Budget]:
    """One budget for all that is waited for until the outermost user is done.

    Args:
        db: the wrapper.
        already: seconds that were spent before; a budget under way has counted them itself.
        seconds: of a new budget, in place of ``retry_deadline``.
        words: for people: what has set these.
    """
    if db._connector.budget is not None:
        yield db._connector.budget
        return
    from ..policy import messages
    from ..policy.rules import Budget

    if seconds is None:
        seconds = deadline(db)
        words = messages.bound("retry_deadline", seconds)
    with db._connector.spends(Budget(seconds - already, words=words)) as budget:
        yield budget


def deadline(db: Wrapper) -> float:
    """Seconds for reconnecting: no less than a sleeping server needs to wake."""
    seconds = db.resilience.options.retry_deadline
    wake = db._connector.wake
    return max(seconds, wake + CONNECT_TIMEOUT) if wake else seconds


def pause(db: Wrapper, failed: int, budget: Budget) -> None:
    """Wait before another round on a server that was there ``failed`` times, and gone again."""
    from ..policy.rules import backoff

    options = db.resilience.options
    wait = backoff(failed, base=options.backoff, most=options.max_backoff)
    sleep(min(wait, budget.remaining()))
