"""The processes of ``make bench``: they do as they are told, and say what they cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.peers.contender import Contender, contender, entry, witness
from benchmarks.peers.contestants import BY_NAME
from benchmarks.peers.environments import Unavailable, driver_here, python_of
from benchmarks.peers.failures import failed
from benchmarks.peers.scenes import QUICK, Scene, killed_while_idle
from testproject.postgres import Server

pytestmark = pytest.mark.once_per_driver

DRIVER = driver_here()


@pytest.fixture
def running(server: Server) -> Iterator[Contender]:
    resilient = BY_NAME["resilient"]
    entries = {"default": entry(server, resilient, DRIVER)}
    with contender(resilient, DRIVER, entries, witness(server)) as found:
        yield found


def test_a_contestant_takes_turns(running: Contender) -> None:
    assert set(running.order("jobs")) >= {"query", "request", "atomic request", "connect"}
    assert 0 < running.order("turn", "default", "request", 3) < 10_000_000
    assert running.memory > 10_000
    with pytest.raises(Unavailable, match="KeyError: 'no such job'"):
        running.order("turn", "default", "no such job", 3)


@pytest.mark.parametrize(("name", "fails"), [("stock", True), ("resilient", False)])
def test_what_fails_when_sessions_end_is_counted(server: Server, name: str, fails: bool) -> None:
    scene = Scene(server, DRIVER, replace(QUICK, idle_rounds=2))
    came = killed_while_idle(scene, BY_NAME[name])
    assert (came["operations"], failed(came)) == (8, 8 if fails else 0)
    assert (came["first_success"] == "never") == fails
    assert (came["doubled"], came["lost"], came["hung"]) == (0, 0, 0)


def test_who_does_not_work_with_a_driver_says_why() -> None:
    with pytest.raises(Unavailable, match="needs psycopg2"):
        python_of(BY_NAME["postgresql_reconnect"], "psycopg")
    with pytest.raises(Unavailable, match="needs psycopg 3"):
        python_of(BY_NAME["stock_pool"], "psycopg2")


def test_who_cannot_be_set_up_says_why(server: Server) -> None:
    broken = replace(BY_NAME["stock"], engine="no.such.engine")
    entries = {"default": entry(server, broken, DRIVER)}
    with (
        pytest.raises(Unavailable, match="isn't an available database backend"),
        contender(broken, DRIVER, entries, witness(server)),
    ):
        pass
