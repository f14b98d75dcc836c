"""Larger programs: several at once, in threads and processes, through a pool, a pooler, a failover.

Plays are drawn by hypothesis, which shrinks the first one that breaks a promise.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, Protocol

from hypothesis import Verbosity, errors, find, settings

from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK
from tests.faults.pgbouncer import PgBouncer

from .company import Company
from .family import Family
from .ledger import Violation
from .places import BehindPooler, FailOver, OnPair, Pair, pooler
from .plays import MOST, Play, Reported, plays
from .simpler import smallest as shrink
from .stage import SETTINGS, Stage

#: How often a play is run in which programs run at once, to see whether it breaks a promise again.
_AGAIN: Final = 5
#: Plays that are tried at most to find a smaller one.
_SHRINKS: Final = 200


class Runs(Protocol):
    """Where plays are run."""

    met: Counter[str]

    @property
    def faults(self) -> Iterable[str]: ...

    def run(self, play: Play) -> Reported: ...


# -- campaigns -----------------------------------------------------------------------------------


@contextmanager
def _server() -> Iterator[Server]:
    with Server(tls=False, settings=SETTINGS) as server:
        server.create_database("other")
        yield server


@contextmanager
def _stage() -> Iterator[Stage]:
    with _server() as server:
        stage = Stage(server, other=Stage(server, "other"))
        yield stage
        stage.close()


def _asking(engine: str, asks: bool) -> dict[str, object]:
    """The options of an engine that asks what became of a lost COMMIT."""
    own = engine == RESILIENT != STOCK
    return {"resilience": {"commit_outcome": True}} if asks and own else {}


def _entry(
    server: Server, engine: str, options: dict[str, object], asks: bool, other: bool
) -> dict[str, Any]:
    """Of DATABASES; ``options`` are those of the first alias."""
    own = {} if other else options
    return server.database(
        "other" if other else "app",
        engine=engine,
        options={**own, **_asking(engine, asks)},
        CONN_MAX_AGE=0 if "pool" in own else None,
    )


@contextmanager
def threads(engine: str = RESILIENT, **options: object) -> Iterator[Company]:
    """Threads with a connection each, of one alias."""
    with _stage() as stage:
        entry = partial(_entry, stage.server, engine, options)
        kill: dict[str, Callable[[], object]] = {"all sessions are terminated": stage.kill_all}
        company = Company(stage, entry, kill)
        yield company
        company.close()


@contextmanager
def pool(engine: str = RESILIENT) -> Iterator[Company]:
    """Threads that share a pool of Django's, in which there is one for each."""
    with threads(engine, pool={"min_size": 1, "max_size": MOST}) as company:
        yield company


@contextmanager
def bouncer(engine: str = RESILIENT) -> Iterator[Company]:
    """Threads whose transactions share sessions of PgBouncer's."""
    with _server() as server, pooler(server) as between:
        stage = BehindPooler(server, Stage(server, "other"))

        def entry(asks: bool, other: bool) -> dict[str, Any]:
            made = _entry(server, engine, {}, asks, other)
            return made if other else {**made, "PORT": str(between.port)}

        company = Company(stage, entry, _of_bouncer(stage, between), shares=True, stormy=True)
        yield company
        company.close()
        stage.close()


def _of_bouncer(stage: Stage, between: PgBouncer) -> dict[str, Callable[[], object]]:
    return {
        "PgBouncer's sessions are terminated": stage.kill_all,
        "PgBouncer reconnects": lambda: _told(between, "RECONNECT"),
        "PgBouncer ends its clients": lambda: _told(between, "KILL app", "RESUME app"),
        "PgBouncer restarts": between.restart,
    }


def _told(between: PgBouncer, *commands: str) -> None:
    for command in commands:
        between.console(command)


@contextmanager
def failover(engine: str = RESILIENT) -> Iterator[Company]:
    """Threads that go on while a standby takes over."""
    with Pair() as pair:
        pair.primary.create_database("other")
        stage = OnPair(pair.primary, other=OnPair(pair.primary, "other"))
        pair.follow()
        over = FailOver(pair, stage)

        def entry(asks: bool, other: bool) -> dict[str, Any]:
            made = pair.database("other" if other else "app", _asking(engine, asks))
            return {**made, "ENGINE": engine}

        def begin(mode: Any) -> None:
            company.stormy = True
            over.begin(mode, ended)

        def ended() -> None:
            company.stormy = False

        faults: dict[str, Callable[[], object]] = {
            "the primary crashes": lambda: begin("immediate"),
            "the primary stops": lambda: begin("fast"),
        }
        company = Company(stage, entry, faults, calm=over.finish)
        yield company
        company.close()
        stage.close()


@contextmanager
def processes(engine: str = RESILIENT) -> Iterator[Family]:
    """Children that are forked while their parent has a connection."""
    with _stage() as stage:
        family = Family(stage, partial(_entry, stage.server, engine, {}))
        yield family
        family.close()


#: By name: where plays are run.
CAMPAIGNS: Final[dict[str, Callable[..., Any]]] = {
    "threads": threads,
    "pool": pool,
    "bouncer": bouncer,
    "failover": failover,
    "processes": processes,
}


# -- plays ---------------------------------------------------------------------------------------


def smallest(
    runs: Runs,
    *,
    seed: str,
    number: int,
    at_once: bool = False,
    change: Callable[[Play], Play] = lambda play: play,
) -> Reported | None:
    """Run so many plays; the smallest that breaks a promise, or None.

    Args:
        runs: where.
        seed: of hypothesis' choices.
        at_once: the programs of some of them run at the same time, not in turns.
        change: what is run in place of what was drawn.
    """
    tries = _Tries(runs)
    how = settings(max_examples=number, database=None, deadline=None, verbosity=Verbosity.quiet)
    drawn = plays(tuple(runs.faults), at_once=at_once)
    # What happened once need not happen again: then it is as small as it has become.
    with suppress(errors.NoSuchExample, errors.FlakyFailure):
        find(drawn.map(change), tries.breaks, settings=how, random=random.Random(seed))
    if tries.found is None:
        return None
    tries.left = _SHRINKS
    shrink(tries.found.play, lambda play: play.smaller, tries.breaks)
    return tries.found


class _Tries:
    """Runs plays, and keeps the last one that has broken a promise: hypothesis' are ever smaller.

    Attributes:
        left: how many more are run, once there is one.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self.found: Reported | None = None
        self.left = _SHRINKS

    def breaks(self, play: Play) -> bool:
        """Whether it breaks a promise, the same one as those before."""
        if self.found is not None and not self.left:
            return False
        self.left -= self.found is not None
        for _ in range(_AGAIN if self.found is not None and play.at_once else 1):
            reported = self._runs.run(play)
            if reported.violation is not None and self._is_alike(reported.violation):
                self.found = reported
                return True
        return False

    def _is_alike(self, violation: Violation) -> bool:
        known = None if self.found is None else self.found.violation
        return known is None or known.kind == violation.kind
