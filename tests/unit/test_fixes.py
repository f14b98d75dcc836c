"""The settings to paste: what they change, and what of the user's own they leave as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from django_resilient_pg.diagnosis.findings import Finding, Level, findings
from django_resilient_pg.diagnosis.report.as_text import WIDTH
from django_resilient_pg.diagnosis.report.fixes import merged, pasteable, snippet
from tests.unit.surveys import STOCK, known

pytestmark = pytest.mark.once_per_driver

OPTIONS: list[dict[str, Any]] = [
    {"resilience": {"idle_timeout": 6.9}},
    {"pool": {"max_idle": 30, "min_size": 0}},
    {"sslmode": "require", "prepare_threshold": None, "resilience": {"idle_timeout": 6.9}},
]


def pasted(options: Mapping[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """The entry after these changes of its OPTIONS were pasted below it."""
    lines = pasteable("default", {"OPTIONS": options})
    assert all(len(line) < WIDTH - 1 for line in lines)
    exec("\n".join(lines), {"DATABASES": {"default": entry}})
    return entry


@pytest.mark.parametrize("options", OPTIONS)
def test_what_the_user_has_in_a_nested_dict_stays(options: dict[str, Any]) -> None:
    """Without ``credentials`` the next login fails."""
    own = {
        "resilience": {"credentials": "project.db.login", "idle_timeout": 600},
        "pool": {"name": "web", "max_idle": 600},
        "sslmode": "prefer",
    }
    before = {
        name: dict(value) if isinstance(value, dict) else value for name, value in own.items()
    }
    after = pasted(options, {"OPTIONS": own})["OPTIONS"]
    for name, value in before.items():
        change = options.get(name, {} if isinstance(value, dict) else value)
        assert after[name] == ({**value, **change} if isinstance(value, dict) else change)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("entry", [{}, {"OPTIONS": {}}, {"OPTIONS": {"pool": True}}])
def test_what_is_not_there_yet_is_made(options: dict[str, Any], entry: dict[str, Any]) -> None:
    """A pool that is ``True`` has no keys to change."""
    after = pasted(options, {name: dict(value) for name, value in entry.items()})["OPTIONS"]
    assert {n: after[n] for n in options if n in after} == {
        name: value for name, value in options.items() if value is not None
    }


def fix(number: str, **settings: Any) -> Finding:
    return Finding(f"resilient_pg.{number}", Level.WARNING, "", "", "", settings)


@pytest.mark.parametrize("ages", [(150, 5), (5, 150)])
def test_of_two_times_the_shorter_one_is_pasted(ages: tuple[int, int]) -> None:
    found = [fix(f"W10{number}", CONN_MAX_AGE=age) for number, age in enumerate(ages)]
    assert merged(found) == {"CONN_MAX_AGE": 5}
    times = [fix("W102", OPTIONS={"keepalives_idle": age}) for age in ages]
    assert merged(times) == {"OPTIONS": {"keepalives_idle": 5}}


def test_of_other_settings_the_worse_findings_is_pasted() -> None:
    info = fix("I219", OPTIONS={"sslmode": "require"})._replace(level=Level.INFO)
    full = fix("W113", OPTIONS={"sslmode": "verify-full"})
    assert merged([info, full]) == {"OPTIONS": {"sslmode": "verify-full"}}


@pytest.mark.parametrize(
    "pool", [{}, {"min_size": 2}, {"max_size": 8}, {"min_size": 0, "max_size": 3}]
)
def test_a_pool_keeps_what_it_has_and_stays_a_pool(pool: dict[str, Any]) -> None:
    """Without ``max_size`` it is ``min_size``, and psycopg_pool refuses a pool of none."""
    project = {**STOCK, "pool": pool, "conn_max_age": 0, "health_checks": False}
    survey = known(project=project, facts={"idle_session_timeout": 60.0})
    (one,) = [each for each in findings(survey) if each.id == "resilient_pg.W127"]
    own = {"name": "web", "timeout": 3, **pool}
    entry: dict[str, Any] = {"OPTIONS": {"pool": own}}
    exec("\n".join(snippet("default", [one])), {"DATABASES": {"default": entry}})
    most = pool.get("max_size", pool.get("min_size", 4))
    assert own == {"name": "web", "timeout": 3, "min_size": 0, "max_size": most, "max_idle": 30}
