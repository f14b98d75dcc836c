"""Statements, and what the application is told by their errors."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from .language import By
from .ledger import Told, Violation
from .oracle import Outcome, compare
from .postgres import Refused, Seen
from .texts import Control, Fate, Read, Text, Write
from .world import World

_NOTHING_SENT: Final = frozenset({"SessionLost", "ServerDown"})


def is_unknown(error: BaseException) -> bool:
    """Whether the error says that a COMMIT may have taken effect."""
    return type(error).__name__ == "CommitOutcomeUnknown"


def is_certain(error: BaseException) -> bool:
    """Whether the error says for certain that nothing has taken effect."""
    name = type(error).__name__
    whole = bool(getattr(error, "transaction_lost", False))
    return (
        name in _NOTHING_SENT
        or (name == "TransactionLost" and whole)
        or str(error).startswith("sending query failed")  # a connection stuck in pipeline mode
    )


def claim(world: World) -> None:
    """The application is told that what was lost has been committed."""
    assert world.lost is not None
    transaction = world.lost.transaction
    if transaction is not None:
        told = world.django.ledger
        unseen = transaction.invisible or not transaction.sighted
        (told.unseen if unseen else told.committed)(transaction.writes)


def may_be_committed(world: World) -> None:
    """A COMMIT of the open transaction was lost, nobody knows whether before or after."""
    transaction = world.django.session.transaction
    if transaction is not None:
        with world.django.ledger.in_doubt():
            if transaction.failed:
                world.django.session.roll_back()
            else:
                world.django.session.commit()


def must_not_pass(world: World, event: object) -> None:
    """What succeeds after a loss must not be part of what was lost."""
    assert world.lost is not None
    if world.lost.must_raise:
        raise Violation("outside", f"{event} succeeded outside of the transaction that was lost")
    world.leave()


class Quiet:
    """An event whose success comes from the client alone, and that never ends its session."""

    @property
    def deadly(self) -> bool:
        return False

    @property
    def lingers(self) -> bool:
        return False

    @property
    def proves_life(self) -> bool:
        return False

    @property
    def goes_on(self) -> bool:
        return False

    def passes(self, world: World, refused: Refused) -> bool:
        return False


@dataclass(slots=True)
class Statement:
    """One string, or (``many``) the rows of one text."""

    by: By
    texts: tuple[Text, ...]
    many: bool = False

    def __str__(self) -> str:
        texts = "; ".join(map(str, self.texts))
        return f'{self.by.value}.execute{"many" * self.many}("{texts}")'

    @property
    def deadly(self) -> bool:
        return any(
            (isinstance(text, Write) and text.fate is not None)
            or (isinstance(text, Read) and text.dies)
            for text in self.texts
        )

    @property
    def lingers(self) -> bool:
        return any(
            isinstance(text, Write) and text.fate not in {None, Fate.EARLY} for text in self.texts
        )

    @property
    def proves_life(self) -> bool:
        return bool(self.texts)

    @property
    def goes_on(self) -> bool:
        return True

    def passes(self, world: World, refused: Refused) -> bool:
        return False

    def predict(self, world: World) -> Seen | None:
        if self.many:
            world.django.execute_many(self.by, self.texts)
            return None
        seen = world.django.execute(self.by, self.texts)
        return seen if len(self.texts) == 1 else None

    def told(self, world: World, error: BaseException) -> None:
        session = world.django.session
        before = session.transaction
        done, written = (before.acknowledged, len(before.writes)) if before else (0, 0)
        if is_certain(error):
            self._never_ran(world)
        else:
            self._perhaps(world)
        ended = session.transaction is not before
        world.lose_what_was(before, must_raise=done > 0 and not ended)
        if before is not None and not ended:
            del before.writes[written:]  # of this statement the application knows that it failed

    def after_loss(self, world: World, outcome: Outcome) -> None:
        lost, django = world.lost, world.django
        assert lost is not None
        if outcome.error is not None:
            if django.autocommit and not (lost.must_raise or is_certain(outcome.error)):
                self._perhaps(world)
                world.drop()
            else:
                self._never_ran(world)
            return
        first = self.texts[0] if self.texts else None
        words = first.words if isinstance(first, Control) else ""
        if words in {"COMMIT", "END"}:
            claim(world)
            world.leave()
        elif words == "ROLLBACK":
            world.leave()
        else:
            must_not_pass(world, self)
        seen = self.predict(world)
        if self.proves_life:
            world.at_risk = self.lingers and not world.armed
        if seen is not None:
            compare(seen, outcome.value)

    def _perhaps(self, world: World) -> None:
        """What the string would have committed may be committed."""
        with world.django.ledger.in_doubt(), contextlib.suppress(Refused):
            self.predict(world)

    def _never_ran(self, world: World) -> None:
        ledger = world.django.ledger
        for text in self.texts:
            if isinstance(text, Write) and text.key not in ledger.told:
                ledger.told[text.key], ledger.group[text.key] = Told.ABSENT, 0
