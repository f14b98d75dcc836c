"""A sample of the cuts, another one each time; and that broken engines are found out by them."""

from __future__ import annotations

import os
import random
import secrets
from typing import Final

import pytest

from tests.cuts.mutants import MUTANTS, break_engine
from tests.cuts.theatre import SERIES, Result, Series, Theatre
from tests.cuts.units import UNITS

pytestmark = pytest.mark.once_per_driver

ONE_IN: Final = int(os.environ.get("CUTS_ONE_IN") or 10)
SEED: Final = os.environ.get("CUTS_SEED") or secrets.token_hex(4)
#: Series with further cuts of each case, of which fewer are taken.
_THINNER: Final = {"start": 5, "tls": 4, "twice": 12, "pooled": 4}


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


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_engine_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    units = break_engine(name, monkeypatch.setattr)
    with Theatre(SERIES[0]) as theatre:
        for unit in units:
            results = list(theatre.run_all([UNITS[unit]], one_in=3))
            assert any(result.violations for result in results), unit
