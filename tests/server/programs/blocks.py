"""``atomic()`` and ``retry_atomic`` as events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .events import Quiet, claim, is_certain, is_unknown, may_be_committed, must_not_pass
from .ledger import Violation
from .oracle import Outcome
from .postgres import Refused
from .world import World


@dataclass(slots=True)
class Enter(Quiet):
    """A block is entered; of ``retry_atomic``, for the first time."""

    kind: str

    def __str__(self) -> str:
        return f"enter {self.kind}"

    def predict(self, world: World) -> None:
        world.django.enter(self.kind)

    def told(self, world: World, error: BaseException) -> None:
        django = world.django
        if not django.in_atomic_block and not django.autocommit:
            django.in_atomic_block, django.commit_on_exit = True, False  # stuck, see Django.stuck
        world.lose()

    def after_loss(self, world: World, outcome: Outcome) -> None:
        django = world.django
        if outcome.error is not None:
            if not (django.in_atomic_block or django.autocommit):
                django.in_atomic_block, django.commit_on_exit = True, False
        elif not django.autocommit and (
            self.kind == "no savepoint" or (django.in_atomic_block and django.needs_rollback)
        ):
            self.predict(world)  # nothing is sent
        else:
            must_not_pass(world, self)
            self.predict(world)


@dataclass(slots=True)
class Rerun(Quiet):
    """``retry_atomic`` runs its function again.

    Attributes:
        lost_elsewhere: a loss of the other alias was told to the function, which counts too.
    """

    lost_elsewhere: bool = False

    def __str__(self) -> str:
        return "again"

    def predict(self, world: World) -> None:
        if not (world.at_risk or world.armed or self.lost_elsewhere):
            raise Violation("repeated", "retry_atomic runs its function again for no reason")
        self._start_over(world)

    def told(self, world: World, error: BaseException) -> None:
        raise AssertionError(error)

    def after_loss(self, world: World, outcome: Outcome) -> None:
        self._start_over(world)

    def _start_over(self, world: World) -> None:
        leave_block(world)
        world.at_risk = True
        world.django.enter("retry")


@dataclass(slots=True)
class Exit(Quiet):
    """The innermost block is left; ``failed``: by an exception, which then comes out of it."""

    kind: str
    failed: bool
    #: Whether Django wants the block around to be rolled back, as ``get_rollback()`` tells.
    wants_rollback: Callable[[], bool]

    def __str__(self) -> str:
        return f"leave {self.kind}{' by an exception' * self.failed}"

    @property
    def goes_on(self) -> bool:
        return True

    def predict(self, world: World) -> None:
        django = world.django
        django.exit(failed=self.failed)
        if world.at_risk and django.needs_rollback and not self.wants_rollback():
            # By a savepoint of which the same is true as below.
            django.needs_rollback = False
            if django.session.transaction is not None:
                django.session.transaction.failed = False

    def passes(self, world: World, refused: Refused) -> bool:
        """A savepoint that a text has ended is there again on a new connection."""
        if refused.sqlstate == "3B001":
            self._leave_inner(world, failed=False)
        return refused.sqlstate == "3B001"

    def told(self, world: World, error: BaseException) -> None:
        django = world.django
        if django.savepoint_ids:
            world.lose()
            self._leave_inner(world, failed=True)
            return
        if not (self.failed or django.needs_rollback):
            certain = is_certain(error) or (self.kind == "retry" and not is_unknown(error))
            if not certain:
                may_be_committed(world)
        leave_block(world)
        world.at_risk = True

    def after_loss(self, world: World, outcome: Outcome) -> None:
        django = world.django
        assert world.lost is not None
        if django.savepoint_ids:
            self._leave_inner(world, failed=outcome.error is not None)
            return
        if not (self.failed or django.needs_rollback):
            transaction = world.lost.transaction
            if outcome.error is None:
                claim(world)
                django.ran += [key for _, key in django.hooks]
            elif is_unknown(outcome.error) and transaction is not None:
                django.ledger.unknown(transaction.writes)
        leave_block(world)

    def _leave_inner(self, world: World, *, failed: bool) -> None:
        django = world.django
        name = django.savepoint_ids.pop()
        if world.lost is not None and (failed or self.failed):
            world.lost.roll_back_to(name)
        if self.failed or django.needs_rollback:
            django.needs_rollback = name is None
        if not (django.savepoint_ids or django.commit_on_exit):
            django.in_atomic_block = False


def leave_block(world: World) -> None:
    """The outermost block is over, and its transaction with it."""
    django = world.django
    if django.closed_in_transaction:
        django.connected = django.closed_in_transaction = False
        django.start_clean()
    django.in_atomic_block = django.needs_rollback = False
    django.savepoint_ids, django.hooks = [], []
    django.autocommit = True
    world.leave()
