"""The system checks of the middleware, as ``manage.py check`` runs them."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from django_resilient_pg.conf import request_settings
from django_resilient_pg.middleware import RequestRetryMiddleware
from tests.engines import OURS

COMMON = "django.middleware.common.CommonMiddleware"
GZIP = "django.middleware.gzip.GZipMiddleware"


class Own(RequestRetryMiddleware):
    """A project's own."""


def found() -> list[CheckMessage]:
    return [one for one in run_checks() if str(one.id).startswith("resilient_pg.")]


def ids() -> list[str]:
    return [str(one.id).partition(".")[2] for one in found()]


@pytest.mark.parametrize("own", [OURS, f"{__name__}.Own"])
def test_it_is_silent_where_all_is_well(own: str) -> None:
    with override_settings(MIDDLEWARE=[COMMON, own]):
        assert found() == []


def test_without_the_middleware_it_is_silent() -> None:
    with override_settings(MIDDLEWARE=[COMMON]):
        assert found() == []


@pytest.mark.parametrize("own", [OURS, f"{__name__}.Own"])
def test_what_is_below_it_is_named(own: str) -> None:
    with override_settings(MIDDLEWARE=[own, COMMON, GZIP]):
        (one,) = found()
    assert one.id == "resilient_pg.W301"
    assert f'runs twice when a request is replayed: "{COMMON}", "{GZIP}".' in one.msg


def test_a_middleware_that_cannot_be_imported_is_not_the_checks_concern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_a_key.py").write_text('raise KeyError("API_KEY")')
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(MIDDLEWARE=["needs_a_key.Middleware", OURS]):
        assert found() == []


def test_one_that_is_listed_twice() -> None:
    with override_settings(MIDDLEWARE=[OURS, COMMON, OURS]):
        assert ids() == ["W303"]


def test_a_middleware_that_cannot_be_imported_is_djangos_business() -> None:
    with override_settings(MIDDLEWARE=["no.such.Middleware", OURS]):
        assert ids() == []


def test_without_the_engine_it_is_of_no_use() -> None:
    settings = connections.settings["default"]
    before = settings["ENGINE"]
    settings["ENGINE"] = "django.db.backends.sqlite3"
    del connections["default"]
    try:
        with override_settings(MIDDLEWARE=[OURS]):
            assert ids() == ["W304"]
    finally:
        settings["ENGINE"] = before
        del connections["default"]


def test_wrong_settings_are_errors_and_all_are_told() -> None:
    wrong = {
        "RESILIENT_PG_REQUEST_RETRIES": -1,
        "RESILIENT_PG_REQUEST_DEADLINE": "soon",
        "RESILIENT_PG_REPLAY_METHODS": ["PST"],
        "RESILIENT_PG_UNAVAILABLE_RESPONSE": 503,
    }
    with override_settings(**wrong):
        assert {one.obj: one.id for one in found()} == dict.fromkeys(wrong, "resilient_pg.E301")
        with pytest.raises(SystemCheckError, match="RESILIENT_PG_REQUEST_DEADLINE is 'soon'"):
            call_command("check", stderr=StringIO())


def test_an_unknown_setting_is_named_with_the_nearest() -> None:
    with override_settings(RESILIENT_PG_REQUEST_RETRY=2):
        (one,) = found()
    assert (one.id, one.hint) == ("resilient_pg.W302", "Did you mean RESILIENT_PG_REQUEST_RETRIES?")


def read(**given: object) -> request_settings.RequestSettings:
    names = {f"RESILIENT_PG_{name}": value for name, value in given.items()}
    return request_settings.read(type("Settings", (), names))


def test_defaults() -> None:
    safe = frozenset({"GET", "HEAD", "OPTIONS"})
    assert read() == request_settings.RequestSettings(1, 10.0, safe, False)


def test_strings_are_taken_for_what_they_say() -> None:
    told = read(REQUEST_RETRIES="2", REQUEST_DEADLINE="2.5", UNAVAILABLE_RESPONSE="true")
    assert (told.retries, told.deadline, told.unavailable) == (2, 2.5, True)


@given(st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(), st.binary()))
def test_whatever_is_given_is_taken_or_named(value: object) -> None:
    for name in ("REQUEST_RETRIES", "REQUEST_DEADLINE", "REPLAY_METHODS", "UNAVAILABLE_RESPONSE"):
        said = problem(name, value)
        assert said is None or f"The setting RESILIENT_PG_{name} is " in said


def problem(name: str, value: object) -> str | None:
    try:
        read(**{name: value})
    except ImproperlyConfigured as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("REQUEST_RETRIES", 11, "The nearest valid value is 10."),
        ("REQUEST_RETRIES", 1.5, "must be a whole number from 0 to 10 times"),
        ("REQUEST_DEADLINE", 0, "The nearest valid value is 0.1."),
        ("REQUEST_DEADLINE", float("nan"), "must be a number"),
        ("REPLAY_METHODS", "GET", "a list of some of GET, HEAD"),
        ("REPLAY_METHODS", ["get"], "'get' is unknown: did you mean \"GET\"?"),
        ("UNAVAILABLE_RESPONSE", "maybe", "must be True or False"),
        ("UNAVAILABLE_RESPONSE", None, "must be True or False"),
    ],
)
def test_wrong_settings_are_said_at_the_start(name: str, value: object, sentence: str) -> None:
    def never(request: HttpRequest) -> HttpResponseBase:
        raise AssertionError

    with (
        override_settings(**{f"RESILIENT_PG_{name}": value}),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        RequestRetryMiddleware(never)
    assert f"RESILIENT_PG_{name} is {value!r}" in str(caught.value)
    assert sentence in str(caught.value)
