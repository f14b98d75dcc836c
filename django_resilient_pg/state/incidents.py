"""A lost connection, until the outcome of the loss is known.

A loss is *healed* if the application did not notice: the connection was replaced, or what had
failed was retried. Otherwise it has *surfaced*, as the error of a statement or of a COMMIT. The
outermost unit that may retry decides that: the statement, the transaction under ``retry_atomic``,
the request. So one loss is one line of the log, one signal and one count, whatever was tried.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from .. import signals
from ..policy import messages
from ..policy.verdicts import Reason
from .shared import Shared, logger


def line(level: int, text: str, args: tuple[object, ...] = ()) -> logging.LogRecord:
    """A line of the log with the time of now."""
    path, number, function, _ = logger.findCaller(stacklevel=3)
    return logger.makeRecord(logger.name, level, path, number, text, args, None, function)


class Incident:
    """One lost connection.

    Attributes:
        surfaced: whether it has reached the application, as far as is known by now.
        announced: whether it was counted, logged and sent.
    """

    __slots__ = (
        "_began",
        "_ended",
        "_line",
        "_quiet",
        "_record",
        "_sentence",
        "_shared",
        "announced",
        "surfaced",
    )

    def __init__(
        self, shared: Shared, record: signals.ConnectionLost, *, quiet: bool = False
    ) -> None:
        self._shared, self._record, self._quiet = shared, record, quiet
        self._line: logging.LogRecord | None = line(logging.INFO, "")
        self._began = monotonic()
        self._ended: float | None = None
        self._sentence = ""
        self.surfaced = self.announced = False
        shared.count("lost", record.reason.name)

    @property
    def concluded(self) -> bool:
        """Whether it was healed or has surfaced, as far as is known by now."""
        return self._ended is not None

    @property
    def sqlstate(self) -> str | None:
        """SQLSTATE of the server's last message."""
        return self._record.sqlstate

    def heal(self, sentence: str, retried_as: str | None = None) -> None:
        """The connection was replaced, or what had failed was retried."""
        self.surfaced = False
        self._record = dataclasses.replace(self._record, retried_as=retried_as)
        self._end(sentence)

    def surface(self, sentence: str) -> bool:
        """It has reached the application, unless what is around the statement is retried.

        Returns:
            Whether it was announced before, as healed: it has to be announced again. That happens
            to a server-side cursor that was lost with a statement which was retried.
        """
        if self.surfaced:
            return False
        self.surfaced, announced = True, self.announced
        if announced:
            self._shared.count("healed", by=-1)
            self.announced = False
        self._end(sentence)
        return announced

    def conclude(self, sentence: str, hidden: BaseException | None = None) -> None:
        """What became of the unit in which it has surfaced.

        Args:
            sentence: what the line of the log says.
            hidden: an error that nobody else reports: its traceback is logged.
        """
        self._end(sentence)
        if hidden is not None and self._line is not None:
            self._line.exc_info = (type(hidden), hidden, hidden.__traceback__)

    def _end(self, sentence: str) -> None:
        self._sentence, self._ended = sentence, monotonic()

    def crashed(self) -> bool:
        """The server has crashed; returns whether that can still be announced with the loss."""
        self._shared.crashed(self._record.reason.name)
        self._record = dataclasses.replace(self._record, reason=Reason.CRASH)
        return not self.announced

    def settle(self) -> bool:
        """Count it; returns whether that was not done yet."""
        if self.announced:
            return False
        self.announced = True
        took = (self._ended or monotonic()) - self._began
        self._record = dataclasses.replace(self._record, healed=not self.surfaced, took=took)
        self._shared.settled(self._record)
        return True

    def tell(self, send: Callable[[signals.ConnectionLost], Any]) -> None:
        """Count, log and send it."""
        if self.settle():
            try:
                self._log(self._record)
            finally:  # whatever a logging handler does
                send(self._record)

    def _log(self, record: signals.ConnectionLost) -> None:
        level = logging.WARNING if self.surfaced else logging.INFO
        level = logging.DEBUG if self._quiet and not self.surfaced else level
        one, self._line = self._line or line(level, ""), None  # it may lead to a traceback
        if not logger.isEnabledFor(level):
            return
        said = messages.happened(record.alias, record.reason, record.idle, None, record.sqlstate)
        one.levelno, one.levelname = level, logging.getLevelName(level)
        one.msg, one.args = "%s", (f"{said} {self._sentence}".rstrip(),)
        known = {name: getattr(record, name) for name in messages.FIELDS}
        vars(one).update(known, reason=record.reason.value)
        logger.handle(one)


def heal_all(incidents: Iterable[object], sentence: str, retried_as: str) -> bool:
    """The unit in which these have surfaced is retried; returns whether there were any."""
    found = [one for one in incidents if isinstance(one, Incident) and one.surfaced]
    for one in found:
        one.heal(sentence, retried_as)
    return bool(found)
