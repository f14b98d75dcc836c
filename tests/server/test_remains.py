"""What an attempt may leave behind for middlewares above it, or for the attempt that follows."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import pytest
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf.urls.i18n import i18n_patterns
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils import timezone, translation
from django.utils.decorators import sync_and_async_middleware
from django.utils.functional import SimpleLazyObject

from django_resilient_pg.decorators import replayable
from testproject.postgres import Server
from testproject.shop.models import Customer, Order
from tests.engines import backend_pid
from tests.server.request_views import faults, lose, lost_reads, runs
from tests.server.test_middleware import OURS, TEMPLATES, send, send_async
from tests.server.test_traces import add, names

LOCALE = "django.middleware.locale.LocaleMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
STATE: contextvars.ContextVar[str] = contextvars.ContextVar("STATE", default="outside")
seen: list[object] = []
Ours = pytest.mark.parametrize("ours", [[OURS], []], ids=["ours", "without"])


# -- streams that hold something while they are made ----------------------------------------------


def set_path(schema: str) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(f"SET search_path TO {schema}")


def search_path() -> object:
    with connections["default"].cursor() as cursor:
        cursor.execute("SHOW search_path")
        return cursor.fetchone()[0]


@contextmanager
def tenant() -> Iterator[None]:
    set_path("tenant_b")
    try:
        yield
    finally:
        set_path("public")


@asynccontextmanager
async def tenant_async() -> AsyncIterator[None]:
    await sync_to_async(set_path)("tenant_b")
    try:
        yield
    finally:
        await sync_to_async(set_path)("public")


def exports(request: HttpRequest) -> StreamingHttpResponse:
    seen.append(search_path())

    def chunks() -> Iterator[str]:
        with tenant():
            yield from Customer.objects.values_list("name", flat=True).iterator()
            yield "end"

    return StreamingHttpResponse(chunks())


def exports_in_a_transaction(request: HttpRequest) -> StreamingHttpResponse:
    seen.append(search_path())

    def chunks() -> Iterator[str]:
        with tenant(), transaction.atomic():
            yield "b"
            yield "end"

    return StreamingHttpResponse(chunks())


async def exports_async(request: HttpRequest) -> StreamingHttpResponse:
    seen.append(await sync_to_async(search_path)())

    async def chunks() -> AsyncIterator[str]:
        async with tenant_async():
            yield "b"
            yield "end"

    return StreamingHttpResponse(chunks())


def writes_and_exports(request: HttpRequest) -> StreamingHttpResponse:
    add("once")
    return exports(request)


async def writes_and_exports_async(request: HttpRequest) -> StreamingHttpResponse:
    await sync_to_async(add)("once")
    return await exports_async(request)


def streams_rows(request: HttpRequest) -> StreamingHttpResponse:
    """Holds nothing but a cursor, and writes when its request is over."""
    runs.append("streams_rows")

    def chunks() -> Iterator[str]:
        yield from Customer.objects.values_list("name", flat=True).iterator(chunk_size=1)
        add("late")
        yield "end"

    return StreamingHttpResponse(chunks())


def named(response: Any) -> Any:
    """The language and the time zone in which a middleware above finds itself."""
    response["X-Language"] = f"{translation.get_language()} {timezone.get_current_timezone_name()}"
    return response


@sync_and_async_middleware
def audits(get_response: Any) -> Any:
    """A middleware above that writes on the way out."""

    async def asynchronous(request: HttpRequest) -> Any:
        response = await get_response(request)
        await sync_to_async(add)("audit")
        return named(response)

    def synchronous(request: HttpRequest) -> Any:
        response = get_response(request)
        add("audit")
        return named(response)

    return asynchronous if iscoroutinefunction(get_response) else synchronous


def sync_only(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> Any:
        return get_response(request)

    return middleware


@pytest.fixture
def tenant_b(server: Server) -> Iterator[None]:
    for sql in (
        "CREATE SCHEMA tenant_b",
        "CREATE TABLE tenant_b.shop_customer (LIKE public.shop_customer INCLUDING ALL)",
        "GRANT ALL ON SCHEMA tenant_b TO public",
        "GRANT ALL ON ALL TABLES IN SCHEMA tenant_b TO public",
        "INSERT INTO tenant_b.shop_customer (name, email) VALUES ('b', 'b')",
    ):
        server.execute(sql, database="project")
    yield
    server.execute("DROP SCHEMA tenant_b CASCADE", database="project")


def customers(server: Server, schema: str) -> list[str]:
    sql = f"SELECT name FROM {schema}.shop_customer ORDER BY 1"
    return [name for (name,) in server.execute(sql, database="project")]


@Ours
@pytest.mark.parametrize("view", ["exports", "exports_in_a_transaction", "exports_async"])
def test_what_a_stream_sets_is_not_set_for_the_middlewares_above(
    view: str, ours: list[str], server: Server, tenant_b: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor for the view when it makes its stream once more. Nothing is lost here, or logged."""
    with override_settings(MIDDLEWARE=[f"{__name__}.audits", *ours]):
        if view == "exports_async":
            assert send_async(f"/{view}/").body == b"bend"
        else:
            response = send(f"/{view}/")
            assert b"".join(response.streaming_content) == b"bend"
    assert seen == ['"$user", public'] * (2 if ours else 1)
    assert (customers(server, "public"), customers(server, "tenant_b")) == (["audit"], ["b"])
    assert not [one for one in caplog.records if one.name == "django_resilient_pg"]


@pytest.mark.parametrize("view", ["writes_and_exports", "writes_and_exports_async"])
def test_a_stream_of_a_request_that_has_had_an_effect_begins_as_usual(
    view: str, server: Server, tenant_b: None
) -> None:
    """It could not be made once more, so it must not hold anything before its time."""
    with override_settings(MIDDLEWARE=[f"{__name__}.audits", OURS]):
        if view == "writes_and_exports_async":
            assert send_async(f"/{view}/").body == b"bend"
        else:
            assert b"".join(send(f"/{view}/").streaming_content) == b"bend"
    expected = (["audit", "once"], ["b"])
    assert (customers(server, "public"), customers(server, "tenant_b")) == expected


@pytest.mark.parametrize("seconds", [0.1, 10.0])
def test_the_rest_of_a_stream_is_not_part_of_its_request(seconds: float) -> None:
    """It may write, and no deadline bounds it; a cursor alone is not given up."""
    add("first")
    add("second")
    with override_settings(RESILIENT_PG_REQUEST_DEADLINE=seconds):
        response = send("/streams_rows/")
        time.sleep(seconds if seconds < 1 else 0)
        assert b"".join(response.streaming_content).endswith(b"end")
    assert (runs, names()) == (["streams_rows"], ["first", "late", "second"])


# -- context variables, languages and timeouts of streams -----------------------------------------


@contextmanager
def inside() -> Iterator[None]:
    """What only the context can reset in which it was set."""
    token = STATE.set("inside")
    try:
        with translation.override("fr"), timezone.override("Asia/Tokyo"):
            yield
    finally:
        STATE.reset(token)
        seen.append("reset")


def sync_stream(request: HttpRequest) -> StreamingHttpResponse:
    def chunks() -> Iterator[str]:
        with inside():
            yield "a"
            yield STATE.get()

    return StreamingHttpResponse(chunks())


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[str]:
        async with asyncio.timeout(5):
            with inside():
                yield "a"
                await asyncio.sleep(0.01)
                yield await sync_to_async(STATE.get)()

    return StreamingHttpResponse(chunks())


async def timed(request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(0.2):
                yield "a"
                await asyncio.sleep(5)
        except TimeoutError:
            yield "late"

    return StreamingHttpResponse(chunks())


@Ours
@pytest.mark.parametrize("above", [[], ["sync_only"], ["audits"]], ids=str)
@pytest.mark.parametrize("view", ["sync_stream", "async_stream", "timed"])
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_a_stream_is_made_in_one_context(view: str, above: list[str], ours: list[str]) -> None:
    with override_settings(MIDDLEWARE=[*(f"{__name__}.{one}" for one in above), *ours]):
        response = send_async(f"/{view}/")
    assert response.body == (b"alate" if view == "timed" else b"ainside")
    assert response.get("X-Language", "en-us UTC") == "en-us UTC"
    assert seen == ([] if view == "timed" else ["reset"])


@Ours
@pytest.mark.parametrize("whole", [True, False])
def test_a_stream_is_made_in_one_context_under_wsgi(whole: bool, ours: list[str]) -> None:
    """Also if the client goes away after the first chunk."""
    with override_settings(MIDDLEWARE=[f"{__name__}.audits", *ours]):
        response = send("/sync_stream/")
    chunks = iter(response.streaming_content)
    assert next(chunks) == b"a"
    if whole:
        assert list(chunks) == [b"inside"]
    else:
        response.close()
    assert (response["X-Language"], seen, STATE.get()) == ("en-us UTC", ["reset"], "outside")


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
    assert "it gave its session another key, or none" in caplog.text


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
    *(exports, exports_in_a_transaction, exports_async, streams_rows),
    *(writes_and_exports, writes_and_exports_async),
    *(sync_stream, async_stream, timed, contains, fills, checks_out),
]
urlpatterns = [
    *(path(f"{view.__name__}/", view) for view in VIEWS),
    path("prefetched/", changes(lambda request: vars(request)["customer"].orders.all(), "token")),
    path("queryset/", changes(lambda request: vars(request)["customers"], "name")),
    *i18n_patterns(path("activates/", activates), path("activates_async/", activates_async)),
]


@pytest.fixture(autouse=True)
def shop(project: str, server: Server) -> Iterator[None]:
    runs.clear()
    seen.clear()
    faults["kill"] = lambda: server.terminate(backend_pid(connections[project]))
    with (
        override_settings(
            ROOT_URLCONF=__name__,
            MIDDLEWARE=[OURS],
            ALLOWED_HOSTS=["testserver"],
            TEMPLATES=TEMPLATES,
            USE_TZ=True,
            TIME_ZONE="UTC",
        ),
        translation.override("en-us"),
        timezone.override(None),
    ):
        yield
