"""Requests that lose their connection, through Django's own handlers, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.signals import got_request_exception
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.views import View

from django_resilient_pg.decorators import not_replayable, replayable
from testproject.postgres import Server
from testproject.shop.models import Customer
from tests.engines import backend_pid

runs: list[str] = []
faults: dict[str, Callable[[], None]] = {}


def lose(when: str) -> None:
    """Let the test end this thread's session, the first time only."""
    runs.append(when)
    if len([run for run in runs if run == when]) == 1:
        faults["kill"]()


def reading(request: HttpRequest) -> HttpResponse:
    Customer.objects.count()
    request.seen = "by an attempt"  # type: ignore[attr-defined]
    with transaction.atomic():
        Customer.objects.count()
        lose("reading")
        return HttpResponse(f"{Customer.objects.count()}")


def wrote(request: HttpRequest) -> HttpResponse:
    Customer.objects.create(name="once", email="once@example.com")
    with transaction.atomic():
        Customer.objects.count()
        lose("wrote")
        return HttpResponse(f"{Customer.objects.count()}")


def hooked(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        transaction.on_commit(lambda: None)
    with transaction.atomic():
        Customer.objects.count()
        lose("hooked")
        return HttpResponse(f"{Customer.objects.count()}")


@replayable
def posting(request: HttpRequest) -> HttpResponse:
    name = request.POST["name"]
    with transaction.atomic():
        Customer.objects.create(name=name, email=f"{name}@example.com")
        lose("posting")
        Customer.objects.create(name=name + "2", email=f"{name}2@example.com")
    return HttpResponse(name)


def unmarked(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Customer.objects.create(name="u", email="u@example.com")
        lose("unmarked")
        Customer.objects.count()
    return HttpResponse("u")


@not_replayable
def forbidden(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Customer.objects.count()
        lose("forbidden")
        return HttpResponse(f"{Customer.objects.count()}")


class Classy(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return reading(request)


async def asynchronous(request: HttpRequest) -> HttpResponse:
    from asgiref.sync import sync_to_async

    return await sync_to_async(reading)(request)


urlpatterns = [
    path("reading/", reading),
    path("wrote/", wrote),
    path("hooked/", hooked),
    path("posting/", posting),
    path("unmarked/", unmarked),
    path("forbidden/", forbidden),
    path("classy/", Classy.as_view()),
    path("asynchronous/", asynchronous),
]


@pytest.fixture
def reported() -> Iterator[list[Any]]:
    heard: list[Any] = []

    def hear(**about: Any) -> None:
        heard.append(about)

    got_request_exception.connect(hear)
    yield heard
    got_request_exception.disconnect(hear)


@pytest.fixture(autouse=True)
def shop(project: str, server: Server) -> Iterator[None]:
    runs.clear()

    def kill() -> None:
        server.terminate(backend_pid(connections[project]))

    faults["kill"] = kill
    middleware = ["django_resilient_pg.middleware.RequestRetryMiddleware"]
    with override_settings(
        ROOT_URLCONF=__name__, MIDDLEWARE=middleware, ALLOWED_HOSTS=["testserver"]
    ):
        yield


def get(url: str, method: str = "get", data: Any = None) -> Any:
    client = Client(raise_request_exception=False)
    return getattr(client, method)(url, data)


@pytest.mark.parametrize("url", ["/reading/", "/classy/"])
def test_a_get_that_only_read_is_run_again_without_a_trace(url: str, reported: list[Any]) -> None:
    response = get(url)
    assert (response.status_code, response.content) == (200, b"0")
    assert runs == ["reading"] * 2
    assert reported == []


def test_without_the_middleware_it_fails(reported: list[Any]) -> None:
    with override_settings(MIDDLEWARE=[]):
        assert get("/reading/").status_code == 500
    assert len(reported) == 1


@pytest.mark.parametrize("url", ["/wrote/", "/hooked/", "/forbidden/"])
def test_what_had_an_effect_or_is_forbidden_is_not_run_again(url: str, reported: list[Any]) -> None:
    assert get(url).status_code == 500
    assert len(runs) == 1
    assert len(reported) == 1
    assert Customer.objects.count() == (url == "/wrote/")


def test_a_post_marked_replayable_is_run_again_with_its_body() -> None:
    response = get("/posting/", "post", {"name": "joe"})
    assert (response.status_code, response.content) == (200, b"joe")
    assert runs == ["posting"] * 2
    assert sorted(Customer.objects.values_list("name", flat=True)) == ["joe", "joe2"]


def test_a_post_that_is_not_marked_is_not_run_again() -> None:
    assert get("/unmarked/", "post", {"name": "joe"}).status_code == 500
    assert Customer.objects.count() == 0


def test_atomic_requests_are_begun_again(project: str) -> None:
    connections[project].settings_dict["ATOMIC_REQUESTS"] = True
    try:
        response = get("/reading/")
    finally:
        connections[project].settings_dict["ATOMIC_REQUESTS"] = False
    assert (response.status_code, len(runs)) == (200, 2)


def test_it_gives_up_with_503_where_that_is_wanted() -> None:
    with override_settings(RESILIENT_PG_REQUEST_RETRIES=0, RESILIENT_PG_UNAVAILABLE_RESPONSE=True):
        response = get("/reading/")
    assert response.status_code == 503
    assert response["Retry-After"] == "5"


@pytest.mark.parametrize("url", ["/reading/", "/asynchronous/"])
def test_under_asgi(url: str, reported: list[Any]) -> None:
    async def ask() -> Any:
        return await AsyncClient(raise_request_exception=False).get(url)

    response = asyncio.run(ask())
    assert (response.status_code, response.content) == (200, b"0")
    assert len(runs) == 2
    assert reported == []
