"""Fixtures of the tests of what is run again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.signals import got_request_exception
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import override_settings

from testproject.postgres import Server
from tests.engines import OURS, RESILIENT, Connections, backend_pid, values_table
from tests.server.replay.once import TABLE


@pytest.fixture
def shop(request: pytest.FixtureRequest, project: str, server: Server) -> Iterator[None]:
    """The middleware over the views of the module, or else of ``request_views``, to be lost."""
    # Not before Django is set up: they have models.
    from tests.server.replay.sending import TEMPLATES, VIEWS, seen
    from tests.server.request_views import faults, runs

    runs.clear()
    seen.clear()
    faults["kill"] = lambda: server.terminate(backend_pid(connections[project]))
    faults["terminate"] = server.terminate
    with override_settings(
        ROOT_URLCONF=request.module.__name__ if hasattr(request.module, "urlpatterns") else VIEWS,
        MIDDLEWARE=[OURS],
        ALLOWED_HOSTS=["testserver"],
        TEMPLATES=TEMPLATES,
        REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
    ):
        yield


@pytest.fixture
def reported() -> Iterator[list[Any]]:
    """What ``got_request_exception`` told."""
    heard: list[Any] = []

    def hear(**about: Any) -> None:
        heard.append(about)

    got_request_exception.connect(hear)
    yield heard
    got_request_exception.disconnect(hear)


@pytest.fixture
def table(server: Server) -> Iterator[None]:
    """The table, empty."""
    with values_table(server, TABLE):
        yield


@pytest.fixture
def db(make_connection: Connections) -> BaseDatabaseWrapper:
    """The alias under test."""
    return make_connection(RESILIENT, alias="first", CONN_MAX_AGE=60)


@pytest.fixture
def other(make_connection: Connections) -> BaseDatabaseWrapper:
    """Another alias of this engine on the same database."""
    return make_connection(RESILIENT, alias="second", CONN_MAX_AGE=60)
