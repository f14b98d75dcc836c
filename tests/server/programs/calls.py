"""Calls of the connection's methods as events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .events import Quiet, claim, is_certain, may_be_committed, must_not_pass
from .ledger import Violation
from .oracle import Outcome
from .postgres import Refused
from .world import World
from .wrapper import BROKEN

_NEVER_RAISE: Final = frozenset({"close", "is_usable", "close_if_unusable_or_obsolete"})


@dataclass(slots=True)
class Called(Quiet):
    """A method of the connection, or of the driver's (``raw_...``)."""

    name: str

    def __str__(self) -> str:
        return self.name

    def predict(self, world: World) -> Any:
        return _PREDICTIONS[self.name](world)

    @property
    def goes_on(self) -> bool:
        return self.name in {"commit", "savepoint", "savepoint_rollback", "savepoint_commit"}

    def passes(self, world: World, refused: Refused) -> bool:
        """Turning autocommit on leaves a transaction whose session is dead.

        Of one that is lost no savepoint is looked for: it is lost, whatever was asked.
        """
        if self.name == "savepoint_rollback" and refused.sqlstate == "3B001":
            world.lose()
            return True
        if self.name != "set_autocommit(True)":
            return False
        _turned_on(world)
        return True

    def told(self, world: World, error: BaseException) -> None:
        if self.name in _NEVER_RAISE:
            raise Violation("refused", f"{self.name} raised")
        transaction = world.django.session.transaction
        if self.name == "raw_commit" or (self.name == "commit" and not is_certain(error)):
            may_be_committed(world)
            world.lose_what_was(transaction, must_raise=False)
        elif self.name == "commit":
            world.lose(ended=True)
            if transaction is not None:
                transaction.writes.clear()  # that they are lost is said for certain
        else:
            world.lose()

    def after_loss(self, world: World, outcome: Outcome) -> None:
        if outcome.error is None:
            _AFTER_LOSS.get(self.name, _nothing)(world)
        elif self.name in _NEVER_RAISE:
            raise Violation("refused", f"{self.name} raised")


@dataclass(slots=True)
class Closed(Quiet):
    """``close_if_unusable_or_obsolete``; ``closed`` is what came of it."""

    closed: Callable[[], bool]

    def __str__(self) -> str:
        return "close_if_unusable_or_obsolete"

    def predict(self, world: World) -> None:
        # Django closes wherever autocommit is off, in a block too; else where an error has come.
        if world.django.connected and (self.closed() or not world.django.autocommit):
            _close(world)

    def told(self, world: World, error: BaseException) -> None:
        raise Violation("refused", f"{self} raised")

    def after_loss(self, world: World, outcome: Outcome) -> None:
        if outcome.error is not None:
            self.told(world, outcome.error)
        self.predict(world)


@dataclass(slots=True)
class OnCommit(Quiet):
    """A hook is registered."""

    key: int

    def __str__(self) -> str:
        return f"on_commit({self.key})"

    def predict(self, world: World) -> None:
        world.django.on_commit(self.key)

    def told(self, world: World, error: BaseException) -> None:
        world.lose()

    def after_loss(self, world: World, outcome: Outcome) -> None:
        if outcome.error is None:
            self.predict(world)


# -- on a session that lives ---------------------------------------------------------------------


def _rollback(world: World) -> None:
    world.django.rollback()
    # psycopg2 does nothing where BEGIN was sent as text. If the session is dead the transaction is
    # over all the same, and the engine may know.
    if world.at_risk and world.django.session.transaction is not None:
        world.drop()


def _savepoint(world: World) -> None:
    world.django.last_savepoint = world.django.savepoint() or world.django.last_savepoint


def _close(world: World) -> None:
    world.lost = None
    world.drop()
    world.django.close()
    if not world.django.in_atomic_block:
        world.at_risk = False


_PREDICTIONS: Final[dict[str, Callable[[World], Any]]] = {
    "commit": lambda world: world.django.commit(),
    "rollback": _rollback,
    "set_autocommit(False)": lambda world: world.django.set_autocommit(False),
    "set_autocommit(True)": lambda world: world.django.set_autocommit(True),
    "savepoint": _savepoint,
    "savepoint_rollback": lambda world: world.django.savepoint_rollback(
        world.django.last_savepoint
    ),
    "savepoint_commit": lambda world: world.django.savepoint_commit(world.django.last_savepoint),
    "close": _close,
    "ensure_connection": lambda world: world.django.connect(),
    "is_usable": lambda world: world.django.is_usable(),
    "raw_commit": lambda world: world.django.end_raw("COMMIT"),
    "raw_rollback": lambda world: world.django.end_raw("ROLLBACK"),
}

# -- after a loss, where it has succeeded --------------------------------------------------------


def _nothing(world: World) -> None:
    pass


def _committed_after_loss(world: World) -> None:
    if world.django.in_atomic_block:
        raise Violation("passed", f"commit() succeeded where {BROKEN} is expected")
    claim(world)
    world.leave()
    world.django.hooks_due = True


def _rolled_back_after_loss(world: World) -> None:
    world.leave()
    world.django.needs_rollback = False
    world.django.hooks = []


def _turned_on(world: World) -> None:
    django = world.django
    django.autocommit = True
    django.needs_rollback = False  # as Django has it on a new connection
    world.leave()
    django.run_hooks()


def _turned_off(world: World) -> None:
    must_not_pass(world, "set_autocommit(False)")
    world.django.set_autocommit(False)


def _savepoint_after_loss(world: World) -> None:
    if not world.django.autocommit:
        must_not_pass(world, "savepoint()")
        _savepoint(world)


def _savepoint_rolled_back(world: World) -> None:
    assert world.lost is not None
    world.lost.roll_back_to(world.django.last_savepoint)


def _driver_committed(world: World) -> None:
    claim(world)
    world.leave()


_AFTER_LOSS: Final[dict[str, Callable[[World], Any]]] = {
    "commit": _committed_after_loss,
    "rollback": _rolled_back_after_loss,
    "set_autocommit(False)": _turned_off,
    "set_autocommit(True)": _turned_on,
    "savepoint": _savepoint_after_loss,
    "savepoint_rollback": _savepoint_rolled_back,
    "close": _close,
    "raw_commit": _driver_committed,
    "raw_rollback": World.leave,
}
