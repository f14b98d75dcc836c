"""docs/benchmarks.rst holds what the results files hold, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import better, bounds, page
from benchmarks.peers.contestants import CONTESTANTS
from benchmarks.peers.failures import FAILED, FAULTS, failed
from benchmarks.peers.results import FOLDER, digest, load

pytestmark = pytest.mark.once

TEMPLATE = page.TEMPLATE.read_text("utf-8")
# Names with a digit in them, and what is said of the options of commands.
NAMES = re.compile(r"psycopg ?[23]|``[^`]*``|MINUTES=\d+|^ *make .*$", re.M)


def side(us: float, ratio: float | None = None, beside: str = "stock") -> dict[str, Any]:
    """A figure with an interval of a hundredth."""

    def around(value: float) -> dict[str, float]:
        return {
            "median": value,
            "low": value * 0.99,
            "high": value * 1.01,
            "q1": value,
            "q3": value,
        }

    found: dict[str, Any] = {"us": around(us), "beside": beside}
    return found if ratio is None else {**found, "ratio": around(ratio)}


def came(**changed: object) -> dict[str, Any]:
    """What came of a fault: nothing failed."""
    counts = dict.fromkeys((*FAILED, "hung", "doubled", "lost"), 0)
    return {"operations": 10, **counts, "first_success": 0.05, "slowest": 0.2, **changed}


def test_the_page_is_what_the_results_say() -> None:
    assert "{{" not in page.render(TEMPLATE)
    assert page.PAGE.read_text("utf-8") == page.render(TEMPLATE), (
        "run python -m benchmarks.peers.page"
    )


def test_a_figure_that_no_results_file_holds_is_refused(tmp_path: Path) -> None:
    """Where the figures of one file are others, the page is another one."""
    for number, file in enumerate(sorted(FOLDER.rglob("*.*"))):
        folder = tmp_path / str(number)
        shutil.copytree(FOLDER, folder)
        copy = folder / file.relative_to(FOLDER)
        text = copy.read_text("utf-8")
        figure = r'(?<=": )\d' if file.suffix == ".json" else r"\d"
        copy.write_text(re.sub(figure, lambda found: str(int(found[0]) % 9 + 1), text), "utf-8")
        assert page.render(TEMPLATE, folder) != page.PAGE.read_text("utf-8"), file


def test_the_template_has_no_figures_of_its_own() -> None:
    prose = NAMES.sub("", re.sub(r"\{\{.*?\}\}", "", TEMPLATE))
    assert re.findall(r"^.*\d.*$", prose, re.M) == []


@pytest.mark.parametrize(("part", "driver"), page.measured())
def test_the_charts_are_drawn_from_these_results(part: str, driver: str) -> None:
    chart = (page.CHARTS / f"{part}-{driver}.svg").read_text("utf-8")
    assert digest(part, driver) in chart
    assert len(chart) < 200_000


@pytest.mark.parametrize(("part", "driver"), page.measured())
def test_results_say_where_they_come_from(part: str, driver: str) -> None:
    found = load(part, driver)
    assert found["quick"] is False
    assert found["command"] == f"make bench{'' if driver == 'psycopg' else f' DRIVER={driver}'}"
    assert {"Python", "Django", driver} <= found["versions"].keys()
    assert len(found["load_before"]) == len(found["load_after"]) == 3


@pytest.mark.parametrize(
    "driver", [driver for part, driver in page.measured() if part == "healthy"]
)
def test_everyone_is_measured_or_the_reason_why_not_is_given(driver: str) -> None:
    found = load("healthy", driver)
    for each in CONTESTANTS:
        measured = each.name in found["jobs"]["loopback"]["query"]
        assert each.only_faults or measured != bool(found["left_out"].get(each.name))


@pytest.mark.parametrize("driver", [driver for part, driver in page.measured() if part == "faults"])
def test_everyone_meets_every_fault_or_the_reason_why_not_is_given(driver: str) -> None:
    found = load("faults", driver)["faults"]
    assert found.keys() == set(FAULTS)
    for fault, sides in found.items():
        for each in CONTESTANTS:
            told = sides[each.name]
            assert told.get("left_out") or told["operations"] > 0, (fault, each.name)


def test_the_packages_of_the_peers_are_pinned() -> None:
    packages = {one for each in CONTESTANTS for one in each.packages}
    assert packages
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", one) for one in packages)


def results(ratio: float) -> dict[str, Any]:
    """Results in which every ratio is this one."""
    jobs = {job for _, job in bounds.RATIOS}
    sides = {"resilient": side(100, ratio), "resilient_pool": side(100, ratio, "stock_pool")}
    return {"jobs": {path: dict.fromkeys(jobs, sides) for path in ("loopback", "1 ms")}}


def test_a_bound_is_met_or_missed() -> None:
    assert {each.verdict for each in bounds.of_healthy(results(0.5), "psycopg")} == {"met"}
    assert {each.verdict for each in bounds.of_healthy(results(1.1), "psycopg2")} == {"MISSED"}
    [close] = [
        each for each in bounds.of_healthy(results(0.85), "psycopg2") if each.what == REQUEST
    ]
    assert close.met
    [close] = [each for each in bounds.of_healthy(results(0.85), "psycopg") if each.what == REQUEST]
    assert not close.met


REQUEST = "request, loopback: this engine beside Django"


@pytest.mark.parametrize(
    ("name", "changed", "verdict"),
    [
        ("resilient", {}, "met"),
        ("resilient", {"failed_writes": 1}, "met"),  # its outcome is unknown: it is raised
        ("resilient", {"failed_reads": 1}, "MISSED"),
        ("resilient", {"doubled": 1}, "MISSED"),
        ("resilient_retry", {"lost": 1}, "MISSED"),
        ("resilient_retry", {"failed_writes": 1}, "MISSED"),
        ("resilient_retry", {"hung": 1}, "MISSED"),
    ],
)
def test_the_bounds_under_faults(name: str, changed: dict[str, int], verdict: str) -> None:
    sides = {"restart": {"resilient": came(), "resilient_retry": came(), name: came(**changed)}}
    found = list(bounds.of_faults({"faults": sides}))
    assert [each.met for each in found].count(False) == (verdict == "MISSED")


@pytest.mark.parametrize(("seconds", "met"), [(0.05, True), (0.2, False), ("never", False)])
def test_the_bound_of_the_first_success(seconds: float | str, met: bool) -> None:
    sides = dict.fromkeys(("resilient", "resilient_retry"), came(first_success=seconds))
    found = list(bounds.of_faults({"faults": {"restart": sides}}))[-2:]
    assert [each.met for each in found] == [met, met]


def test_where_a_peer_is_better_is_told() -> None:
    jobs = {"request": {"resilient": side(100), "stock": side(90), "sqlalchemy": side(99.5)}}
    found = {
        "jobs": {
            path: jobs if path == "loopback" else {} for path in ("loopback", "1 ms", "10 ms")
        },
        "import_ms": {"resilient": side(5)["us"], "stock": side(1)["us"]},
        "memory_mb": {},
    }
    assert list(better.in_cost(found)) == [
        ["request, loopback", "Django", "90 us", "100 us"],
        ["import", "Django", "1 ms", "5 ms"],
    ]
    sides = {
        "resilient": came(slowest=2.0, failed_writes=1),
        "stock": came(failed_reads=4),
        "sqlalchemy": came(slowest=2.0),
    }
    assert list(better.under_faults({"faults": {"restart": sides}})) == [
        ["restart: slowest (peer failed 4 of 10)", "Django", "200 ms", "2.00 s"],
        ["restart: failed", "SQLAlchemy, pool_pre_ping", "0 of 10", "1 of 10"],
    ]


def test_threads_that_hang_have_failed() -> None:
    assert failed(came(hung=2, failed_reads=1)) == 3
