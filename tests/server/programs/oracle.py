"""What may happen at each step: what the model says, or the truth about a loss.

While no session has died everything is as the model of a session that never dies has it, errors
included. Once one has, a step either still does that, or raises; from then on it is known to the
application that what was under way is lost, and :meth:`Event.after_loss` says what may follow.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from .ledger import Ledger, Violation
from .postgres import Refused, Seen
from .world import World

# There is no savepoint of that name, or no transaction to have one.
_NO_SAVEPOINT: Final = frozenset({"3B001", "25P01"})


@dataclass(slots=True)
class Outcome:
    value: Any = None
    error: BaseException | None = None

    def unwrap(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Event(Protocol):
    """One step, as the model and the rules see it."""

    @property
    def deadly(self) -> bool:
        """Whether the step may end its session itself."""

    @property
    def lingers(self) -> bool:
        """Whether its session may end because of it after it has succeeded."""

    @property
    def proves_life(self) -> bool:
        """Whether its success has come from the server."""

    def predict(self, world: World) -> Any:
        """Do it in the model; Refused is the error that comes out."""

    def told(self, world: World, error: BaseException) -> None:
        """It has failed because of a loss."""

    @property
    def goes_on(self) -> bool:
        """Whether its success says that the open transaction goes on, or has been committed."""

    def passes(self, world: World, refused: Refused) -> bool:
        """Whether it may succeed although the model refuses; does then what comes of it.

        Only where the session may be dead.
        """

    def after_loss(self, world: World, outcome: Outcome) -> None:
        """It came after the application was told of a loss, and before it left that."""


@dataclass(slots=True)
class Oracle:
    """Watches a program. After the first violation it only lets the rest run."""

    world: World
    violation: Violation | None = None
    #: What happened, a line each; ``where`` is what they begin with.
    trace: list[str] = field(default_factory=list)
    where: str = ""
    #: How often something came of a loss.
    met: Counter[str] = field(default_factory=Counter)
    #: Whether two courses of things were right at some time, of which the model follows one
    #: (:attr:`.world.World.vague`): from then on only rows that are there twice are a violation.
    ambiguous: bool = False
    #: Whether sessions may die at any moment now, whatever this program does.
    is_stormy: Callable[[], bool] = lambda: False

    def observe(self, event: Event, act: Callable[[], Any]) -> Any:
        """Run a step and judge what comes of it; what it returns or raises is passed on."""
        stormy = self.is_stormy()
        self.world.at_risk |= stormy
        self.ambiguous |= self.world.vague
        outcome = _outcome_of(act)
        self.trace.append(f"{self.where}{event}: {_described(outcome)}")
        self.met[str(event)] += str(event) == "again"
        self._until_violated(lambda: self._judge(event, outcome))
        self.world.at_risk |= stormy
        return outcome.unwrap()

    @property
    def losses(self) -> int:
        """How often the application was told of a loss."""
        return self.met["told"] + self.met["after"]

    def check(self, what: Callable[[Ledger], None]) -> None:
        """Hold what the application was told against something else, such as the table."""
        self._until_violated(lambda: what(self.world.django.ledger))

    def _until_violated(self, check: Callable[[], None]) -> None:
        if self.violation is not None:
            return
        try:
            check()
        except Violation as violation:
            if self.ambiguous and not violation.twice:
                return
            self.violation = violation
            self.trace.append(f"^^^ {violation}")

    def killed(self) -> None:
        """The session was terminated, as far as there was one."""
        self.world.at_risk = True
        self.trace.append(f"{self.where}killed")

    def _judge(self, event: Event, outcome: Outcome) -> None:
        world = self.world
        if world.lost is not None:
            self.met["after"] += 1
            event.after_loss(world, outcome)
            return
        armed, vague = world.armed, world.vague
        risk = world.at_risk or armed or event.deadly
        before = copy.deepcopy(world) if risk else world
        foreseen = _foresee(event, world, risk=risk)
        if outcome.error is not None:
            if not foreseen.has(outcome.error, vague=vague):
                self._failed(event, before, outcome.error, foreseen, risk=risk)
            return
        if foreseen.refused is not None and not vague:
            self._passed(event, before, foreseen, risk=risk)
            return
        if not vague:
            foreseen.compare(event, outcome.value, risk=risk)
        if event.proves_life:
            self.met["healed"] += world.at_risk
            # Of an open transaction only the end will show.
            world.at_risk = vague or (event.lingers and not world.armed)
        world.at_risk |= armed and not world.armed

    def _failed(
        self, event: Event, before: World, error: BaseException, foreseen: Foreseen, *, risk: bool
    ) -> None:
        if not risk:
            raise Violation("refused", f"{event} raised where {foreseen} is expected")
        if not _of_database(error):
            raise Violation("refused", f"{event} raised {type(error).__name__} after a loss")
        self.met["told"] += 1
        self.met["unknown"] += type(error).__name__ == "CommitOutcomeUnknown"
        self.world = before
        event.told(before, error)

    def _passed(self, event: Event, before: World, foreseen: Foreseen, *, risk: bool) -> None:
        assert foreseen.refused is not None
        if not (risk and event.passes(before, foreseen.refused)):
            raise Violation("passed", f"{event} succeeded where {foreseen} is expected")
        self.world = before


@dataclass(slots=True)
class Foreseen:
    """What the model gives for a step, or the error that it foresees."""

    value: Any = None
    refused: Refused | None = None

    def __str__(self) -> str:
        return "success" if self.refused is None else str(self.refused)

    def has(self, error: BaseException, *, vague: bool) -> bool:
        """Whether this is the error; ``vague``: see :attr:`.world.World.vague`."""
        refused = self.refused
        if refused is None:
            return False
        if vague and {refused.sqlstate, sqlstate_of(error)} <= _NO_SAVEPOINT:
            return True
        if refused.kind and refused.kind not in {kind.__name__ for kind in type(error).__mro__}:
            return False
        return refused.sqlstate is None or sqlstate_of(error) == refused.sqlstate

    def compare(self, event: Event, value: Any, *, risk: bool) -> None:
        if isinstance(self.value, Seen):
            compare(self.value, value)
        elif self.value is not None and value != self.value and not risk:
            raise Violation("answer", f"{event} gave {value!r} for {self.value!r}")


def _foresee(event: Event, world: World, *, risk: bool) -> Foreseen:
    with world.django.ledger.in_doubt() if world.vague else nullcontext():
        if risk and event.goes_on:
            world.django.session.forgive_unseen()
        try:
            return Foreseen(event.predict(world))
        except Refused as refused:
            return Foreseen(refused=refused)


def compare(expected: Seen, value: tuple[str, frozenset[int], str]) -> None:
    """Hold what a read has returned against what its session must see."""
    tenant, rows, note = value
    if note != expected.note:
        raise Violation("altered", f"{expected.note!r} was read as {note!r}")
    if expected.tenants is not None and tenant not in expected.tenants:
        raise Violation(
            "another session's state", f"the tenant is {tenant!r}, not {sorted(expected.tenants)}"
        )
    missing, foreign = expected.rows - rows, rows - expected.rows - expected.perhaps
    if missing or foreign:
        raise Violation(
            "stale read", f"missing rows: {sorted(missing)}, unexpected rows: {sorted(foreign)}"
        )


def sqlstate_of(error: BaseException) -> str | None:
    """Of a driver's error, or of the one below Django's."""
    for one in (error, error.__cause__):
        for name in ("sqlstate", "pgcode"):
            if found := getattr(one, name, None):
                return str(found)
    return None


def _of_database(error: BaseException) -> bool:
    """Whether it is an error of Django's or the driver's that applications reckon with."""
    return "Error" in {kind.__name__ for kind in type(error).__mro__}


def _outcome_of(act: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(act())
    except Exception as error:
        return Outcome(error=error)


def _described(outcome: Outcome) -> str:
    if outcome.error is None:
        return f"{outcome.value!r}"
    first = str(outcome.error).partition("\n")[0]
    return f"{type(outcome.error).__name__} {sqlstate_of(outcome.error) or ''} {first}"
