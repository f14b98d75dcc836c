"""A replayed request, and one that was not, are told once: a line, a count, a signal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from django_resilient_pg import signals
from testproject.shop.models import Customer
from tests.engines import RESILIENT, Connections
from tests.server.replay.sending import send, send_async
from tests.server.request_views import SECOND

pytestmark = pytest.mark.usefixtures("shop")


def own(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[Any]:
    names = {"django_resilient_pg", "django.request"}
    return [one for one in caplog.records if one.name in names and one.levelno >= level]


def stats() -> Any:
    return vars(connections["default"])["resilience"].stats


@contextmanager
def lost_connections() -> Iterator[list[signals.ConnectionLost]]:
    heard: list[signals.ConnectionLost] = []

    def hear(record: signals.ConnectionLost, **_: object) -> None:
        heard.append(record)

    signals.connection_lost.connect(hear)
    try:
        yield heard
    finally:
        signals.connection_lost.disconnect(hear)


def counts() -> tuple[int, int, int]:
    now = stats()
    return now.healed, now.surfaced, now.retried.get("request", 0)


def told_of(before: tuple[int, int, int]) -> list[int]:
    return [now - then for now, then in zip(counts(), before, strict=True)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_replayed_request_is_one_line_and_one_count(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Customer.objects.count()
    before = counts()
    with lost_connections() as lost:
        view = "asynchronous" if asynchronous else "reading"
        response = send_async(f"/{view}/") if asynchronous else send(f"/{view}/")
    assert response.status_code == 200
    (line,) = own(caplog)
    assert (line.levelno, line.retried_as) == (logging.INFO, "request")
    assert line.getMessage().endswith(f"Replaying GET /{view}/ on a new connection.")
    assert [(one.healed, one.retried_as) for one in lost] == [(True, "request")]
    assert told_of(before) == [1, 0, 1]


def test_a_request_that_is_not_replayed_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Customer.objects.count()
    before = counts()
    assert send("/unmarked/", "post").status_code == 500
    (line,) = [one for one in own(caplog) if one.name == "django_resilient_pg"]
    assert (line.levelno, line.retried_as) == (logging.WARNING, None)
    assert line.getMessage().endswith(
        "POST /unmarked/ lost its connection and was not replayed: its method is POST and its view"
        " is not marked @replayable."
    )
    assert told_of(before) == [0, 1, 0]


def test_a_loss_that_the_view_answers_has_surfaced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_resilient_pg")
    Customer.objects.count()
    before = counts()
    assert send("/swallowed/").status_code == 502
    (line,) = [one for one in own(caplog) if one.name == "django_resilient_pg"]
    assert line.levelno == logging.WARNING
    assert told_of(before) == [0, 1, 0]


@pytest.mark.parametrize("reachable", [True, False])
def test_a_503_is_one_record_with_the_path(
    reachable: bool, caplog: pytest.LogCaptureFixture, make_connection: Connections
) -> None:
    caplog.set_level(logging.INFO)
    alias, method, path = "default", "post", "/unmarked/"
    if not reachable:
        alias, method, path = SECOND, "get", "/unreachable/"
        make_connection(RESILIENT, alias=SECOND, PORT=1, retry_deadline=0.2)
    with override_settings(RESILIENT_PG_UNAVAILABLE_RESPONSE=True):
        assert send(path, method).status_code == 503
    (line,) = own(caplog, logging.WARNING)
    assert (line.name, line.levelno) == ("django_resilient_pg", logging.WARNING)
    assert line.getMessage().endswith(
        f'Returned 503 for {method.upper()} {path}: database "{alias}" is not available.'
    )
    assert line.alias == alias
    assert line.exc_info, "nobody else reports the error"


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_line_of_the_log_stays_one(method: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    send("/named/x%0ACRITICAL: forged/", method)
    said = [one.getMessage() for one in caplog.records if "named" in one.getMessage()]
    assert [one for one in said if "Replaying" in one or "was not replayed" in one]
    assert all("\n" not in one and "\\nCRITICAL" in one for one in said)
