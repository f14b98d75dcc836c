"""``--drill``: terminates sessions of its own, and reports what recovers."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from django.db import connections
from django.db.utils import Error

from ...facts import Path
from ...state.shared import logger
from ..path.attempts import Connector, Refused, attempt
from ..path.network import answer
from .cases import CASES, NAP, Case
from .terminator import TIMEOUT, Impossible, Terminator

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from ..survey.survey import Survey

_PAST: Final = "Run it on an alias that connects without the pooler."


class Step(NamedTuple):
    """One loss, and what came of it.

    Attributes:
        name: what was done.
        row: of the table of guarantees: when the session was lost.
        survived: ``None``: could not be tried.
        seconds: it took; ``undisturbed``: the same without a loss.
        detail: the error, or why it could not be tried; "" if it survived.
    """

    name: str
    row: str
    survived: bool | None
    seconds: float | None = None
    undisturbed: float | None = None
    detail: str = ""

    @property
    def sentence(self) -> str:
        """What to tell."""
        what = f"{self.name}, session terminated {self.row}"
        if self.survived is None:
            return f"{what}: not tried. {self.detail}"
        took = f"{(self.seconds or 0) * 1000:.0f} ms"
        if not self.survived:
            return f"{what}: failed after {took}. {self.detail}"
        return (
            f"{what}: recovered in {took} ({(self.undisturbed or 0) * 1000:.0f} ms without a loss)."
        )


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What the drill showed.

    Attributes:
        steps: in the order they were done.
        refusal: why nothing was tried, "" if something was.
    """

    steps: tuple[Step, ...] = ()
    refusal: str = ""

    @property
    def survived(self) -> bool:
        """Whether everything was tried, and nothing failed."""
        return len(self.steps) == len(CASES) and all(step.survived for step in self.steps)

    @property
    def failed(self) -> bool:
        """Whether something did not survive; else what is missing could not be tried."""
        return any(step.survived is False for step in self.steps)

    @property
    def sentences(self) -> list[str]:
        """What to tell, one for each step."""
        told = [self.refusal] if self.refusal else [step.sentence for step in self.steps]
        if 0 < len(self.steps) < len(CASES):
            told.append(f"The other {len(CASES) - len(self.steps)} cases were not tried.")
        return told


def drill(survey: Survey, report: Callable[[str], object] = lambda told: None) -> DrillResult:
    """Lose four sessions of our own, and report what recovered.

    The application's connection of the alias is left alone. Nothing stays behind in the database.

    Args:
        survey: of an alias that can be reached.
        report: called before each step.
    """
    if reason := _unsafe(survey):
        return DrillResult(refusal=f"Not tried: {reason} {_PAST}")
    connect = Connector.of(connections[survey.alias])
    try:
        second, _ = attempt(connect, {}, TIMEOUT, len(survey.target.hosts))
    except Refused as error:
        return DrillResult(refusal=f"Not tried: could not open a second session. {error}")
    with contextlib.closing(second), _own(survey.alias) as db, _quiet():
        try:
            terminator = Terminator(db, second, connect.hide)
            if survey.pooler is not None:
                _two_at_a_time(connect)
        except (Impossible, Refused) as error:
            text = f"Not tried: the drill needs two sessions at a time. {error}"
            return DrillResult(refusal=text)
        return DrillResult(tuple(_steps(db, terminator, report)))


def _unsafe(survey: Survey) -> str:
    """Why ending a session could hit somebody else's, "" if it cannot."""
    facts, pooler = survey.facts, survey.pooler
    if pooler is None and facts is not None and facts.refusal:
        return f"cannot determine whether a pooler is in between ({facts.refusal})."
    if pooler is None and (facts is None or facts.path is not Path.POOLER):
        return ""
    mode = pooler.mode if pooler is not None else None
    if mode is None:
        why = f" {pooler.evidence}" if pooler is not None else ""
        return f"a pooler is in between, and its mode is unknown.{why}"
    if mode == "session":
        return ""
    return f"a pooler in {mode} mode shares sessions: terminating one could hit another client's."


def _two_at_a_time(connect: Connector) -> None:
    """See that the pool has a server for the connection too, which would wait without a limit.

    Raises:
        Impossible: it has none.
        Refused: it does not even let a session in.
    """
    link, _ = attempt(connect, {}, TIMEOUT)
    with contextlib.closing(link):
        try:
            answer(lambda: link.ask("SELECT 1"), link.fd, TIMEOUT)
        except (TimeoutError, link.connection.Error):
            raise Impossible(f"The pooler gave no second server within {TIMEOUT:g} s.") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the engine's log of losses: the drill itself tells of those that it made."""
    here = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != here

    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)


@contextlib.contextmanager
def _own(alias: str) -> Iterator[BaseDatabaseWrapper]:
    """A connection of our own under the alias, in this thread, for as long as this takes.

    Not of the alias' pool, if it has one: that is the application's.
    """
    kept = connections[alias]
    entry = dict(kept.settings_dict)
    entry["OPTIONS"] = {name: value for name, value in entry["OPTIONS"].items() if name != "pool"}
    connections[alias] = db = type(kept)(entry, alias)
    try:
        yield db
    finally:
        connections[alias] = kept
        with contextlib.suppress(Error):
            db.close()


def _steps(
    db: BaseDatabaseWrapper, terminator: Terminator, report: Callable[[str], object]
) -> Iterator[Step]:
    """Ends with the first step for which there is no session: so it would be for the others."""
    for number, case in enumerate(CASES, 1):
        report(f"Drill, {number} of {len(CASES)}: {case.name}, session terminated {case.row}.")
        try:
            db.ensure_connection()
            step = _try(db, terminator, case)
        except Impossible as error:
            step = Step(case.name, case.row, None, detail=str(error))
        except Error as error:
            yield Step(case.name, case.row, None, detail=terminator.line(error))
            return
        finally:
            with contextlib.suppress(Error):
                db.close()  # each case has a session of its own
        yield step


def _try(db: BaseDatabaseWrapper, terminator: Terminator, case: Case) -> Step:
    """First undisturbed, so that what fails without a loss is not taken for one.

    Raises:
        Error: there is no session to lose.
        Impossible: it could not be tried.
    """
    began = time.monotonic()
    try:
        case.run(db, lambda: 0)
    except Error as error:
        raise Impossible(terminator.line(error)) from None
    undisturbed = time.monotonic() - began
    db.close()  # to begin with a session that nothing has been done in
    victim = terminator.know()

    def lose() -> int:
        if case.midway:
            terminator.midway(victim, NAP)
        else:
            terminator.end(victim)
        return victim.process

    failure = ""
    try:
        case.run(db, lose)
    except Error as error:
        failure = terminator.line(error)
    finally:
        done = time.monotonic()
        terminator.join()
    if not terminator.ended:
        # Whatever came of it, it was not the loss.
        raise Impossible(terminator.failed or failure or "The session was not lost.")
    # Recovery begins when the session is gone. One that is lost midway reports only the request.
    spent = max(0.0, done - (terminator.asked_at if case.midway else terminator.ended_at))
    return Step(case.name, case.row, not failure, spent, undisturbed, failure)
