"""What was promised in figures, and whether these results keep it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.peers.contestants import BY_NAME, PSYCOPG2
from benchmarks.peers.failures import FAULTS, failed

LOOPBACK, NEAR = "loopback", "1 ms"
#: (path, job) -> highest ratio to Django under the same settings.
RATIOS: Final = {
    (LOOPBACK, "query"): 1.02,
    (LOOPBACK, "orm query"): 1.02,
    (LOOPBACK, "transaction"): 1.03,
    (NEAR, "query"): 1.005,
    (NEAR, "orm query"): 1.005,
    (NEAR, "transaction"): 1.005,
    (LOOPBACK, "request"): 0.80,
    (NEAR, "request"): 0.60,
    (LOOPBACK, "atomic request"): 0.90,
    (NEAR, "atomic request"): 0.80,
    (LOOPBACK, "connect"): 1.05,
}
#: Where the older driver is given more.
RATIOS_PSYCOPG2: Final = {(LOOPBACK, "request"): 0.90}
#: Of a request that borrows its connection from a pool, to Django's pool.
POOLED: Final = 1.05
#: Seconds from the moment a restarted server accepts connections to the first success.
FIRST_SUCCESS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Bound:
    """One promise.

    Attributes:
        what: in words.
        limit: the most that is allowed.
        found: what was measured; None: that is not known.
    """

    what: str
    limit: str
    found: str
    met: bool

    @property
    def verdict(self) -> str:
        """In a word."""
        return "met" if self.met else "MISSED"


def of_healthy(results: dict[str, Any], driver: str) -> Iterator[Bound]:
    """The bounds where nothing is wrong."""
    given = RATIOS | (RATIOS_PSYCOPG2 if driver == PSYCOPG2 else {})
    for (path, job), limit in given.items():
        yield _ratio(results, path, job, "resilient", limit)
    if driver != PSYCOPG2:
        yield _ratio(results, LOOPBACK, "request", "resilient_pool", POOLED)


def _ratio(results: dict[str, Any], path: str, job: str, name: str, limit: float) -> Bound:
    side = results["jobs"][path][job][name]
    beside, ratio = BY_NAME[side["beside"]].title, side["ratio"]
    what = f"{job}, {path}: {BY_NAME[name].title} beside {beside}"
    said = f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
    return Bound(what, f"{limit:g}", said, ratio["median"] <= limit)


def of_faults(results: dict[str, Any]) -> Iterator[Bound]:
    """The bounds under faults: for every contestant that is this engine."""
    for fault in FAULTS:
        sides = results["faults"].get(fault, {})
        for name, came in sides.items():
            if name.startswith("resilient") and "left_out" not in came:
                yield from _of_fault(fault, name, came)
    for name in ("resilient", "resilient_retry"):
        came = results["faults"]["restart"][name]
        seconds = came["first_success"]
        met = not isinstance(seconds, str) and seconds <= FIRST_SUCCESS
        what = f"restart, {BY_NAME[name].title}: first success"
        yield Bound(what, f"{FIRST_SUCCESS * 1000:g} ms", in_milliseconds(seconds), met)


def _of_fault(fault: str, name: str, came: dict[str, Any]) -> Iterator[Bound]:
    """Nothing doubled or lost, no read failed; and under ``retry_atomic`` nothing at all."""
    kept = {"doubled": came["doubled"], "lost": came["lost"]}
    if BY_NAME[name].retries:
        kept = {"failed": failed(came), **kept}
    else:
        kept = {"failed reads": came["failed_reads"], **kept}
    found = ", ".join(f"{number}" for number in kept.values())
    what = f"{fault}, {BY_NAME[name].title}: {', '.join(kept)}"
    yield Bound(what, "0", found, not any(kept.values()))


def in_milliseconds(seconds: float | str | None) -> str:
    """A time to a first success, as it is shown."""
    if isinstance(seconds, str):
        return seconds
    return "n/a" if seconds is None else f"{1000 * seconds:.0f} ms"


def in_seconds(seconds: float) -> str:
    """How long an operation took."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
