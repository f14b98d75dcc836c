"""The event log: what happened, in the words of whoever noticed it.

Eleven connections that die together give eleven lines that differ in their numbers alone. Within
one fault they are one entry with a count.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

MOST = 200  # entries that are kept
NUMBERS = re.compile(r"\d+(\.\d+)?( ms| s)?")


@dataclass(slots=True)
class Entry:
    """One line, or several that say the same. ``change`` is when it was last counted."""

    key: int
    at: float
    source: str
    level: str
    text: str
    count: int = 1
    change: int = 0


class Journal:
    """The entries, the oldest first; not for more than one thread at a time."""

    def __init__(self) -> None:
        self.changes = 0
        self._entries: deque[Entry] = deque(maxlen=MOST)
        self._same: dict[tuple[str, str, str], Entry] = {}
        self._made = 0

    def begin_chapter(self) -> None:
        """What comes now is not counted with what came before."""
        self._same.clear()

    def write(self, at: float, source: str, level: str, text: str) -> None:
        """Add a line, or count it with those that say the same."""
        self.changes += 1
        same = (source, level, NUMBERS.sub("#", text))
        entry = self._same.get(same)
        if entry is None:
            self._made += 1
            entry = self._same[same] = Entry(self._made, at, source, level, text, 0)
            self._entries.append(entry)
        entry.count += 1
        entry.change = self.changes

    def since(self, change: int) -> list[dict[str, Any]]:
        """The entries that are new or were counted since then."""
        return [asdict(entry) for entry in self._entries if entry.change > change]
