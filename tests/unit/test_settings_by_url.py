"""Options from a URL, as dj-database-url and django-environ read it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import ConnectionHandler

ENGINE = "django_resilient_pg"
URL = "postgres://app:secret@db.example.org:5433/shop?sslmode=require"

pytestmark = pytest.mark.once_per_driver


def by_dj_database_url(url: str) -> Any:
    return import_module("dj_database_url").parse(url, engine=ENGINE)


def by_environ(url: str) -> Any:
    return import_module("environ").Env.db_url_config(url, engine=ENGINE)


READERS = [by_dj_database_url, by_environ]


def connection_of(entry: dict[str, Any]) -> Any:
    return ConnectionHandler({"default": entry})["default"]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("idle_timeout", "60", 60.0),
        ("idle_timeout", "none", None),
        ("idle_margin", "0.25", 0.25),
        ("read_retries", "5", 5),
        ("peek", "false", False),
        ("primary", "true", True),
        ("commit_outcome", "1", True),
        ("credentials", "project.db.login", "project.db.login"),
    ],
)
def test_an_option_takes_effect(
    read: Callable[[str], dict[str, Any]], key: str, value: str, expected: object
) -> None:
    connection = connection_of(read(f"{URL}&resilience__{key}={value}"))
    assert getattr(connection.resilience.options, key) == expected
    parameters = connection.get_connection_params()
    assert not [name for name in parameters if "resilience" in name]
    assert (parameters["sslmode"], parameters["dbname"]) == ("require", "shop")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("resilience__idle_timout=60", 'did you mean "idle_timeout"?'),
        ("resilence__idle_timeout=60", 'did you mean "resilience__idle_timeout"?'),
        ("resilience__read_retries=many", "must be a whole number from 0 to 100 times."),
        ("resilience__read_retries=1000", "The nearest valid value is 100."),
    ],
)
def test_a_wrong_one_is_refused_with_the_nearest_valid_one(
    read: Callable[[str], dict[str, Any]], query: str, said: str
) -> None:
    connection = connection_of(read(f"{URL}&{query}"))
    with pytest.raises(ImproperlyConfigured) as caught:
        connection.get_connection_params()
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
