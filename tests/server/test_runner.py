"""Django's test runner, pytest-django and the commands that use the database: as with Django's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testproject.postgres import Server
from tests.conftest import ROOT
from tests.engines import RESILIENT, STOCK

pytestmark = pytest.mark.once_per_driver

PROJECT = ROOT / "tests" / "runner_project"

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(server: Server) -> Iterator[Run]:
    """Run a module of Python in the project with an engine; what it printed, times left out."""
    server.execute(f"ALTER ROLE {server.user} CREATEDB")
    server.create_database("runner")

    def start(engine: str, *command: str, status: int = 0, **environ: str) -> str:
        entry = server.database("runner", engine=engine)
        if engine == RESILIENT:
            entry["OPTIONS"]["resilience"] = {"read_retries": 3}
        answer = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=PROJECT,
            env={**os.environ, **_environ(server), "RUNNER_DATABASE": json.dumps(entry), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert answer.returncode == status, answer.stdout
        return _comparable(answer.stdout)

    yield start
    server.drop_database("runner")
    server.drop_database("test_runner")
    server.execute(f"ALTER ROLE {server.user} NOCREATEDB")


def _environ(server: Server) -> dict[str, str]:
    paths = [str(PROJECT), *filter(None, sys.path)]
    return {
        "DJANGO_SETTINGS_MODULE": "settings",
        "PYTHONHASHSEED": "0",  # sqlflush prints a set
        "PATH": os.pathsep.join([str(server._bin), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _comparable(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r"\b\d+\.\d+s\b(?: \(\d+:\d\d:\d\d\))?", "N s", text)
    text = re.sub(r"(?m)^\(\d\.\d{3}\) ", "(N) ", text)  # of a statement, with --debug-sql
    text = re.sub(r"\(\d+[.\d]* ?s\)|in [\d.]+ ?s", "(N s)", text)
    text = re.sub(r"=+", "=", text)  # as wide as the time leaves room for
    return re.sub(r"process_id=\d+|0x[0-9a-f]+|port=\d+", "N", text)


TEST = ("django", "test", "--pattern=cases.py", "--noinput", "-v2")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), id="plain"),
        pytest.param(("--parallel=2",), id="parallel", marks=pytest.mark.slow),
        pytest.param(("--debug-sql", "--timing"), id="debug-sql"),
    ],
)
def test_the_test_runner_does_as_with_the_stock_engine(run: Run, more: tuple[str, ...]) -> None:
    stock, resilient = run(STOCK, *TEST, *more), run(RESILIENT, *TEST, *more)
    assert re.search(r"Ran 10 tests[^\n]*\n\nOK", resilient), resilient
    if "--parallel=2" in more:  # in an order that is not given
        stock, resilient = ("\n".join(sorted(each.splitlines())) for each in (stock, resilient))
    assert resilient == stock


def test_a_test_database_is_kept(run: Run, server: Server) -> None:
    outputs = {}
    for engine in (STOCK, RESILIENT):
        server.drop_database("test_runner")
        # Not the others: a flush empties the table for good.
        outputs[engine] = [run(engine, *TEST, "--keepdb", "-k", "InATransaction") for _ in range(2)]
    assert "Preserving test database" in outputs[RESILIENT][1]
    assert outputs[RESILIENT] == outputs[STOCK]


def test_a_loss_inside_a_testcase_is_raised_plainly(run: Run) -> None:
    """Not run again: the rows of the test would be missing. The next class goes on."""
    told = run(RESILIENT, *TEST, RUNNER_LOSES="1")
    assert re.search(r"Ran 13 tests[^\n]*\n\nOK", told), told
    notes = re.findall(r"NOTES: (.*)", told)
    assert "not the first statement of its transaction" in notes[0]
    assert ["TransactionTestCase" in each for each in notes] == [True, True]


COMMANDS = [
    ("migrate", "-v2"),
    ("migrate", "stock_room", "zero"),
    ("migrate", "--plan"),
    ("migrate",),
    ("showmigrations",),
    ("makemigrations", "--check"),
    ("sqlmigrate", "stock_room", "0001"),
    ("inspectdb",),
    ("dumpdata", "stock_room"),
    ("dbshell", "--", "-tAc", "SELECT count(*), current_user FROM stock_room_item"),
    ("sqlflush",),
    ("flush", "--noinput"),
    ("dbshell", "--", "-tAc", "SELECT count(*) FROM stock_room_item"),
    ("createcachetable",),
    ("check", "--database", "default"),
]


@pytest.mark.slow
def test_commands_print_what_they_print_with_the_stock_engine(run: Run, server: Server) -> None:
    outputs: dict[str, list[str]] = {}
    for engine in (STOCK, RESILIENT):
        server.drop_database("runner")
        server.create_database("runner")
        outputs[engine] = [run(engine, "django", *command) for command in COMMANDS]
    assert "class StockRoomItem(models.Model)" in outputs[RESILIENT][COMMANDS.index(("inspectdb",))]
    assert outputs[RESILIENT] == outputs[STOCK]


PYTEST = ("pytest", "-p", "no:cacheprovider", "-q", "-v", "cases_pytest.py", "cases.py")


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--create-db", "--reuse-db")], ids=["plain", "reuse-db"])
def test_pytest_django_does_as_with_the_stock_engine(run: Run, more: tuple[str, ...]) -> None:
    stock, resilient = run(STOCK, *PYTEST, *more), run(RESILIENT, *PYTEST, *more)
    assert "16 passed" in resilient
    assert resilient == stock


def test_the_project_is_not_collected_by_our_own_run() -> None:
    assert not list(Path(PROJECT).glob("**/test_*.py"))
