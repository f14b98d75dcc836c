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
        texts: by alias, different texts of what took effect, or may have.
        hooks: ``on_commit`` hooks that have run.
        uncounted: statements of which it cannot be told what they did, by alias.
        foreign: aliases of other engines that were used: nobody counts what took effect there.
    """

    __slots__ = ("budget", "foreign", "hooks", "texts", "uncounted")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.texts: dict[str, set[str]] = {}
        self.hooks = 0
        self.uncounted: set[str] = set()
        self.foreign: set[str] = set()

    def took_effect(self, alias: str, text: object) -> None:
        """Note one statement."""
        texts = self.texts.setdefault(alias, set())
        if len(texts) >= MOST_TEXTS or not isinstance(text, str):
            self.uncounted.add(alias)
        else:
            texts.add(text)


#: All units under way in this process: while there is none, statements need not look for theirs.
UNDER_WAY: list[Unit] = []
#: The unit under way in this context, if any.
UNIT: ContextVar[Unit | None] = ContextVar("django_resilient_pg_unit", default=None)
