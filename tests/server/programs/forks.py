"""What a forked child does, as an event of its parent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .events import Quiet
from .ledger import Told, Violation
from .oracle import Outcome
from .world import World


@dataclass(slots=True)
class Forked(Quiet):
    """A child used the alias, wrote a row and was over; for its parent nothing has changed."""

    key: int
    #: Whether the child was told that its row is written.
    wrote: Callable[[], bool]

    def __str__(self) -> str:
        return f"fork: INSERT {self.key}"

    def predict(self, world: World) -> None:
        ledger = world.django.ledger
        ledger.executed(self.key, ledger.new_group())
        ledger.told[self.key] = self._told(world)

    def _told(self, world: World) -> Told:
        """A child may be refused where its parent would be, had its session died."""
        django = world.django
        in_autocommit = django.autocommit or not django.connected
        if not (in_autocommit and self.wrote()):
            return Told.ABSENT  # in a block nobody has committed it
        in_transaction = django.session.transaction is not None or world.lost is not None
        # It is not in its parent's transaction, of which the engine may know nothing.
        return Told.UNKNOWN if in_transaction else Told.COMMITTED

    def told(self, world: World, error: BaseException) -> None:
        raise Violation("refused", f"a child has ended by {error}")

    def after_loss(self, world: World, outcome: Outcome) -> None:
        if outcome.error is not None:
            self.told(world, outcome.error)
        self.predict(world)
