"""What the application was told of each row it wrote, held against what the table has."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class Violation(Exception):
    """A promise is broken. ``kind`` is its name; shortening a program keeps it.

    ``twice``: it shows in the table alone, whatever the model thinks.
    """

    def __init__(self, kind: str, text: str, *, twice: bool = False) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.twice = kind, twice


class Told(enum.Enum):
    OPEN = "is in a transaction under way"
    COMMITTED = "was committed"
    ABSENT = "was rolled back, or failed"
    UNKNOWN = "may have been committed"
    UNSEEN = "was written past Django's cursors, where the engine cannot know"


@dataclass(slots=True)
class Ledger:
    """Rows by their keys.

    Attributes:
        group: the transaction that a row belongs to.
        unwatched: rows that were committed past Django's cursors where no engine can know of it:
            their transaction was begun there too, or another one was before Django was asked for
            anything; and rows written past them in a transaction that was open already. So
            ``retry_atomic`` on the other alias may run its function again: a limit.
    """

    told: dict[int, Told] = field(default_factory=dict)
    group: dict[int, int] = field(default_factory=dict)
    unwatched: set[int] = field(default_factory=set)
    doubting: bool = False
    _groups: int = 0

    def new_group(self) -> int:
        self._groups += 1
        return self._groups

    def executed(self, key: int, group: int) -> None:
        """A statement that writes this row was sent, or is about to be."""
        before = self.told.get(key)
        if before in {Told.COMMITTED, Told.UNKNOWN} and key not in self.unwatched:
            raise Violation("doubled", f"row {key} is written again, though it {before.value}")
        self.told[key], self.group[key] = Told.OPEN, group

    def committed(self, keys: Iterable[int]) -> None:
        for key in keys:
            self.told[key] = Told.UNKNOWN if self.doubting else Told.COMMITTED

    def unknown(self, keys: Iterable[int]) -> None:
        for key in keys:
            self.told[key] = Told.UNKNOWN

    def unseen(self, keys: Iterable[int]) -> None:
        for key in keys:
            self.told[key] = Told.UNSEEN

    def absent(self, keys: Iterable[int]) -> None:
        for key in keys:
            self.told[key] = Told.ABSENT

    @contextmanager
    def in_doubt(self) -> Iterator[None]:
        """Within it what commits may have done so, because nobody was told."""
        self.doubting = True
        try:
            yield
        finally:
            self.doubting = False

    def having(self, *told: Told) -> set[int]:
        return {key for key, one in self.told.items() if one in told}

    def check(self, rows: Counter[int]) -> None:
        """Compare with the rows of the table, after the program.

        Raises:
            Violation: they contradict what the application was told.
        """
        for key, count in sorted(rows.items()):
            if count > 1 and key not in self.unwatched:
                text = f"row {key} is in the table {count} times"
                raise Violation("doubled", text, twice=True)
        self._check_halves(rows)
        for key, told in sorted(self.told.items()):
            if told is Told.COMMITTED and not rows[key]:
                raise Violation("lost", f"row {key} {told.value}, but is not in the table")
            if told in {Told.ABSENT, Told.OPEN} and rows[key]:
                raise Violation("not rolled back", f"row {key} {told.value}, but is in the table")
        if unknown := set(rows) - set(self.told):
            raise Violation("doubled", f"rows {sorted(unknown)} were never written")

    def _check_halves(self, rows: Counter[int]) -> None:
        whole: dict[int, set[int]] = {}
        for key in self.having(Told.COMMITTED, Told.UNKNOWN):
            whole.setdefault(self.group[key], set()).add(key)
        for keys in whole.values():
            here = {key for key in keys if rows[key]}
            if here and here != keys:
                raise Violation(
                    "half a transaction",
                    f"rows {sorted(keys)} are of one transaction, of which only {sorted(here)} are"
                    " in the table",
                )
