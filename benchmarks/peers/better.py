"""Where a peer is better than this engine. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from benchmarks.peers.bounds import in_milliseconds, in_seconds
from benchmarks.peers.contestants import BY_NAME
from benchmarks.peers.failures import FAULTS, failed
from benchmarks.peers.paths import JOBS, NAMES

_OURS: Final = "resilient"
_OURS_POOLED: Final = "resilient_pool"
#: Seconds: what is closer than that is chance.
_SAME: Final = 0.1
Row = list[str]


def in_cost(results: dict[str, Any]) -> Iterator[Row]:
    """Each figure in which a peer is quicker or smaller, and the 95 % intervals are apart."""
    for path in NAMES:
        for job in JOBS:
            sides = results["jobs"][path].get(job, {})
            figures = {name: side["us"] for name, side in sides.items()}
            yield from _smaller(f"{job}, {path}", figures, "us")
    yield from _smaller("import", results["import_ms"], "ms")
    memory = {
        name: {"median": held["median"], "low": held["least"], "high": held["most"]}
        for name, held in results["memory_mb"].items()
    }
    yield from _smaller("memory", memory, "MB")


def _smaller(where: str, figures: dict[str, dict[str, float]], unit: str) -> Iterator[Row]:
    for name, peer in figures.items():
        ours = figures.get(ours_for(name, figures))
        if ours and not name.startswith(_OURS) and peer["high"] < ours["low"]:
            shown = [f"{each['median']:.4g} {unit}" for each in (peer, ours)]
            yield [where, BY_NAME[name].title, *shown]


def ours_for(name: str, figures: dict[str, Any]) -> str:
    """With which of this engine's contestants a peer is compared."""
    pooled = BY_NAME[name].pool and _OURS_POOLED in figures
    return _OURS_POOLED if pooled else _OURS


def under_faults(results: dict[str, Any]) -> Iterator[Row]:
    """Each fault under which a peer failed less, answered again sooner, or took less at most."""
    for fault in FAULTS:
        sides = results["faults"].get(fault, {})
        there = {name: came for name, came in sides.items() if "left_out" not in came}
        for name, peer in there.items():
            ours = there.get(ours_for(name, there))
            if ours and not name.startswith(_OURS):
                yield from _beside(fault, BY_NAME[name].title, peer, ours)


def _beside(fault: str, title: str, peer: dict[str, Any], ours: dict[str, Any]) -> Iterator[Row]:
    shares = [f"{failed(came)} of {came['operations']}" for came in (peer, ours)]
    if _share(peer) < _share(ours):
        yield [f"{fault}: failed", title, *shares]
    soon, sooner = (came["first_success"] for came in (ours, peer))
    if _seconds(sooner) < _seconds(soon) - _SAME:
        yield [f"{fault}: first success", title, in_milliseconds(sooner), in_milliseconds(soon)]
    if peer["slowest"] < ours["slowest"] - _SAME:
        slowest = [in_seconds(came["slowest"]) for came in (peer, ours)]
        yield [f"{fault}: slowest (peer failed {shares[0]})", title, *slowest]


def _share(came: dict[str, Any]) -> float:
    return failed(came) / max(1, int(came["operations"]))


def _seconds(first_success: float | str | None) -> float:
    return float("inf") if isinstance(first_success, str) else first_success or 0.0
