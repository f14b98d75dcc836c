"""What processes hold, from /proc, and whether it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

#: Rounds from which memory is judged: the first third warms up.
ENOUGH: Final = 6
#: MB by which the last third of the rounds may have more than the one before it.
MEMORY: Final = 4.0
#: Descriptors and threads more than in the first round: a library may open one late.
MORE: Final = 2


@dataclass(frozen=True, slots=True)
class Held:
    """What a process has while it does nothing."""

    memory: float  # MB, resident
    descriptors: int
    threads: int

    def __str__(self) -> str:
        return f"{self.memory:.1f} MB {self.descriptors} fd {self.threads} thr"


def held(pid: int) -> Held:
    """What this process has now."""
    home = Path(f"/proc/{pid}")
    lines = (line.split(":", 1) for line in (home / "status").read_text().splitlines())
    status = {name: value.split() for name, value in lines}
    return Held(
        memory=int(status["VmRSS"][0]) / 1024,
        descriptors=sum(1 for _ in (home / "fd").iterdir()),
        threads=int(status["Threads"][0]),
    )


def growth(rounds: Sequence[Held]) -> list[str]:
    """What has grown from round to round, one sentence each."""
    found = []
    for what in ("descriptors", "threads"):
        first, last = (getattr(one, what) for one in (rounds[0], rounds[-1]))
        if last > first + MORE:
            found.append(f"{what} grew from {first} to {last}")
    third = len(rounds) // 3
    if len(rounds) >= ENOUGH:
        before, after = (
            median(one.memory for one in part)
            for part in (rounds[-2 * third : -third], rounds[-third:])
        )
        if after > before + MEMORY:
            found.append(f"memory grew from {before:.1f} to {after:.1f} MB")
    return found
