"""Random programs, in which sessions die at random points, against a model of the promise.

Nothing is doubled, nothing that the application was told to be committed is lost, no half of a
transaction stays, and nobody gets another session's state: :mod:`.oracle`. Each run has programs
of a fixed and of a random seed. They write by statements and by what looks like a read, give
values that look like SQL, use a second alias, fork, and under psycopg 3 use pools and pipelines.
For more of them, or the same again::

    PROGRAMS=10000 PROGRAMS_SEED=a1b2c3 python -m pytest tests/server/programs

``PROGRAMS`` is the number per test (300), ``PROGRAMS_SEED`` takes the place of the random seed; a
failure names both, and shows the first programs that break a promise as short as they could be
made. What the engine cannot see, because it was sent past Django's cursors, is no violation where
``docs/promise.rst`` says so: ``Transaction.invisible`` and ``Ledger.unwatched``.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import pytest
from django.db import Error

from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT, STOCK

from .bench import Bench
from .examples import EXAMPLES
from .generator import Generator
from .language import By, Program, Run, lines
from .runner import Report
from .simpler import shrink, undisturbed
from .stage import SETTINGS, Stage, backend_pid
from .texts import Fate, Read, Way, Write

PROGRAMS: Final = int(os.environ.get("PROGRAMS") or 300)
FIXED: Final = "fixed"
RANDOM: Final = os.environ.get("PROGRAMS_SEED") or secrets.token_hex(4)
BLIND: Final = "tests.server.programs.blind"
LOGGERS: Final = ("django_resilient_pg", "psycopg", "psycopg.pool")
#: What comes of a loss, see ``Oracle.met``, and what else must be met often enough.
WAYS: Final = ("healed", "told", "after", "again", "unknown", "child", "elsewhere")
#: Violations that are shortened and shown; a broken engine has them by the dozen.
SHOWN: Final = 3
pytestmark = [
    pytest.mark.once_per_driver,
    # Threads are those of pools; what a child does is nothing to do with them.
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Server(tls=False, settings=SETTINGS) as server:
        server.create_database("other")
        stage = Stage(server, other=Stage(server, "other"))
        yield stage
        stage.close()


@pytest.fixture
def bench(stage: Stage) -> Iterator[Callable[[str], Bench]]:
    """Make a bench of an engine. Logs would be thousands of lines of what is meant to happen."""
    made: list[Bench] = []
    loggers = [logging.getLogger(name) for name in LOGGERS]

    def make(engine: str) -> Bench:
        made.append(Bench(stage, engine))
        return made[-1]

    for logger in loggers:
        logger.disabled = True
    try:
        yield make
    finally:
        for logger in loggers:
            logger.disabled = False
        for one in made:
            one.close()


def violations(bench: Bench, seed: str, *, kills: bool = True) -> list[str]:
    """Run the programs of a seed; the first few that break a promise, as people read them."""
    found: list[str] = []
    for number in range(PROGRAMS if kills else PROGRAMS // 3):
        program = program_of(seed, number)
        report = bench.run(number, program if kills else undisturbed(program))
        if report.violation is not None:
            report = shortened(bench, number, report)
            found.append(shown(report, f"PROGRAMS_SEED={seed}, number {number}"))
            if len(found) == SHOWN:
                break
    return found


def program_of(seed: str, number: int) -> Program:
    return Generator(f"{seed} {number}").program()


def shortened(bench: Bench, number: int, report: Report) -> Report:
    """The same violation with the fewest steps; itself where it does not come again."""

    def breaks(program: Program) -> bool:
        violation = bench.run(number, program).violation
        return violation is not None and violation.kind == kind

    assert report.violation is not None
    kind = report.violation.kind
    again = bench.run(number, shrink(report.program, breaks))
    return report if again.violation is None else again


def shown(report: Report, where: str) -> str:
    steps, trace = "\n".join(lines(report.program)), "\n    ".join(report.trace)
    return f"\n{where}: {report.violation}\n{steps}\n    {trace}\n    rows: {report.rows}"


def assert_none(found: list[str]) -> None:
    assert not found, f"with {DRIVER}, of {PROGRAMS} programs:" + "\n".join(found)


# -- the promise -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [FIXED, RANDOM], ids=["fixed", "random"])
def test_programs_whose_sessions_die(bench: Callable[[str], Bench], seed: str) -> None:
    one = bench(RESILIENT)
    assert_none(violations(one, seed))
    if seed == FIXED:  # a generator that has lost its teeth finds nothing either
        assert min(one.met[way] for way in WAYS) >= PROGRAMS // 150, one.met


@pytest.mark.parametrize("engine", [STOCK, RESILIENT], ids=["stock", "resilient"])
def test_programs_whose_sessions_live(bench: Callable[[str], Bench], engine: str) -> None:
    """The model is that of the stock engine, errors included; and this one does the same."""
    assert_none(violations(bench(engine), FIXED, kills=False))


@pytest.mark.parametrize("asks", [0, 1], ids=["", "commit_outcome"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_programs_that_broke_a_promise_once(
    bench: Callable[[str], Bench], name: str, asks: int
) -> None:
    report = bench(RESILIENT).run(asks, EXAMPLES[name])
    assert report.violation is None, shown(report, name)


def test_an_engine_that_repeats_blindly_is_found_out(bench: Callable[[str], Bench]) -> None:
    wanted = {"doubled", "lost", "half a transaction", "another session's state"}
    assert_found(bench(BLIND), wanted)


def test_functions_that_hide_what_they_do_are_found_out(
    bench: Callable[[str], Bench], stage: Stage
) -> None:
    """A function that writes and is not declared VOLATILE deceives the engine: a limit.

    Here it stands for an engine that takes for a read what only looks like one.
    """
    stage.declare("STABLE")
    try:
        assert_found(bench(RESILIENT), {"lost"})
    finally:
        stage.declare("VOLATILE")


def assert_found(bench: Bench, wanted: set[str]) -> None:
    """Violations of all these kinds come within as many programs as each run has."""
    most = max(PROGRAMS, 300)
    for number in range(most):
        violation = bench.run(number, program_of(FIXED, number)).violation
        wanted.discard("" if violation is None else violation.kind)
        if not wanted:
            return
    pytest.fail(f"not found in {most} programs: {wanted}")


# -- the stage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize(
    ("fate", "told", "rows"),
    [
        (Fate.EARLY, False, 0),
        (Fate.COMMIT, False, 0),
        (Fate.ANSWER, False, 1),
        (Fate.AFTER, True, 1),
    ],
)
def test_a_row_ends_its_session_when_it_is_to(
    bench: Callable[[str], Bench], stage: Stage, way: Way, fate: Fate, told: bool, rows: int
) -> None:
    stage.next_program()
    connection = bench(STOCK).connection(0)
    sql, parameters = stage.sql(Write(1, fate, way), backend_pid(connection))
    succeeded = False
    with suppress(Error), connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        succeeded = True
    assert (succeeded, stage.rows()[1], connection.is_usable()) == (told, rows, False)


def test_a_program_is_made_short() -> None:
    """Whatever it is about: here of a read by a cursor, in whatever else."""

    def breaks(program: Program) -> bool:
        return "cursor.execute" in str(list(lines(program)))

    for number in range(20):
        program = Generator(str(number)).program()
        if breaks(program):
            shortest = shrink(program, breaks)
            assert len(shortest) == 1, list(lines(shortest))
    assert shrink((Run(By.KEPT, (Read(dies=True, note="%s"),)),), breaks) == (
        Run(By.DJANGO, (Read(),)),
    )
