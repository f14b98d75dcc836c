"""Connecting again and again, in a loop of tenacity's, imported only when an attempt has failed."""

from __future__ import annotations

import time
from collections.abc import Callable


def connect_again(
    connect: Callable[[], None],
    first_error: Exception,
    *,
    passing: Callable[[BaseException], bool],
    wait: Callable[[int], float],
    remaining: Callable[[], float],
    announce: Callable[[int, float, BaseException], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Call ``connect`` until it succeeds, fails for good, or no time remains.

    Every call may also fail because it is another thread's turn to ask: see
    :mod:`..policy.circuit_breaker`.

    Args:
        connect: makes one attempt.
        first_error: how the attempt that led here failed.
        passing: whether an error is worth another attempt.
        wait: seconds to wait after attempt number n.
        remaining: seconds left for the whole.
        announce: told (attempts failed, seconds of wait, error) before each wait.
        sleep: for tests.

    Raises:
        Exception: the last attempt's own error, unchanged.
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception

    earlier: list[Exception] = [first_error]

    def attempt() -> None:
        if earlier:
            raise earlier.pop()
        connect()

    def spent(state: RetryCallState) -> bool:
        return state.upcoming_sleep >= remaining()

    def before_sleep(state: RetryCallState) -> None:
        if state.outcome is not None and (error := state.outcome.exception()) is not None:
            announce(state.attempt_number, state.upcoming_sleep, error)

    Retrying(
        retry=retry_if_exception(passing),
        wait=lambda state: wait(state.attempt_number),
        stop=spent,
        before_sleep=before_sleep,
        sleep=sleep,
        reraise=True,
    )(attempt)
