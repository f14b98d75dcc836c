"""A sample of the cuts, another one each time; and that broken engines are found out by them."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from typing import Any, Final

import pytest

from django_resilient_pg.policy.rules import Circumstances, Decision, RetryRule, decide
from django_resilient_pg.policy.verdicts import Verdict
from django_resilient_pg.recovery import statement
from django_resilient_pg.sql.kinds import Kind
from tests.cuts.theatre import SERIES, Result, Series, Theatre
from tests.cuts.units import UNITS

pytestmark = pytest.mark.once_per_driver

ONE_IN: Final = int(os.environ.get("CUTS_ONE_IN") or 10)
SEED: Final = os.environ.get("CUTS_SEED") or secrets.token_hex(4)
#: Series with further cuts of each case, of which fewer are taken.
_THINNER: Final = {"start": 3, "tls": 2, "twice": 8, "pooled": 2}


def told(results: list[Result]) -> str:
    bad = [result for result in results if result.violations]
    shown = [f"{result.case.name}: {'; '.join(result.violations)}" for result in bad[:10]]
    return "\n".join([f"CUTS_SEED={SEED}: {len(bad)} of {len(results)} cases", *shown])


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_no_cut_costs_more_than_it_may(series: Series) -> None:
    one_in = ONE_IN * _THINNER.get(series.name, 1) if ONE_IN > 1 else 1
    draw = random.Random(f"{SEED} {series.name}")
    with Theatre(series) as theatre:
        results = list(theatre.run_all(list(UNITS.values()), one_in=one_in, draw=draw))
    print(f"{series.name}: {len(results)} cases, CUTS_SEED={SEED}")
    assert len(results) > 20
    assert not any(result.violations for result in results), told(results)


# -- engines that are broken on purpose ------------------------------------------------------------


def retries_writes(verdict: Verdict, kind: Kind, at: Circumstances) -> Decision:
    if at.autocommit and kind is Kind.WRITE:
        return Decision(RetryRule.NOTHING_SENT, "")
    return decide(verdict, kind, at)


def takes_an_end_for_not_sent(verdict: Verdict, kind: Kind, at: Circumstances) -> Decision:
    return Decision(RetryRule.NOTHING_SENT, "") if verdict.lost else decide(verdict, kind, at)


def goes_on_outside(verdict: Verdict, kind: Kind, at: Circumstances) -> Decision:
    if not at.autocommit and not at.pinned_by:
        return Decision(RetryRule.FIRST, "")
    return decide(verdict, kind, at)


def without_a_guard(self: Any) -> Any:
    return self._run()


MUTANTS: Final[dict[str, tuple[Any, str, Callable[..., Any], list[str]]]] = {
    "writes in autocommit are retried": (statement, "decide", retries_writes, ["write", "create"]),
    "reads are not guarded": (
        statement.Recovery,
        "_guarded",
        without_a_guard,
        ["read_that_writes", "read_that_lies"],
    ),
    "an end counts as not sent": (statement, "decide", takes_an_end_for_not_sent, ["write"]),
    "it goes on outside the transaction": (statement, "decide", goes_on_outside, ["atomic_of_two"]),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_engine_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, broken, units = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, broken)
    with Theatre(SERIES[0]) as theatre:
        for unit in units:
            results = list(theatre.run_all([UNITS[unit]], one_in=3))
            assert any(result.violations for result in results), unit
