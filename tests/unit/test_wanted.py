"""Keepalives as they are advised: what is pasted settles, and nothing is advised that is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_resilient_pg.diagnosis.findings import PREFIX, Finding, findings
from django_resilient_pg.diagnosis.findings.wanted import in_force
from django_resilient_pg.diagnosis.idle_probe.advice import keepalives_within
from django_resilient_pg.diagnosis.report.fixes import merged
from django_resilient_pg.diagnosis.settings.project import KEEPALIVES, keepalives_expected
from django_resilient_pg.diagnosis.survey.survey import Measured, Survey
from django_resilient_pg.policy.limits import Limit
from django_resilient_pg.policy.parameters import TCP_DEFAULTS
from tests.unit.surveys import KERNEL, OVER_NAT, STOCK, known, numbers, settled

pytestmark = pytest.mark.once_per_driver

ABOUT = {f"{PREFIX}{number}" for number in "W101 W102 W103 W106 W107 W108 W128 E009".split()}


def asking(
    idle: int | None = None,
    interval: int | None = None,
    count: int | None = None,
    timeout: int | None = None,
    *,
    on: int | None = 1,
    connected: bool = True,
    measured: float = 0.0,
    **own: Any,
) -> Survey:
    """An alias with these settings and no others, and a socket that has them."""
    asked = dict(zip(KEEPALIVES, (on, idle, interval, count, timeout), strict=True))
    if not connected:
        return known(asked=asked, connected=False, **own)
    found = None
    if measured:
        within = keepalives_within(measured)
        found = Measured(Limit(measured, "measured"), measured * 1.1, within)
    socket = {"keepalives": keepalives_expected(asked, KERNEL)}
    return known(asked=asked, socket=socket, measured=found, **own)


def about(survey: Survey) -> dict[str, Finding]:
    return {one.id.removeprefix(PREFIX): one for one in findings(survey) if one.id in ABOUT}


def fixed(survey: Survey) -> tuple[Mapping[str, Any], Survey]:
    fix = merged(list(about(survey).values()))
    return fix.get("OPTIONS", {}), settled(survey, fix)


def test_what_the_idle_probe_asks_for_is_in_order() -> None:
    """It was told to set the user timeout to 30000, which it is."""
    assert about(asking(4, 2, 3, 30_000)) == {}


@pytest.mark.parametrize(
    ("survey", "speaks", "fix"),
    [
        # No hang of 12 minutes (the kernel's interval and count), but this engine's.
        (
            asking(30, timeout=30_000),
            "W108",
            {"keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 45_000},
        ),
        (asking(30, 10, 5), "W106", {"tcp_user_timeout": 80_000}),
        (
            asking(300, timeout=30_000),
            "W103",
            {"keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 3},
        ),
        (asking(60, 5, 3, 30_000), "W108", {"tcp_user_timeout": 75_000}),
        (asking(20, 5, 3, 120_000), "W108", {"tcp_user_timeout": 35_000}),
        (asking(20, 5, 3), "W106", {"tcp_user_timeout": 30_000}),
        (asking(20, 5, 3, 5_000), "W107", {"tcp_user_timeout": 30_000}),
        (asking(20, 5, 3, 5_000, connected=False), "W107", {"tcp_user_timeout": 30_000}),
        (asking(200, 60, 9, 30_000), "W108", {**TCP_DEFAULTS}),
        (asking(None, 5, 3, 60_000), "W102", {"keepalives_idle": 20}),
    ],
)
def test_one_paste_is_enough(survey: Survey, speaks: str, fix: Mapping[str, int]) -> None:
    found, (pasted, after) = about(survey), fixed(survey)
    assert list(found) == [speaks]
    now = in_force(survey)
    changed = {name: value for name, value in pasted.items() if value != now[name]}
    assert changed == {name: value for name, value in fix.items() if value != now[name]}
    assert about(after) == {}


def test_the_hint_names_what_is_pasted() -> None:
    found = about(asking(30, timeout=30_000))["W108"]
    for name, value in found.fix["OPTIONS"].items():  # type: ignore[attr-defined]
        assert f"{name} to {value}" in found.hint
    assert "tcp_user_timeout to 45000 (milliseconds)." in found.hint
    assert "milliseconds" not in about(asking(120, timeout=30_000))["W108"].hint


def test_what_was_measured_wins_over_what_is_usual() -> None:
    """9.1 s is not kept alive by one keepalive every 20 s."""
    for survey in (asking(measured=8.9), asking(on=0, measured=8.9), asking(300, measured=8.9)):
        assert "W128" in about(survey)
        pasted, after = fixed(survey)
        assert pasted["keepalives_idle"] == 4
        assert about(after) == {}


_NUMBER = st.one_of(st.none(), st.integers(-1, 9), st.integers(10, 400))


@given(
    on=st.sampled_from([None, 0, 1]),
    idle=st.one_of(_NUMBER, st.sampled_from([7200, 32768])),
    interval=_NUMBER,
    count=st.one_of(st.none(), st.integers(0, 130)),
    timeout=st.one_of(st.none(), st.integers(-1, 900_000), st.sampled_from([0, 30_000])),
    connected=st.booleans(),
    told=st.one_of(st.none(), st.floats(0.5, 600)),
    measured=st.one_of(st.just(0.0), st.floats(2.0, 900.0)),
    resilient=st.booleans(),
)
@hypothesis_settings(max_examples=400, deadline=None)
def test_once_pasted_nothing_is_left_of_any_settings(
    on: int | None,
    idle: int | None,
    interval: int | None,
    count: int | None,
    timeout: int | None,
    connected: bool,
    told: float | None,
    measured: float,
    resilient: bool,
) -> None:
    given = (idle, interval, count, timeout)
    if resilient:  # which adds what is not set
        names = KEEPALIVES[1:]
        given = tuple(  # type: ignore[assignment]
            TCP_DEFAULTS[n] if v is None else v for n, v in zip(names, given, strict=True)
        )
    own: dict[str, Any] = {"facts": OVER_NAT} if connected else {}
    survey = asking(
        *given,
        on=on,
        connected=connected,
        measured=measured if connected else 0.0,
        options={"idle_timeout": told},
        project={} if resilient else STOCK,
        **own,
    )
    now = in_force(survey)
    for one in about(survey).values():
        fix: Any = one.fix["OPTIONS"]
        wrong = one.id == f"{PREFIX}E009"  # the kernel's, because libpq was told 0
        assert wrong or any(value != now[name] for name, value in fix.items()), one
    pasted, after = fixed(survey)
    assert about(after) == {}, pasted
    assert pasted.get("tcp_user_timeout", 0) <= max(120_000, timeout or 0)


def test_without_a_socket_there_is_nothing_to_say() -> None:
    refused = replace(asking(connected=False), refused="No.")
    assert "W102" not in numbers(findings(refused))
