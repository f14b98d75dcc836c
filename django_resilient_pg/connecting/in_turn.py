"""Several addresses in turn, within a time that is too short for the drivers.

libpq and psycopg give each address two whole seconds at least. Here an address gets its share of
the time, then the next one is tried beside it: what answers slowly is not lost, and what is silent
does not keep the others waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from queue import Empty, Queue
from time import monotonic
from typing import Any, Final

from ..driver.exceptions import judge_error
from ..policy.error_table import WRONG_PASSWORD
from ..policy.places import Place, Round
from ..policy.verdicts import Phase
from ..state.wrapper import Wrapper
from .background import Attempt

_SILENT: Final = "connection timeout expired"


def first_of(db: Wrapper, attempts: Sequence[Attempt], round_: Round) -> Any:
    """The first connection that one of the attempts makes; the others are closed.

    Args:
        db: the wrapper.
        attempts: one for each place of the round, or one for all of them.
        round_: the places, and the seconds for all of them.

    Raises:
        Error: the driver's own if one attempt was made or the password is wrong; otherwise an
            ``OperationalError`` of the driver's that reports every attempt. Where all of
            them were silent it is marked ``cut_short``: an earlier error tells more.
    """
    return _InTurn(db, attempts, round_).made()


class _InTurn:
    def __init__(self, db: Wrapper, attempts: Sequence[Attempt], round_: Round) -> None:
        self._db, self._attempts, self._round = db, attempts, round_
        self._until = monotonic() + round_.seconds
        self._ended: Queue[Attempt] = Queue()  # eventlet knows no SimpleQueue
        self._under_way: list[Attempt] = []
        self._errors: dict[Attempt, Exception] = {}

    def made(self) -> Any:
        try:
            for number, attempt in enumerate(self._attempts):
                self._under_way.append(attempt)
                attempt.start(self._ended.put)
                share = (self._until - monotonic()) / (len(self._attempts) - number)
                made = self._wait(monotonic() + share, attempt)
                if made is not None:
                    return made
            made = self._wait(self._until, None)
        finally:
            for one in self._under_way:
                one.give_way()
        if made is None:
            raise self._error()
        return made

    def _wait(self, until: float, latest: Attempt | None) -> Any:
        """A connection, or ``None``: the time is over, or the latest (any) attempt has failed."""
        while latest in self._under_way or (latest is None and self._under_way):
            try:
                ended = self._ended.get(timeout=max(0.0, until - monotonic()))
            except Empty:
                break
            self._under_way.remove(ended)
            try:
                return ended.result()
            except self._db.Database.Error as error:
                self._errors[ended] = error
                # Each further login counts towards the account's lockout.
                if judge_error(None, error, Phase.CONNECT).rule == WRONG_PASSWORD:
                    raise
        return None

    def _error(self) -> Exception:
        silent: Exception = self._db.Database.OperationalError(_SILENT)
        silent.cut_short = not self._errors  # type: ignore[attr-defined]
        errors = [self._errors.get(one, silent) for one in self._attempts]
        if len(errors) == 1 or not self._errors:
            return errors[0]
        # As psycopg 3 has it: the verdict on such an error is by address.
        reports = map(_report, self._round.places, errors)
        last = list(self._errors.values())[-1]
        said = f"{last}\nMultiple connection attempts failed. All failures were:"
        error: Exception = self._db.Database.OperationalError("\n".join([said, *reports]))
        return error


def _report(place: Place, error: Exception) -> str:
    return f"- host: {place.host!r}, port: {place.port!r}, hostaddr: {place.address!r}: {error}"
