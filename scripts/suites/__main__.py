"""Run ``python -m scripts.suites [PACKAGE...]``.

The tests are those of the pinned sdists of other packages, unchanged: of those named, by default of
all. The packages and one driver have to be installed. The exit status is 1 if a test fails, is
skipped or is missing on this engine and not on the stock one, for no known reason. ``PG_VERSION``
puts another PostgreSQL in the place of 18.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import django

from scripts.outcomes import Outcome, compare
from scripts.sdists import unpacked
from scripts.suites.suites import OURS, PSYCOPG2, SUITES, WITHOUT_TESTS, Suite
from testproject import binaries
from testproject.postgres import Server

STOCK = "django.db.backends.postgresql"
ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache" / "suites"
_RUNNER = {"TEST_RUNNER": "scripts.django_suite.runner.RecordingRunner"}


def run(suite: Suite, engine: str) -> Outcome:
    """Run the tests with this engine on a new server; SystemExit if they got to no end."""
    home = unpacked(suite.package, CACHE / suite.package)
    with (
        Server(settings={"max_connections": "200"}) as server,
        tempfile.TemporaryDirectory() as work,
    ):
        record = Path(work) / "record"
        told = [f"--junitxml={record}", *_config(home, Path(work))] if suite.uses_pytest else []
        subprocess.run(
            [sys.executable, *suite.command, *told],
            cwd=home / suite.folder,
            env=_environ(suite, engine, server, home, record),
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if not record.exists():
            raise SystemExit(f"The tests of {suite.package} did not get to the end on {engine}.")
        return _of_pytest(engine, record) if suite.uses_pytest else _of_django(engine, record)


def _config(home: Path, work: Path) -> list[str]:
    """Where a package has no configuration of pytest's, an empty one.

    Otherwise pytest finds that of this repository, below whose folder the package was unpacked.
    """
    sections = {
        "pytest.ini": "",
        "pyproject.toml": "[tool.pytest",
        "tox.ini": "[pytest]",
        "setup.cfg": "[tool:pytest]",
    }
    files = ((home / name, section) for name, section in sections.items())
    if any(file.is_file() and section in file.read_text() for file, section in files):
        return []
    empty = work / "pytest.ini"
    empty.write_text("[pytest]\n")
    return ["-c", str(empty), "--rootdir", str(home)]


def _environ(suite: Suite, engine: str, server: Server, home: Path, record: Path) -> dict[str, str]:
    entry = server.database("postgres", engine=engine, user=server.superuser)
    changed = {name: entry[name] for name in ("USER", "PASSWORD", "HOST", "PORT", "OPTIONS")}
    settings = {**_RUNNER, **(suite.settings if engine == OURS else {})}
    if suite.engine_setting:
        settings[suite.engine_setting] = engine
    else:
        changed["ENGINE"] = engine
    tree = [] if os.environ.get("TEST_INSTALLED") else [str(ROOT)]
    paths = [str(home / suite.folder), str(home), *tree, os.environ.get("PYTHONPATH")]
    programs = [str(binaries.bin_dir(server.version)), os.environ.get("PATH", os.defpath)]
    return {
        **os.environ,
        **suite.environ,
        **({"DJANGO_SETTINGS_MODULE": "scripts.suites.settings"} if suite.base else {}),
        "DJANGO_SUITE_RECORD": str(record),
        "SUITE_BASE": suite.base,
        "SUITE_DATABASE": json.dumps(changed),
        "SUITE_SETTINGS": json.dumps(settings),
        # Some tests start psql and its like, which know the name of the host at most.
        "PATH": os.pathsep.join(programs),
        "PGPORT": str(server.port),
        "PGUSER": server.superuser,
        "PGPASSWORD": server.superuser_password,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def _of_django(engine: str, record: Path) -> Outcome:
    told = json.loads(record.read_text())
    return Outcome.of(engine, told["ran"], told["failed"], told["skipped"])


def _of_pytest(engine: str, record: Path) -> Outcome:
    cases = ElementTree.parse(record).getroot().findall(".//testcase")  # our own
    by_mark = {
        mark: [
            f"{case.get('classname')}::{case.get('name')}"
            for case in cases
            if case.find(mark) is not None
        ]
        for mark in ("failure", "error", "skipped")
    }
    failed = by_mark["failure"] + by_mark["error"]
    return Outcome.of(engine, len(cases), failed, by_mark["skipped"])


def same(suite: Suite) -> bool:
    """Run both engines and print what differs; whether nothing does that is not known."""
    stock = run(suite, STOCK)
    if 2 * len(stock.failed) > stock.ran:
        raise SystemExit(f"The tests of {suite.package} do not work here: {stock}.")
    ours = run(suite, OURS)
    print(f"\n{suite.package}")
    return compare(stock, ours, suite.known)


def main() -> int:
    """Run the suites and compare the engines."""
    names = [suite.name for suite in SUITES]
    parser = argparse.ArgumentParser(prog="python -m scripts.suites")
    parser.add_argument("packages", nargs="*", choices=[[], *names], help="by default all")
    chosen = parser.parse_args().packages or names
    version = os.environ.get("PG_VERSION") or "18"
    driver = "psycopg2" if PSYCOPG2 else "psycopg 3"
    print(f"Django {django.get_version()}, {driver}, PostgreSQL {version}")
    run_here = [suite for suite in SUITES if suite.name in chosen and suite.runs_here]
    found = {suite.package: same(suite) for suite in run_here}
    print(
        "",
        *(f"{name}: {'as on both' if ok else 'DIFFERS'}" for name, ok in found.items()),
        sep="\n",
    )
    others = {suite.package: "it needs psycopg 3" for suite in SUITES if not suite.runs_here}
    print(*(f"{name}: not run: {why}." for name, why in (WITHOUT_TESTS | others).items()), sep="\n")
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
