"""Virtual environments of the peers, made once: this run's Django and driver, and their own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.copies import ROOT
from benchmarks.peers.contestants import PSYCOPG2, PSYCOPG3, Contestant

CACHE: Final = ROOT / ".cache" / "peers"
_DISTRIBUTIONS: Final = {
    PSYCOPG3: ("psycopg", "psycopg-binary"),
    PSYCOPG2: ("psycopg2-binary",),
}


class Unavailable(Exception):
    """This contestant cannot take part; says why."""


def driver_here() -> str:
    """The driver that Django uses in this environment."""
    return PSYCOPG3 if find_spec("psycopg") else PSYCOPG2


def python_of(contestant: Contestant, driver: str) -> str:
    """The interpreter that has what a contestant needs; make its environment where there is none.

    Raises:
        Unavailable: it does not work with the driver, or pip cannot install it.
    """
    if driver not in contestant.drivers:
        raise Unavailable(contestant.why_not)
    if not contestant.packages:
        return sys.executable
    packages = [*_common(driver), *contestant.packages]
    told = json.dumps([sys.version, packages]).encode()
    folder = CACHE / f"{contestant.name}-{hashlib.sha256(told).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once would spoil each other's environments
        if not (folder / "made").exists():
            _make(folder, packages)
    return str(folder / "bin" / "python")


def _common(driver: str) -> list[str]:
    names = ("Django", *_DISTRIBUTIONS[driver])
    return [f"{name}=={version(name)}" for name in names]


def _make(folder: Path, packages: list[str]) -> None:
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(_reason(done.stderr or done.stdout))
    (folder / "made").touch()


def _reason(said: str) -> str:
    """What pip said in the end, and of a conflict which one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    wants = [line for line in lines if " depends on " in line]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return " ".join([*errors[:1], *wants] or lines[-1:] or ["no message"])
