"""The printed matrix: unit of work x cut x outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from tests.cuts.oracle import Outcome
from tests.cuts.surgeon import SIDES, WHERES
from tests.cuts.theatre import Result

LEGEND: Final = """\
Columns: who sent the message, and whether the cut came before it, inside it or after it, by FIN,
RST and silence alike. Cells: healed / raised without an effect / raised with an unknown outcome.
Cuts that the conversation did not reach are not counted there."""

_PLACES: Final = tuple(f"{side}.{where}" for side in SIDES for where in WHERES)
_SHOWN: Final = (Outcome.HEALED, Outcome.RAISED, Outcome.UNKNOWN)


def head(series: str) -> str:
    """The line over a series."""
    places = "".join(f"{place:>17}" for place in _PLACES)
    return f"\n{series:26}{places}{'cases':>8}{'violations':>12}"


def row(unit: str, results: Sequence[Result]) -> str:
    """The line of a unit."""
    counts: dict[str, Counter[Outcome]] = {place: Counter() for place in _PLACES}
    for result in results:
        for first in result.case.cuts[:1]:
            counts[f"{first.side}.{first.where}"][result.outcome] += 1
    cells = ("/".join(str(by[one]) for one in _SHOWN) for by in counts.values())
    bad = sum(bool(result.violations) for result in results)
    shown = "".join(f"{cell:>17}" for cell in cells)
    return f"  {unit:24}{shown}{len(results):>8}{bad:>12}"


def totals(results: Sequence[Result]) -> str:
    """How the cases ended, in one line."""
    ended = Counter(result.outcome for result in results)
    return ", ".join(f"{ended[one]} {one.value}" for one in Outcome)
