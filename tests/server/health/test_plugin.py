"""The check for django-health-check, in its own view."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.test import AsyncRequestFactory, override_settings

from tests.engines import Connections

views = pytest.importorskip("health_check.views")

pytestmark = pytest.mark.once_per_driver

CHECK = "django_resilient_pg.health.plugin.Reachable"


def shown(**given: Any) -> Any:
    view = views.HealthCheckView.as_view(checks=[(CHECK, given)])

    async def respond() -> Any:
        return await view(AsyncRequestFactory().get("/?format=json"))

    with override_settings(RESILIENT_PG_READY_DEADLINE=20):
        return asyncio.run(respond())


def test_a_database_that_is_there_is_healthy(make_connection: Connections) -> None:
    connection = make_connection()
    assert shown(alias=connection.alias).status_code == 200
    assert connection.connection is None


def test_one_that_is_not_is_named_with_the_reason(make_connection: Connections) -> None:
    alias = make_connection(PORT=1).alias
    for given in ({"alias": alias}, {}):
        response = shown(**given)
        assert response.status_code == 500
        text = response.content.decode()
        assert alias in text
        assert "refused" in text
