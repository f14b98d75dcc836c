"""The system checks of how a project is served, as ``manage.py check`` runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from django.test import override_settings

from tests.engines import RESILIENT, STOCK, Connections

ALIAS = "served"


def found(alias: str = ALIAS, *, deploy: bool = False) -> list[CheckMessage]:
    every = run_checks(include_deployment_checks=deploy)
    return [one for one in every if one.obj == alias and str(one.id).startswith("resilient_pg.")]


@pytest.fixture
def serve() -> Iterator[Any]:
    """Define the database "served", which leads nowhere."""
    made = Connections(None)  # type: ignore[arg-type]

    def define(engine: str = RESILIENT, **entry: Any) -> None:
        made.register(ALIAS, {"ENGINE": engine, "NAME": "nowhere", "HOST": "127.0.0.1", **entry})

    yield define
    made.close()


@override_settings(ASGI_APPLICATION="project.asgi.application")
def test_connections_kept_under_asgi_are_warned_of_before_deployment(serve: Any) -> None:
    serve(CONN_MAX_AGE=60)
    assert found() == []
    (one,) = found(deploy=True)
    assert one.id == "resilient_pg.W311"
    assert 'connections of "served" are closed with their request' in one.msg
    assert "(60)" in one.msg
    assert 'OPTIONS["pool"]' in str(one.hint)


@pytest.mark.parametrize("entry", [{"CONN_MAX_AGE": 0}, {"engine": STOCK, "CONN_MAX_AGE": 60}])
@override_settings(ASGI_APPLICATION="project.asgi.application")
def test_what_closes_them_or_is_not_ours_is_not(serve: Any, entry: dict[str, Any]) -> None:
    serve(**entry)
    assert found(deploy=True) == []


@override_settings(ASGI_APPLICATION=None)
def test_without_asgi_there_is_nothing_to_say(serve: Any) -> None:
    serve(CONN_MAX_AGE=60)
    assert found(deploy=True) == []


def credentials(path: str) -> dict[str, Any]:
    return {"OPTIONS": {"resilience": {"credentials": path}}}


def login(alias: str) -> dict[str, str]:
    raise AssertionError("a check does not ask for a secret")


@pytest.mark.parametrize("path", ["nowhere.at.all", f"{__name__}.nothing", f"{__name__}.ALIAS"])
def test_a_callable_that_is_not_there_is_an_error(serve: Any, path: str) -> None:
    serve(**credentials(path))
    (one,) = found()
    assert one.id == "resilient_pg.E312"
    assert path in one.msg
    assert '"served"' in one.msg


def test_one_that_is_there_is_not_called(serve: Any) -> None:
    serve(**credentials(f"{__name__}.login"))
    assert found() == []
