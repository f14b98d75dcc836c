"""What the model keeps of a transaction of the server."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Setting:
    """The values the tenant may have: one, unless a COMMIT that set it has an unknown outcome.

    ``None``: any, because a pool does not clean what it hands out.
    """

    session: frozenset[str] | None = frozenset({""})
    local: str | None = None

    @property
    def visible(self) -> frozenset[str] | None:
        return self.session if self.local is None else frozenset({self.local})

    def either(self, other: Setting) -> Setting:
        """What the session may have where both are possible."""
        if self.session is None or other.session is None:
            return Setting(None)
        return Setting(self.session | other.session)


@dataclass(frozen=True, slots=True)
class Savepoint:
    name: str
    writes: int
    acknowledged: int
    setting: Setting


@dataclass(slots=True)
class Transaction:
    """A transaction of the server.

    Attributes:
        before: the setting to return to when it is rolled back.
        implicit: of one statement or one string, without BEGIN.
        group: its number in the ledger.
        acknowledged: how many statements of it have succeeded.
        armed: a row of it ends its session at COMMIT.
        begun_raw: its first statement came past Django's cursors.
        sighted: the engine knows of it: Django began it, or was asked for something meanwhile.
        watched: Django was asked for something while it was open.
        writes_seen, writes_unseen: rows were written on Django's cursors, and past them.
    """

    before: Setting
    implicit: bool
    group: int
    failed: bool = False
    writes: list[int] = field(default_factory=list)
    savepoints: list[Savepoint] = field(default_factory=list)
    acknowledged: int = 0
    armed: bool = False
    begun_raw: bool = False
    sighted: bool = False
    watched: bool = False
    writes_seen: bool = False
    writes_unseen: bool = False

    def add_savepoint(self, name: str, setting: Setting) -> None:
        savepoint = Savepoint(name, len(self.writes), self.acknowledged, setting)
        self.savepoints.append(savepoint)

    def find(self, name: str) -> Savepoint | None:
        """The last savepoint of this name."""
        return next((one for one in reversed(self.savepoints) if one.name == name), None)

    def roll_back_to(self, savepoint: Savepoint) -> list[int]:
        """Keep the savepoint and what was before it; returns the rows that were not."""
        del self.savepoints[self.savepoints.index(savepoint) + 1 :]
        undone = self.writes[savepoint.writes :]
        del self.writes[savepoint.writes :]
        return undone

    @property
    def invisible(self) -> bool:
        """Whether it wrote where the engine cannot know: a limit that is documented.

        What is sent past Django's cursors is noticed where it begins the transaction. After that
        a transaction that by its other statements only reads counts as one that only reads.
        """
        return self.writes_unseen and not (self.begun_raw or self.writes_seen)
