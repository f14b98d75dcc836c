"""Requests whose COMMIT is cut: what the middleware may still run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg.errors import CommitOutcomeUnknown
from testproject.postgres import Server
from tests.engines import (
    OURS,
    RESILIENT,
    STOCK,
    Connections,
    backend_pid,
    until,
    values,
    values_table,
)
from tests.faults.proxy import Point, Proxy

ALIAS = "proxied"
TABLE = "requests"
runs: list[str] = []
faults: dict[str, Callable[[], None]] = {}


def insert(value: str) -> None:
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(f"INSERT INTO {TABLE} (value) VALUES (%s)", [value])


def write_and_lose_commit() -> None:
    with transaction.atomic(using=ALIAS):
        insert("x")
        if len(runs) == 1:
            faults["cut"]()


def write_and_lose_later() -> None:
    with transaction.atomic(using=ALIAS):
        insert("y")
        if len(runs) == 1:
            faults["kill"]()
        insert("z")


def simple(request: HttpRequest) -> HttpResponse:
    runs.append("simple")
    write_and_lose_commit()
    return HttpResponse("done")


def swallowing(request: HttpRequest) -> HttpResponse:
    runs.append("swallowing")
    with suppress(CommitOutcomeUnknown):
        write_and_lose_commit()
    write_and_lose_later()
    return HttpResponse("done")


urlpatterns = [path("simple/", simple), path("swallowing/", swallowing)]


@pytest.fixture(autouse=True)
def table(server: Server) -> Iterator[None]:
    runs.clear()
    with values_table(server, TABLE):
        yield


def rows(server: Server) -> list[str]:
    return values(server, TABLE)


Get = Callable[..., Any]


@pytest.fixture
def get(make_connection: Connections, server: Server, proxy: Proxy) -> Iterator[Get]:
    """Send a request whose first COMMIT is cut at ``point``."""

    def send(url: str, point: Point, engine: str = RESILIENT, **options: Any) -> Any:
        # CONN_MAX_AGE: the connection that is lost must be the one that was there before.
        made = make_connection(engine, alias=ALIAS, PORT=proxy.port, CONN_MAX_AGE=60, **options)
        made.ensure_connection()
        # With commit_outcome the transaction's id is asked for before COMMIT is sent.
        faults["cut"] = lambda: proxy.cut_at(2 if options else 1, point)
        faults["kill"] = lambda: server.terminate(backend_pid(connections[ALIAS]))
        return Client(raise_request_exception=False).get(url)

    with override_settings(
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[OURS],
        ALLOWED_HOSTS=["testserver"],
        RESILIENT_PG_UNAVAILABLE_RESPONSE=True,
    ):
        yield send


def expect(server: Server, point: Point) -> None:
    """What the server has done by the time that it has read the COMMIT which was cut."""
    if point == "before":
        assert rows(server) == []
    else:
        until(lambda: rows(server) == ["x"], "the COMMIT has not arrived")


@pytest.mark.parametrize("point", ["before", "after", "answer"])
def test_an_unknown_outcome_is_never_run_again(point: Point, get: Get, server: Server) -> None:
    """Nor answered with 503, which would invite the client to do it."""
    assert get("/simple/", point).status_code == 500
    assert runs == ["simple"]
    expect(server, point)


@pytest.mark.parametrize("point", ["before", "after", "answer"])
def test_with_commit_outcome_it_is_known(point: Point, get: Get, server: Server) -> None:
    response = get("/simple/", point, commit_outcome=True)
    assert (response.status_code, response.content) == (200, b"done")
    assert runs == ["simple"] * (2 if point == "before" else 1)
    assert rows(server) == ["x"]


@pytest.mark.parametrize("point", ["before", "after", "answer"])
def test_on_the_stock_engine_it_fails_alike(point: Point, get: Get, server: Server) -> None:
    assert get("/simple/", point, STOCK).status_code == 500
    expect(server, point)


def test_a_swallowed_unknown_outcome_counts_as_an_effect(get: Get, server: Server) -> None:
    response = get("/swallowing/", "answer")
    assert (response.status_code, response.get("Retry-After")) == (503, None)
    assert (runs, rows(server)) == (["swallowing"], ["x"])


def test_a_commit_that_was_asked_for_counts_as_an_effect(get: Get, server: Server) -> None:
    response = get("/swallowing/", "answer", commit_outcome=True)
    assert (response.status_code, response.get("Retry-After")) == (503, None)
    assert (runs, rows(server)) == (["swallowing"], ["x"])
