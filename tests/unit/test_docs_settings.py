"""Every table of options, settings and arguments in docs/ says what the code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from django.test import RequestFactory

from django_resilient_pg import deadlines, providers, urls
from django_resilient_pg.checks import middleware
from django_resilient_pg.conf import request_settings
from django_resilient_pg.conf.declarations import Declaration
from django_resilient_pg.conf.options import declarations
from django_resilient_pg.policy import parameters
from django_resilient_pg.policy.lookup import Lookup
from django_resilient_pg.replay.decide import why_lasting, why_not
from django_resilient_pg.replay.snapshot import Snapshot
from django_resilient_pg.state.unit_of_work import Unit
from django_resilient_pg.transaction import retry_atomic
from tests.unit.pages import (
    DEADLINES,
    HEALTH,
    OPTIONS,
    UNITS,
    blocks,
    listed_fields,
    section,
    table,
    titles,
    words,
)

pytestmark = pytest.mark.once


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", declarations(), ids=lambda declared: declared.name)
def test_every_option_has_its_entry(declared: Declaration) -> None:
    entry = section(OPTIONS, declared.name)
    listed = listed_fields(entry)
    assert words(entry[1].astext()) == words(declared.doc)
    assert listed["Default"] == repr(declared.default)
    assert listed["Allowed"] == _allowed(declared)
    assert "Does not" in listed


def _allowed(declared: Declaration) -> str:
    """As the error message has it."""
    return declared.allowed


def test_no_option_is_documented_that_does_not_exist() -> None:
    documented = [title for title in titles(OPTIONS) if re.fullmatch(r"[a-z_]+", title)]
    assert documented == [one.name for one in declarations()]


def test_the_libpq_parameters_are_those_that_are_added() -> None:
    rows = {row[0]: row[1] for row in table(section(OPTIONS, "libpq parameters"), "Parameter")}
    added = parameters.additions(Lookup({"host": "db.example.org"}, {}))
    assert rows == {name: str(value) for name, value in added.items()}


# -- requests and transactions ---------------------------------------------------------------------


def test_every_setting_of_the_middleware_is_documented() -> None:
    rows = table(section(UNITS, "Settings"), "Setting")
    declared = request_settings.DECLARED
    assert rows == [[one.name, repr(one.default), one.allowed] for one in declared]


def test_every_setting_of_the_health_probes_is_documented() -> None:
    ready, token = table(section(HEALTH, "Settings"), "Setting")
    declared = request_settings.READY_DEADLINE
    assert ready == [declared.name, repr(declared.default), declared.allowed]
    assert token[:2] == [request_settings.STATUS_TOKEN, "None"]
    assert f"at least {request_settings.SHORTEST_TOKEN} characters" in token[2]


def test_every_address_of_the_health_probes_is_documented() -> None:
    documented = [title for title in titles(HEALTH) if title.endswith("/")]
    assert documented == [str(one.pattern) for one in urls.urlpatterns[:3]]


def test_every_system_check_of_the_middleware_is_documented() -> None:
    source = Path(str(middleware.__file__)).read_text(encoding="utf-8")
    ids = re.findall(r'id="(resilient_pg\.[EWI]\d+)"', source)
    assert len(ids) == 5
    assert sorted(ids) == list(listed_fields(section(UNITS, "System checks")))


def test_the_arguments_of_retry_atomic_are_documented() -> None:
    rows = table(section(UNITS, "A function"), "Argument")
    given = inspect.signature(retry_atomic.run).parameters.values()
    options = [one for one in given if one.kind is inspect.Parameter.KEYWORD_ONLY]
    assert [row[:2] for row in rows] == [[one.name, repr(one.default)] for one in options]


def test_the_bounds_have_the_defaults_of_the_code() -> None:
    options = {one.name: repr(one.default) for one in declarations()}
    atomic = inspect.signature(retry_atomic.run).parameters["deadline"].default
    expected = {
        "connect_timeout": f"{providers.CONNECT_TIMEOUT:g}",
        "ping_timeout": options["ping_timeout"],
        "retry_deadline": options["retry_deadline"],
        'OPTIONS["pool"]["timeout"]': "not set",
        "retry_atomic(deadline=...)": repr(atomic),
        request_settings.DEADLINE.name: repr(request_settings.DEADLINE.default),
        "deadline(seconds)": "not set",
    }
    rows = table(section(DEADLINES, "What bounds what"), "Bound")
    assert {row[0]: row[1] for row in rows} == expected
    prose = words(section(DEADLINES, "Failing fast").astext())
    assert f"may take {deadlines.LEAST:g} s, even if less is left" in prose


def test_the_reasons_that_are_quoted_are_the_middlewares_own() -> None:
    unit = Unit()
    unit.took_effect("default", "INSERT INTO t VALUES (1)")
    request = RequestFactory().post("/")
    request.resolver_match = None
    methods = request_settings.METHODS.default
    reasons = [why_lasting(unit), why_not(request, unit, Snapshot(request), "POST", methods)]
    quoted = [words(block) for block in blocks(UNITS, "text")]
    for reason in reasons:
        assert any(f"The request was not replayed: {reason}." in block for block in quoted), reason
