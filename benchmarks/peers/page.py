"""The page ``docs/benchmarks.rst``: a template, and figures that a results file holds.

Run ``python -m benchmarks.peers.page`` to write it, and its charts where matplotlib is there. The
template names what goes where: ``{{ printed NAME }}`` is ``benchmarks/results/printed/NAME.txt`` as
a command printed it, ``{{ bound NAME }}`` one of ``benchmarks.healthy``, and the rest are the
functions of this module.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from benchmarks import healthy
from benchmarks.copies import ROOT
from benchmarks.peers import better, bounds
from benchmarks.peers.contestants import BY_NAME, CONTESTANTS
from benchmarks.peers.failures import FAULTS
from benchmarks.peers.paths import JOBS, NAMES
from benchmarks.peers.results import DRIVERS, FOLDER, PARTS, file_of, load

TEMPLATE: Final = Path(__file__).with_name("benchmarks.rst.in")
PAGE: Final = ROOT / "docs" / "benchmarks.rst"
CHARTS: Final = ROOT / "docs" / "charts"
_MARK: Final = re.compile(r"\{\{ (\w+)(?: ([\w -]+?))? \}\}")
_TITLES: Final = {"psycopg": "psycopg 3", "psycopg2": "psycopg2"}
_ENDS: Final = ("before", "after")
_NOT_MEASURED: Final = "Not measured yet."
_NO_FIGURE: Final = "n/a"
Rows = Iterable[Sequence[str]]


def render(template: str, folder: Path = FOLDER) -> str:
    """The page's text; where a results file is missing it says so."""

    def filled(mark: re.Match[str]) -> str:
        try:
            return _FILLERS[mark[1]](folder, mark[2] or "")
        except FileNotFoundError:
            return _NOT_MEASURED

    return _MARK.sub(filled, template)


def _printed(folder: Path, name: str) -> str:
    text = (folder / "printed" / f"{name}.txt").read_text("utf-8")
    return textwrap.indent(text.rstrip("\n"), "    ")[4:]  # the template has its own indent


def _bound(_: Path, name: str) -> str:
    if name == "import":
        return f"{healthy.IMPORT_BOUND * 1000:g} ms"
    return str(healthy.BOUNDS[name])


def _where(folder: Path, which: str) -> str:
    """Machine, versions, load."""
    part, driver = which.split()
    found = load(part, driver, folder)
    before, after = (", ".join(f"{one:.2f}" for one in found[f"load_{at}"]) for at in _ENDS)
    versions = {**found["versions"], "PostgreSQL": found["postgresql"]}
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = [
        f"{found['command']}, {found['date']}",
        f"{found['cpu']}, {found['machine']}, {found['cores']} cores, {found['system']}",
        f"load average (1, 5, 15 minutes): {before} before, {after} after",
        *textwrap.wrap(told, 94, break_on_hyphens=False),
    ]
    return ".. code-block:: text\n\n" + textwrap.indent("\n".join(lines), "    ")


def _times(folder: Path, driver: str) -> str:
    """One table per path: times with quartiles, ratios with 95 % intervals."""
    found = load("healthy", driver, folder)["jobs"]
    tables = []
    for path in NAMES:
        jobs = [job for job in JOBS if job in found[path]]
        rows = [
            [each.title, *(_time(found[path][job].get(each.name)) for job in jobs)]
            for each in CONTESTANTS
            if any(each.name in found[path][job] for job in jobs)
        ]
        tables.append(_table([path, *jobs], rows))
    return "\n\n".join(tables)


def _time(side: dict[str, Any] | None) -> str:
    if side is None:
        return _NO_FIGURE
    us = side["us"]
    lines = [f"{_us(us['median'])} ({_us(us['q1'])} to {_us(us['q3'])})"]
    if "ratio" in side:
        ratio = side["ratio"]
        lines.append(f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]")
    return "\n".join(f"| {line}" for line in lines)


def _us(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _footprint(folder: Path, driver: str) -> str:
    """Import and memory."""
    found = load("healthy", driver, folder)
    rows = []
    for each in CONTESTANTS:
        taken, held = (found[name].get(each.name) for name in ("import_ms", "memory_mb"))
        if held:
            memory = f"{held['median']:.1f} ({held['least']:.1f} to {held['most']:.1f})"
            rows.append([each.title, _import(taken), memory])
    return _table(["footprint", "import, ms", "memory, MB"], rows)


def _import(taken: dict[str, float] | None) -> str:
    if taken is None:
        return _NO_FIGURE
    return f"{taken['median']:.1f} [{taken['low']:.1f}, {taken['high']:.1f}]"


_COLUMNS: Final = {
    "operations": "operations",
    "failed_requests": "failed requests",
    "failed_reads": "failed reads",
    "failed_writes": "failed writes",
    "failed_transactions": "failed transactions",
    "hung": "hung threads",
    "doubled": "doubled",
    "lost": "lost",
}


def _faults(folder: Path, driver: str) -> str:
    """One table per fault."""
    found = load("faults", driver, folder)["faults"]
    heads = [*_COLUMNS.values(), "first success", "slowest"]
    return "\n\n".join(
        _table(
            [fault, *heads],
            [
                [each.title, *_came(found[fault][each.name])]
                for each in CONTESTANTS
                if "left_out" not in found[fault][each.name]
            ],
        )
        for fault in FAULTS
    )


def _came(came: dict[str, Any]) -> list[str]:
    counts = [str(came[name]) for name in _COLUMNS]
    return [
        *counts,
        bounds.in_milliseconds(came["first_success"]),
        bounds.in_seconds(came["slowest"]),
    ]


def _left_out(folder: Path, driver: str) -> str:
    """Who did not take part in what, and why."""
    reasons = dict(load("healthy", driver, folder)["left_out"])
    for fault in FAULTS:
        sides = load("faults", driver, folder)["faults"].get(fault, {})
        for name, came in sides.items():
            if "left_out" in came and came["left_out"] != reasons.get(name):
                reasons[f"{name}: {fault}"] = came["left_out"]
    rows = []
    for what, reason in reasons.items():
        name, _, of = what.partition(": ")
        rows.append([BY_NAME[name].title, of or "everything", reason])
    return _table(["left out", "of", "reason"], rows)


def _bounds(folder: Path, driver: str) -> str:
    """What was promised, and what came of it."""
    rows = [[each.what, each.limit, each.found, each.verdict] for each in kept(folder, driver)]
    return _table(["bound", "at most", "found", "verdict"], rows)


def kept(folder: Path, driver: str) -> Iterator[bounds.Bound]:
    """The bounds of a driver with what its results say."""
    yield from bounds.of_healthy(load("healthy", driver, folder), driver)
    yield from bounds.of_faults(load("faults", driver, folder))


def _better(folder: Path, driver: str) -> str:
    """Where a peer is better than this engine."""
    costs = better.in_cost(load("healthy", driver, folder))
    faults = better.under_faults(load("faults", driver, folder))
    return _table(["where", "peer", "peer's figure", "this engine's"], [*costs, *faults])


def _chart(folder: Path, which: str) -> str:
    part, driver = which.split()
    load(part, driver, folder)
    what = {"healthy": "Time of a request", "faults": "Failed operations under each fault"}[part]
    return f".. image:: charts/{part}-{driver}.svg\n    :alt: {what}, with {_TITLES[driver]}"


def _table(heads: Sequence[str], rows: Rows) -> str:
    """A simple table of reStructuredText; a cell may have several lines."""
    cells = [[cell.split("\n") for cell in row] for row in [heads, *rows]]
    widths = [
        max(len(line) for cell in column for line in cell) for column in zip(*cells, strict=True)
    ]
    rule = "  ".join("=" * width for width in widths)
    head, *body = [_lines(row, widths) for row in cells]
    lines = [rule, *head, rule, *(line for row in body for line in row), rule]
    return ".. table::\n\n" + textwrap.indent("\n".join(lines), "    ")


def _lines(row: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    for texts in zip_longest(*row, fillvalue=""):
        padded = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
        yield "  ".join(padded).rstrip()


_FILLERS: Final[dict[str, Callable[[Path, str], str]]] = {
    "printed": _printed,
    "bound": _bound,
    "where": _where,
    "times": _times,
    "footprint": _footprint,
    "faults": _faults,
    "left_out": _left_out,
    "bounds": _bounds,
    "better": _better,
    "chart": _chart,
}


def told(part: str, driver: str, folder: Path) -> str:
    """What the page says of one part, for whoever waits for it."""
    shown = {"healthy": (_times, _footprint), "faults": (_faults,)}[part]
    return "\n\n".join([_where(folder, f"{part} {driver}"), *(of(folder, driver) for of in shown)])


def write() -> None:
    """Write the page and, where matplotlib is there, the charts."""
    PAGE.write_text(render(TEMPLATE.read_text("utf-8")), "utf-8")
    if find_spec("matplotlib"):
        from benchmarks.peers import charts

        for part, driver in measured():
            charts.draw(part, driver, CHARTS)


def measured() -> list[tuple[str, str]]:
    """The parts and drivers that there are results of."""
    every = [(part, driver) for driver in DRIVERS for part in PARTS]
    return [each for each in every if file_of(*each).exists()]


if __name__ == "__main__":
    write()
