"""Views that lose their connection, for the tests of the middleware; a URLconf."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.db import Error, connections, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.urls import path
from django.views import View

from django_resilient_pg.decorators import not_replayable, replayable
from django_resilient_pg.state.unit_of_work import MOST_TEXTS
from testproject.shop.models import Customer
from tests.engines import copy_in

#: Every run of a view that loses its connection, by its name.
runs: list[str] = []
#: Set by the test.
faults: dict[str, Callable[[], None]] = {}
#: Aliases that some tests add.
SECOND = "second"


def lose(name: str) -> None:
    """Let the test end this thread's session, the first time only."""
    runs.append(name)
    if runs.count(name) == 1:
        faults["kill"]()


def lost_reads(name: str) -> str:
    """Two reads of one transaction; its connection is lost between them."""
    with transaction.atomic():
        Customer.objects.count()
        lose(name)
        return str(Customer.objects.count())


def create(name: str, using: str = "default") -> None:
    Customer.objects.using(using).create(name=name, email=f"{name}@example.com")


def reading(request: HttpRequest) -> HttpResponse:
    Customer.objects.count()
    return HttpResponse(lost_reads("reading"))


def setting(request: HttpRequest) -> HttpResponse:
    with connections["default"].cursor() as cursor:
        cursor.execute("SET statement_timeout = '9s'")
    return HttpResponse(lost_reads("setting"))


def wrote(request: HttpRequest) -> HttpResponse:
    create("once")
    return HttpResponse(lost_reads("wrote"))


def committed(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        create("once")
    return HttpResponse(lost_reads("committed"))


def committed_reads(request: HttpRequest) -> HttpResponse:
    """A transaction that only read may be done twice, with a savepoint in it too."""
    with transaction.atomic(), transaction.atomic():
        Customer.objects.count()
    return HttpResponse(lost_reads("committed_reads"))


def committed_much(request: HttpRequest) -> HttpResponse:
    """More different reads than are kept, and then a write."""
    with transaction.atomic(), connections["default"].cursor() as cursor:
        for number in range(MOST_TEXTS):
            cursor.execute(f"SELECT {number}")
        create("once")
    return HttpResponse(lost_reads("committed_much"))


def failed_half_way(request: HttpRequest) -> HttpResponse:
    """Several statements in one string: the first has committed when the last fails."""
    with connections["default"].cursor() as cursor, suppress(Error):
        cursor.execute(
            "BEGIN; INSERT INTO shop_customer (name, email) VALUES ('once', 'once@example.com');"
            " COMMIT; SELECT 1/0"
        )
    return HttpResponse(lost_reads("failed_half_way"))


def called(request: HttpRequest) -> HttpResponse:
    """A read by its text; the function it calls does more."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT nextval('shop_customer_id_seq')")
    return HttpResponse(lost_reads("called"))


def copied(request: HttpRequest) -> HttpResponse:
    with connections["default"].cursor() as cursor:
        copy_in(cursor, "COPY shop_customer (name, email) FROM STDIN", "once\tonce@example.com\n")
    return HttpResponse(lost_reads("copied"))


def hooked(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        transaction.on_commit(lambda: runs.append("hook"))
    return HttpResponse(lost_reads("hooked"))


def wrote_elsewhere(request: HttpRequest) -> HttpResponse:
    create("once", using=SECOND)
    return HttpResponse(lost_reads("wrote_elsewhere"))


def hooked_elsewhere(request: HttpRequest) -> HttpResponse:
    transaction.on_commit(lambda: runs.append("hook"), using=SECOND)
    return HttpResponse(lost_reads("hooked_elsewhere"))


def read_elsewhere(request: HttpRequest) -> HttpResponse:
    with connections[SECOND].cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse(lost_reads("read_elsewhere"))


@replayable
def posting(request: HttpRequest) -> HttpResponse:
    name = request.POST["name"]
    lose_while_writing("posting", name)
    return HttpResponse(name)


@replayable
def streamed(request: HttpRequest) -> HttpResponse:
    """Reads the body as a stream."""
    name = request.read().decode()
    lose_while_writing("streamed", name)
    return HttpResponse(name)


@replayable
def uploading(request: HttpRequest) -> HttpResponse:
    upload = request.FILES["file"]
    assert not isinstance(upload, list)
    name = upload.read().decode()
    lose_while_writing("uploading", name)
    return HttpResponse(name)


def unmarked(request: HttpRequest) -> HttpResponse:
    lose_while_writing("unmarked", "u")
    return HttpResponse("u")


def lose_while_writing(run: str, name: str) -> None:
    with transaction.atomic():
        create(name)
        lose(run)
        create(f"{name}2")


@not_replayable
def forbidden(request: HttpRequest) -> HttpResponse:
    return HttpResponse(lost_reads("forbidden"))


class Classy(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(lost_reads("classy"))

    @replayable
    def post(self, request: HttpRequest) -> HttpResponse:
        return posting(request)

    def put(self, request: HttpRequest) -> HttpResponse:
        return unmarked(request)


def rendering(request: HttpRequest) -> HttpResponse:
    """Lost where a TemplateResponse is rendered, after the view and its transaction."""
    template = engines["django"].from_string("{{ count }}")
    context = {"count": lambda: lost_reads("rendering")}
    return TemplateResponse(request, template, context)


def tracing(request: HttpRequest) -> HttpResponse:
    """Leaves a trace wherever it can."""
    vars(request).setdefault("counted", 0)
    vars(request)["counted"] += 1
    vars(request)["trail"].append("view")
    vars(request)["lazy"].append("view")
    request.META["TRACE"] = request.META.get("TRACE", "") + "x"
    request.session["visits"].append("view")
    request.session.modified = True
    messages.info(request, "seen")
    lost_reads("tracing")
    told = (
        vars(request)["counted"],
        vars(request)["trail"],
        list(vars(request)["lazy"]),
        request.META["TRACE"],
        request.session["visits"],
        [str(message) for message in messages.get_messages(request)],
    )
    return HttpResponse(repr(told))


def new_session_key(request: HttpRequest) -> HttpResponse:
    request.session.cycle_key()
    return HttpResponse(lost_reads("new_session_key"))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def chunks() -> Iterator[str]:
        yield lost_reads("stream")
        yield "!"

    return StreamingHttpResponse(chunks())


def stream_writes(request: HttpRequest) -> StreamingHttpResponse:
    def chunks() -> Iterator[str]:
        create("once")
        yield lost_reads("stream_writes")

    return StreamingHttpResponse(chunks())


def stream_lost_late(request: HttpRequest) -> StreamingHttpResponse:
    def chunks() -> Iterator[str]:
        yield "first"
        yield lost_reads("stream_lost_late")

    return StreamingHttpResponse(chunks())


async def asynchronous(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await sync_to_async(lost_reads)("asynchronous"))


async def wrote_in_a_thread(request: HttpRequest) -> HttpResponse:
    """The write is counted although it is made on another thread's connection."""
    await sync_to_async(create, thread_sensitive=False)("once")
    return HttpResponse(await sync_to_async(lost_reads)("wrote_in_a_thread"))


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[str]:
        yield await sync_to_async(lost_reads)("stream_async")
        yield "!"

    return StreamingHttpResponse(chunks())


async def stream_writes_async(request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[str]:
        await sync_to_async(create)("once")
        yield await sync_to_async(lost_reads)("stream_writes_async")

    return StreamingHttpResponse(chunks())


def swallowed(request: HttpRequest) -> HttpResponse:
    """The view has an answer of its own."""
    try:
        lost_reads("swallowed")
    except Error:
        return HttpResponse("sorry", status=502)
    return HttpResponse("fine")


def unreachable(request: HttpRequest) -> HttpResponse:
    with connections[SECOND].cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("never")


def named(request: HttpRequest, name: str) -> HttpResponse:
    return HttpResponse(lost_reads("named"))


VIEWS: list[Any] = [
    *(
        reading,
        setting,
        wrote,
        committed,
        committed_reads,
        committed_much,
        failed_half_way,
        called,
        copied,
        hooked,
    ),
    *(wrote_elsewhere, hooked_elsewhere, read_elsewhere, posting, streamed, uploading, unmarked),
    *(forbidden, rendering, tracing, new_session_key, stream, stream_writes, stream_lost_late),
    *(asynchronous, wrote_in_a_thread, stream_async, stream_writes_async, swallowed, unreachable),
]
urlpatterns = [
    *(path(f"{view.__name__}/", view) for view in VIEWS),
    path("classy/", Classy.as_view()),
    path("named/<str:name>/", named),
]
