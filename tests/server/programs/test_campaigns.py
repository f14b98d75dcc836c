"""Larger programs against the same model: at once, pooled, through PgBouncer, failing over, forked.

Each run has some plays of a fixed and some of a random seed. For more of them::

    python -m tests.server.programs --campaigns threads --number 1000

A failure shows the smallest play that breaks the promise, and the seed.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from .campaigns import CAMPAIGNS, Runs, smallest
from .language import Block, By, Call, Kill, Run, lines
from .ledger import Violation
from .plays import Fault, Play, Reported
from .runner import Report
from .test_programs import BLIND, FIXED, LOGGERS
from .texts import Read, Set, Write

#: Plays of each seed; a failover takes a second.
NUMBER: Final = {"threads": 6, "pool": 6, "bouncer": 6, "failover": 2, "processes": 6}
#: Of those in which no session dies: the model is right of stock Django there.
CALM: Final = 4
RANDOM: Final = secrets.token_hex(4)
pytestmark = [
    pytest.mark.campaign,
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]
NEEDED: Final = {"pool": pytest.mark.psycopg3, "bouncer": pytest.mark.needs("pgbouncer")}
ATOMIC: Final = (Block("atomic", (Run(By.DJANGO, (Write(1),)), Run(By.DJANGO, (Write(2),)))),)
READS: Final = (Run(By.DJANGO, (Read(),)), Run(By.DJANGO, (Set("red"),)), Call("is_usable"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Logs would be thousands of lines of what is meant to happen."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.disabled = True
    yield
    for logger in loggers:
        logger.disabled = False


def assert_kept(runs: Runs, seed: str, number: int, **how: Any) -> None:
    found = smallest(runs, seed=seed, number=number, **how)
    assert found is None, f"of the seed {seed}: {found}"


@pytest.mark.parametrize("name", [pytest.param(n, marks=NEEDED.get(n, ())) for n in CAMPAIGNS])
def test_the_promise_is_kept(name: str) -> None:
    at_once = name in {"threads", "pool"}
    with CAMPAIGNS[name]() as runs:
        for seed in (FIXED, RANDOM):
            assert_kept(runs, seed, NUMBER[name], at_once=at_once)
        if name != "failover":
            assert_kept(runs, FIXED, CALM, change=lambda play: play.undisturbed)
        for fault in runs.faults:
            found = runs.run(Play((ATOMIC, READS), faults=(Fault(3, fault),)))
            assert found.violation is None, found
            assert runs.met[fault], fault
        assert runs.met["told"] + runs.met["healed"], runs.met


def test_in_turns_the_same_happens_again_and_a_blind_engine_is_found_out() -> None:
    """The sessions of all are terminated between two statements of one."""
    play = Play((ATOMIC, READS), (0, 0, 1, 0, 1), (Fault(3, "all sessions are terminated"),))
    with CAMPAIGNS["threads"](BLIND) as runs:
        first, second = runs.run(play), runs.run(play)
    assert first.violation is not None
    assert first.violation.kind == "half a transaction"
    assert [one.trace for one in first.reports] == [one.trace for one in second.reports]


class Pretended:
    """Breaks a promise wherever a program writes after its session was terminated."""

    faults = ("all sessions are terminated",)

    def __init__(self) -> None:
        self.met: Counter[str] = Counter()

    def run(self, play: Play) -> Reported:
        broken = any(self._is_broken(list(lines(program))) for program in play.programs)
        violation = Violation("lost", "a row") if broken else None
        return Reported(play, [Report(play.programs[0], violation, [], [])])

    def _is_broken(self, said: list[str]) -> bool:
        killed = [number for number, line in enumerate(said) if "is terminated" in line]
        return any("INSERT" in line for number in killed for line in said[number:])


def test_a_play_is_made_small() -> None:
    found = smallest(Pretended(), seed=RANDOM, number=100)
    assert found is not None
    (program,) = found.play.programs
    assert list(map(type, program)) == [Kill, Run]
    assert found.play == Play((program,))
