"""The charts of the page, as SVG with text that can be read and searched."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Final

import matplotlib
import matplotlib.patches
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.peers.contestants import BY_NAME, CONTESTANTS
from benchmarks.peers.failures import FAULTS, failed
from benchmarks.peers.paths import NAMES
from benchmarks.peers.results import FOLDER, digest, load

_OURS, _PEER = "#1b7837", "#9aa5b1"
_NONE, _SOME, _MANY = "#e3f1e3", "#fdecc8", "#f6c9c0"
_MARK: Final = "results: "


def draw(part: str, driver: str, charts: Path, folder: Path = FOLDER) -> None:
    """Write the chart of a part."""
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "peers", "font.family": "sans-serif"}
    )
    charts.mkdir(exist_ok=True)
    figure = {"healthy": _requests, "faults": _failures}[part](load(part, driver, folder))
    figure.savefig(
        charts / f"{part}-{driver}.svg",
        metadata={"Date": None, "Description": _MARK + digest(part, driver, folder)},
    )


def _requests(results: dict[str, Any]) -> Figure:
    """Time of a request on each path."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, path in zip(figure.subplots(1, len(NAMES), sharey=True), NAMES, strict=True):
        sides = results["jobs"][path]["request"]
        names = [each.name for each in reversed(CONTESTANTS) if each.name in sides]
        times = [sides[name]["us"] for name in names]
        middles = [each["median"] for each in times]
        spread = [
            [max(0.0, each["median"] - each["q1"]) for each in times],
            [max(0.0, each["q3"] - each["median"]) for each in times],
        ]
        colours = [_OURS if name.startswith("resilient") else _PEER for name in names]
        titles = [BY_NAME[name].title for name in names]
        axes.barh(titles, middles, xerr=spread, color=colours, ecolor="#444444", height=0.7)
        axes.set_title(f"request, {path}", fontsize=10)
        axes.set_xlabel("µs, with quartiles", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _failures(results: dict[str, Any]) -> Figure:
    """How many operations failed, by contestant and fault."""
    faults = [fault for fault in FAULTS if fault in results["faults"]]
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(0, len(faults))
    axes.set_ylim(len(CONTESTANTS), 0)
    for row, each in enumerate(CONTESTANTS):
        for column, fault in enumerate(faults):
            text, colour = _cell(results["faults"][fault][each.name])
            axes.add_patch(
                matplotlib.patches.Rectangle(
                    (column, row), 1, 1, facecolor=colour, edgecolor="white", linewidth=2
                )
            )
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8)
    axes.set_yticks(
        [row + 0.5 for row in range(len(CONTESTANTS))],
        [each.title for each in CONTESTANTS],
        fontsize=8,
    )
    titles = [textwrap.fill(fault, 14) for fault in faults]
    axes.set_xticks([column + 0.5 for column in range(len(faults))], titles, fontsize=8)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("failed operations of all, in percent", fontsize=9)
    return figure


def _cell(came: dict[str, Any]) -> tuple[str, str]:
    if "left_out" in came:
        return "n/a", "#f0f0f0"
    share = 100 * failed(came) / max(1, came["operations"])
    if not share:
        return "0", _NONE
    return f"{share:.1f}", _SOME if share < 5 else _MANY
