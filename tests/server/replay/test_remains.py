"""What an attempt may leave behind for middlewares above it, or for the attempt that follows."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from asgiref.sync import sync_to_async
from django.conf.urls.i18n import i18n_patterns
from django.db import transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils import timezone, translation
from django.utils.functional import SimpleLazyObject

from django_resilient_pg.decorators import replayable
from testproject.shop.models import Customer, Order
from tests.engines import OURS
from tests.server.replay.sending import add, names, seen, send, send_async, views
from tests.server.request_views import lose, lost_reads, runs

pytestmark = pytest.mark.once_per_driver

LOCALE = "django.middleware.locale.LocaleMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"


# -- streams --------------------------------------------------------------------------------------


def streams_rows(request: HttpRequest) -> StreamingHttpResponse:
    """It writes when its request is over."""
    runs.append("streams_rows")

    def chunks() -> Iterator[str]:
        yield from Customer.objects.values_list("name", flat=True).iterator(chunk_size=1)
        add("late")
        yield "end"

    return StreamingHttpResponse(chunks())


@pytest.mark.parametrize("seconds", [0.1, 10.0])
def test_a_stream_is_not_part_of_its_request(seconds: float) -> None:
    """It may write, and no deadline of the request bounds it."""
    add("first")
    add("second")
    with override_settings(RESILIENT_PG_REQUEST_DEADLINE=seconds):
        response = send("/streams_rows/")
        time.sleep(seconds if seconds < 1 else 0)
        assert b"".join(response.streaming_content).endswith(b"end")
    assert (runs, names()) == (["streams_rows"], ["first", "late", "second"])


# -- what the request holds -----------------------------------------------------------------------


def loads(get_response: Any) -> Any:
    """A middleware above: gives the request what its view works on."""

    def middleware(request: HttpRequest) -> Any:
        given = vars(request)
        given["customer"] = Customer.objects.prefetch_related("orders").first()
        given["customers"] = Customer.objects.order_by("pk")
        given["counts"], given["lists"] = Counter(), defaultdict(list)
        given["ordered"] = OrderedDict(a=1, b=2)
        given["ordered"].move_to_end("a")
        given["lazy"] = SimpleLazyObject(lambda: seen.append("evaluated"))
        request.GET  # noqa: B018  parsed now
        return get_response(request)

    return middleware


def changes(instances: Callable[[HttpRequest], Any], name: str) -> Callable[..., HttpResponse]:
    """A view that changes instances which the request holds, and loses them."""

    @replayable
    def view(request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            for one in instances(request):
                setattr(one, name, getattr(one, name) + "x")
                one.save()
            lose("changes")
            Customer.objects.count()
        return HttpResponse("changed")

    return view


def contains(request: HttpRequest) -> HttpResponse:
    given, form = vars(request), cast(Any, request.GET)
    given["counts"]["seen"] += 1
    given["lists"]["seen"].append(1)
    given["ordered"].update(c=3)
    form._mutable = True
    form.appendlist("x", "view")
    lost_reads("contains")
    told = [dict(given["counts"]), dict(given["lists"]), list(given["ordered"]), form.getlist("x")]
    return HttpResponse(repr(told))


@pytest.mark.parametrize("url", ["prefetched", "queryset"])
def test_what_a_queryset_has_fetched_is_put_back(url: str) -> None:
    customer = Customer.objects.create(name="c", email="c@example.com")
    Order.objects.create(customer=customer, token="c")
    with override_settings(MIDDLEWARE=[f"{__name__}.loads", OURS]):
        assert send(f"/{url}/", "post").status_code == 200
    assert runs == ["changes"] * 2
    changed = Order.objects.get().token if url == "prefetched" else Customer.objects.get().name
    assert changed == "cx"


def test_what_containers_of_other_kinds_hold_is_put_back() -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.loads", OURS]):
        response = send("/contains/?x=1")
    assert (runs, seen) == (["contains"] * 2, [])
    assert (
        response.content.decode() == "[{'seen': 1}, {'seen': [1]}, ['b', 'a', 'c'], ['1', 'view']]"
    )


# -- session, language, time zone -----------------------------------------------------------------


def fills(request: HttpRequest) -> HttpResponse:
    request.session["cart"] = "book"
    return HttpResponse("filled")


@replayable
def checks_out(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        add(request.session.get("cart", "nothing"))
        request.session.flush()
        lose("checks_out")
        Customer.objects.count()
    return HttpResponse("bought")


@override_settings(
    MIDDLEWARE=[SESSIONS, OURS],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
)
def test_a_session_that_was_flushed_is_an_effect(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(raise_request_exception=False)
    client.get("/fills/")
    assert client.post("/checks_out/").status_code == 500
    assert (runs, names()) == (["checks_out"], [])
    assert "it changed or removed the key of its session" in caplog.text


def activates(request: HttpRequest) -> HttpResponse:
    seen.append(f"{translation.get_language()} {timezone.get_current_timezone_name()}")
    translation.activate("fr")
    timezone.activate("Asia/Tokyo")
    return HttpResponse(lost_reads("activates"))


async def activates_async(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(activates)(request)


@pytest.mark.parametrize("how", [send, send_async])
@pytest.mark.parametrize("url", ["activates", "activates_async"])
def test_what_was_activated_is_not_active_for_the_second_attempt(url: str, how: Any) -> None:
    languages = [("en", "English"), ("fr", "French"), ("de", "German")]
    with override_settings(MIDDLEWARE=[LOCALE, OURS], LANGUAGES=languages, LANGUAGE_CODE="en"):
        response = how(f"/de/{url}/")
    assert (response.status_code, runs) == (200, ["activates"] * 2)
    assert seen == ["de UTC"] * 2


VIEWS: list[Any] = [
    *(streams_rows, contains, fills, checks_out),
]
urlpatterns = [
    *views(*VIEWS),
    path("prefetched/", changes(lambda request: vars(request)["customer"].orders.all(), "token")),
    path("queryset/", changes(lambda request: vars(request)["customers"], "name")),
    *i18n_patterns(path("activates/", activates), path("activates_async/", activates_async)),
]


@pytest.fixture(autouse=True)
def language(shop: None) -> Iterator[None]:
    """Language and time zone are Django's own at the start of each test."""
    with (
        override_settings(USE_TZ=True, TIME_ZONE="UTC"),
        translation.override("en-us"),
        timezone.override(None),
    ):
        yield
