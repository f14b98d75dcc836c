"""The results that the repository keeps: a file per part and driver, with where it was measured."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.copies import ROOT
from benchmarks.peers.contestants import CONTESTANTS, PSYCOPG3

FOLDER: Final = ROOT / "benchmarks" / "results"
#: Of a run with a few turns only: no figures.
QUICK_FOLDER: Final = ROOT / ".cache" / "peers" / "results"
DRIVERS: Final = ("psycopg", "psycopg2")
PARTS: Final = ("healthy", "faults")
_DIGITS: Final = 4  # of a figure, more are chance


def file_of(part: str, driver: str, folder: Path = FOLDER) -> Path:
    """Where a part's results are."""
    return folder / f"{part}-{driver}.json"


def save(part: str, driver: str, found: dict[str, Any], *, quick: bool, folder: Path) -> Path:
    """Write the results of a part."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "command": f"make bench{' DRIVER=psycopg2' if driver != PSYCOPG3 else ''}",
        "quick": quick,
        **found,
    }
    path = file_of(part, driver, folder)
    path.write_text(json.dumps(_rounded(told), indent=1, sort_keys=True) + "\n", "utf-8")
    return path


def load(part: str, driver: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Read the results of a part."""
    found: dict[str, Any] = json.loads(file_of(part, driver, folder).read_text("utf-8"))
    return found


def digest(part: str, driver: str, folder: Path = FOLDER) -> str:
    """What tells from which results a chart was drawn."""
    return hashlib.sha256(file_of(part, driver, folder).read_bytes()).hexdigest()


def load_average() -> list[float]:
    """How busy the machine is: the mean of one, five and fifteen minutes."""
    return list(os.getloadavg())


def machine(driver: str) -> dict[str, Any]:
    """Where this is measured, and with which versions."""
    distribution = "psycopg" if driver == PSYCOPG3 else "psycopg2-binary"
    pool = {"psycopg_pool": version("psycopg-pool")} if driver == PSYCOPG3 else {}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "versions": {
            "Python": platform.python_version(),
            "Django": version("Django"),
            driver: version(distribution),
            **pool,
            "django-resilient-pg": _own_version(),
            **_pinned(driver),
        },
    }


def _own_version() -> str:
    import django_resilient_pg

    return django_resilient_pg.__version__


def _pinned(driver: str) -> dict[str, str]:
    packages = {one for each in CONTESTANTS if driver in each.drivers for one in each.packages}
    return {name: number for name, _, number in sorted(one.partition("==") for one in packages)}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
