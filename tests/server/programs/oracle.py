"""What may happen at each step: what the model says, or the truth about a loss.

While no session has died everything is as the model of a session that never dies has it, errors
included. Once one has, a step either still does that, or raises; from then on it is known to the
application that what was under way is lost, and :mod:`.losses` says what may follow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from .ledger import Ledger, Violation
from .postgres import Refused, Seen, Transaction
from .stack import Django


@dataclass(slots=True)
class Lost:
    """The application was told of a loss, and has not left what it was in.

    Attributes:
        transaction: what was open then.
        must_raise: nothing may run outside of the transaction it was written for. False where
            nothing of it had succeeded (what follows may as well be its beginning), where a COMMIT
            of it was tried, and where the engine could not know of it: begun and lost past
            Django's cursors.
    """

    transaction: Transaction | None
    must_raise: bool


@dataclass(slots=True)
class World:
    """The model, and whether its session may be dead.

    Attributes:
        at_risk: a session has died, and nothing has come from another one since.
    """

    django: Django
    at_risk: bool = False
    lost: Lost | None = None

    @property
    def armed(self) -> bool:
        transaction = self.django.session.transaction
        return transaction is not None and transaction.armed

    @property
    def vague(self) -> bool:
        """Whether both are right: that a statement is its own transaction, or not.

        psycopg2, after a text has ended its transaction, goes on without one; on a new connection
        it begins one. The application has been told of no COMMIT, whichever it is.
        """
        return self.at_risk and self.django.driver.mistaken

    def lose(self, *, ended: bool = False) -> None:
        """The application is told now: what is open is lost, until it is left."""
        transaction = self.django.session.transaction
        done = 0 if transaction is None else transaction.acknowledged
        self.lose_what_was(transaction, must_raise=done > 0 and not ended)

    def lose_what_was(self, transaction: Transaction | None, *, must_raise: bool) -> None:
        """The same, where the step itself may have ended the transaction."""
        self.drop()
        self.at_risk = True
        if transaction is not None or not self.django.autocommit:
            sighted = transaction is not None and transaction.sighted
            self.lost = Lost(transaction, must_raise and sighted)

    def drop(self) -> None:
        """The session is gone; Django's own state stays."""
        self.django.session.roll_back()
        self.django.driver.begun = False

    def leave(self) -> None:
        """What was lost is left: what comes now is as on a new session."""
        self.lost = None
        self.drop()
        self.django.driver.autocommit = self.django.autocommit


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
    trace: list[str] = field(default_factory=list)

    def observe(self, event: Event, act: Callable[[], Any]) -> Any:
        """Run a step and judge what comes of it; what it returns or raises is passed on."""
        outcome = _outcome_of(act)
        self.trace.append(f"{event}: {_described(outcome)}")
        self._until_violated(lambda: self._judge(event, outcome))
        return outcome.unwrap()

    def check(self, what: Callable[[Ledger], None]) -> None:
        """Hold what the application was told against something else, such as the table."""
        self._until_violated(lambda: what(self.world.django.ledger))

    def _until_violated(self, check: Callable[[], None]) -> None:
        if self.violation is not None:
            return
        try:
            check()
        except Violation as violation:
            self.violation = violation
            self.trace.append(f"^^^ {violation}")

    def killed(self) -> None:
        """The session was terminated, as far as there was one."""
        self.world.at_risk = True
        self.trace.append("killed")

    def _judge(self, event: Event, outcome: Outcome) -> None:
        world = self.world
        if world.lost is not None:
            event.after_loss(world, outcome)
            return
        armed, vague = world.armed, world.vague
        risk = world.at_risk or armed or event.deadly
        before = copy.deepcopy(world) if risk else world
        try:
            with world.django.ledger.in_doubt() if vague else nullcontext():
                if world.at_risk and event.goes_on:
                    world.django.session.forgive_unseen()
                expected, refused = event.predict(world), None
        except Refused as error:
            expected, refused = None, error
        if outcome.error is None and refused is not None and risk and not vague:
            self.world = world = before
            if not event.passes(world, refused):
                raise Violation("passed", f"{event} succeeded where {refused} is expected")
        elif outcome.error is None:
            if not vague:
                self._passed(event, outcome, expected, refused, risk=risk)
            if event.proves_life:
                world.at_risk = event.deadly or vague
            world.at_risk |= armed and not world.armed
        elif refused is None or not is_same(outcome.error, refused):
            if not risk:
                expectation = "success" if refused is None else str(refused)
                raise Violation("refused", f"{event} raised where {expectation} is expected")
            self.world = before
            event.told(before, outcome.error)

    def _passed(
        self, event: Event, outcome: Outcome, expected: Any, refused: Refused | None, *, risk: bool
    ) -> None:
        if refused is not None:
            raise Violation("passed", f"{event} succeeded where {refused} is expected")
        if isinstance(expected, Seen):
            compare(expected, outcome.value)
        elif expected is not None and outcome.value != expected and not risk:
            raise Violation("answer", f"{event} gave {outcome.value!r} for {expected!r}")


def compare(expected: Seen, value: tuple[str, frozenset[int]]) -> None:
    """Hold what a read has returned against what its session must see."""
    tenant, rows = value
    if tenant not in expected.tenants:
        raise Violation(
            "another session's state", f"the tenant is {tenant!r}, not {sorted(expected.tenants)}"
        )
    missing, foreign = expected.rows - rows, rows - expected.rows - expected.perhaps
    if missing or foreign:
        raise Violation(
            "stale read", f"missing rows: {sorted(missing)}, unexpected rows: {sorted(foreign)}"
        )


def is_same(error: BaseException, refused: Refused) -> bool:
    """Whether this is the error that the model foresaw."""
    if refused.kind and refused.kind not in {kind.__name__ for kind in type(error).__mro__}:
        return False
    return refused.sqlstate is None or sqlstate_of(error) == refused.sqlstate


def sqlstate_of(error: BaseException) -> str | None:
    """Of a driver's error, or of the one below Django's."""
    for one in (error, error.__cause__):
        for name in ("sqlstate", "pgcode"):
            if found := getattr(one, name, None):
                return str(found)
    return None


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
