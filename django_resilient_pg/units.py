"""What a unit of work (a request) has done so far that running it again would do twice.

The engine notes the texts of what took effect: statements in autocommit and committed transactions,
on every alias. They are read only if the unit failed. A context variable holds the unit, so it
crosses ``sync_to_async`` with the request.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .retry import Budget

#: More different texts than this are not kept: such a unit or transaction counts as one that has
#: written.
MOST_TEXTS: Final = 500


class Unit:
    """One unit of work.

    Attributes:
        budget: what all statements of the unit may spend on reconnecting and retrying, together.
        texts: different texts of what took effect, or may have.
        hooks: ``on_commit`` hooks that have run.
    """

    __slots__ = ("budget", "hooks", "overflowed", "texts")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.texts: set[str] = set()
        self.hooks = 0
        self.overflowed = False

    def took_effect(self, text: object) -> None:
        """Note one statement."""
        if len(self.texts) >= MOST_TEXTS or not isinstance(text, str):
            self.overflowed = True
        else:
            self.texts.add(text)


#: All units under way in this process: while there is none, statements need not look for theirs.
ACTIVE: list[Unit] = []
#: The unit under way in this context, if any.
UNIT: ContextVar[Unit | None] = ContextVar("django_resilient_pg_unit", default=None)
