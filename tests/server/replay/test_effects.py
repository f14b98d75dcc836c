"""What a request has done is found out, also where it did it by many rows, tasks or requests.

In every test the first attempt has an effect, or may still have one, when its connection is lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import Error, IntegrityError, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.views import View

from django_resilient_pg.decorators import not_replayable, replayable
from django_resilient_pg.errors import AttemptAbandoned
from django_resilient_pg.state.unit_of_work import UNDER_WAY
from testproject.postgres import Server
from testproject.shop.models import Customer
from tests.engines import DRIVER, LONGEST, PATIENCE, STOCK, Connections, backend_pid, copy_out
from tests.server.replay.sending import add, forget_connection, names, send, views
from tests.server.request_views import SECOND, faults, lost_reads, runs

pytestmark = pytest.mark.once_per_driver

INSERT = "INSERT INTO shop_customer (name, email) VALUES (%s, %s)"
#: What side tasks and threads ended with.
ended: list[object] = []
#: The second attempt of a request has begun.
replayed = threading.Event()
#: Threads that outlive their request.
threads: list[threading.Thread] = []


def unique_rows(name: str) -> list[list[str]]:
    return [[name, f"{uuid.uuid4()}@example.com"]]


def rows(*names: str) -> list[list[str]]:
    return [[name, f"{name}@example.com"] for name in names]


def run(sql: str, params: Any = None) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(sql, params)


def some_rows(request: HttpRequest) -> HttpResponse:
    """The third row is refused; with psycopg2 the first two have been committed by then."""
    with connections["default"].cursor() as cursor, suppress(IntegrityError):
        cursor.executemany(INSERT, rows(f"a{len(runs)}", f"b{len(runs)}", f"a{len(runs)}"))
    return HttpResponse(lost_reads("some_rows"))


def read_rows(request: HttpRequest) -> HttpResponse:
    with connections["default"].cursor() as cursor:
        cursor.executemany("SELECT name FROM shop_customer WHERE id = %s", [[1], [2]])
    return HttpResponse(lost_reads("read_rows"))


def hidden(request: HttpRequest) -> HttpResponse:
    run(
        "SELECT name'\\'; INSERT INTO shop_customer (name, email)"
        " VALUES ('once', gen_random_uuid()); SELECT '1'"
    )
    return HttpResponse(lost_reads("hidden"))


def hidden_by_a_setting(request: HttpRequest) -> HttpResponse:
    """For this server a backslash does escape a quote."""
    run("SET standard_conforming_strings = off; SET escape_string_warning = off")
    run(
        "SELECT '\\' , ' ; INSERT INTO shop_customer (name, email)"
        " VALUES ($$once$$, gen_random_uuid()); -- '"
    )
    connections["default"].close()
    return HttpResponse(lost_reads("hidden_by_a_setting"))


def hidden_and_failed(request: HttpRequest) -> HttpResponse:
    """The second statement has committed when the last one fails."""
    run("SET standard_conforming_strings = off")
    with suppress(Error):
        run(
            "SELECT '\\' , ' ; INSERT INTO shop_customer (name, email)"
            " VALUES ($$once$$, gen_random_uuid()); COMMIT; SELECT 1/0 -- '"
        )
    return HttpResponse(lost_reads("hidden_and_failed"))


def inner(request: HttpRequest) -> HttpResponse:
    add("inner")
    return HttpResponse("inner")


def inner_hook(request: HttpRequest) -> HttpResponse:
    transaction.on_commit(lambda: runs.append("hook"))
    return HttpResponse("inner")


def inner_reads(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Customer.objects.count()))


def inner_elsewhere(request: HttpRequest) -> HttpResponse:
    with connections[SECOND].cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("inner")


def batch(request: HttpRequest, url: str) -> HttpResponse:
    """One request within another, in process."""
    assert Client().get(f"/{url}/").status_code == 200
    return HttpResponse(lost_reads("batch"))


def inner_sets(request: HttpRequest) -> HttpResponse:
    run("SET app.deep = 'set'")
    return HttpResponse("inner")


def sets(request: HttpRequest) -> HttpResponse:
    """Tells what it has found set."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT current_setting('app.mine', true)")
        ended.append(cursor.fetchone()[0])
        cursor.execute("SET app.mine = 'set'")
    Client().get("/inner_sets/")
    return HttpResponse(lost_reads("sets"))


def told(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:
        ended.append(error)
        raise
    else:
        ended.append("done")


async def until_async(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONGEST):
        while not done():
            await asyncio.sleep(0.01)


async def gathered(request: HttpRequest, kind: str) -> HttpResponse:
    """``gather`` raises what the reader raises; the writer goes on."""

    async def writer() -> None:
        await until_async(lambda: len(runs) > 1)  # the first attempt is over, the second has begun
        await sync_to_async(told, thread_sensitive=kind != "thread")(WRITERS[kind])

    async def reader() -> None:
        await sync_to_async(lost_reads)("gathered")

    await asyncio.gather(writer(), reader())
    return HttpResponse("gathered")


def writes_rows() -> None:
    with connections["default"].cursor() as cursor:
        cursor.executemany(INSERT, unique_rows("once"))


def writes_in_a_transaction() -> None:
    with transaction.atomic():
        add("once")


def copies() -> None:
    with connections["default"].cursor() as cursor:
        copy_out(cursor, "COPY shop_customer (name, email) TO STDOUT")
    add("once")


def hooks() -> None:
    transaction.on_commit(lambda: add("once"))


def elsewhere() -> None:
    with connections[SECOND].cursor() as cursor:
        cursor.execute(INSERT, unique_rows("once")[0])


def requests() -> None:
    """A request of its own, within the attempt that is given up."""
    Client().get("/inner/")


WRITERS: dict[str, Callable[[], None]] = {
    "plain": lambda: add("once"),
    "thread": lambda: add("once"),
    "rows": writes_rows,
    "transaction": writes_in_a_transaction,
    "copy": copies,
    "hook": hooks,
    "elsewhere": elsewhere,
    "request": requests,
}


def under_way(request: HttpRequest, kind: str) -> HttpResponse:
    """A thread's statement, or its transaction, is under way when the request is lost."""
    began = threading.Event()

    def statement() -> None:
        began.set()
        run(f"{INSERT} RETURNING pg_sleep(1)", unique_rows("once")[0])

    def reads() -> None:
        began.set()
        run("SELECT pg_sleep(1)")

    def in_transaction() -> None:
        with transaction.atomic():
            add("once")
            began.set()
            replayed.wait(PATIENCE)

    def work() -> None:
        try:
            told({"statement": statement, "reads": reads, "transaction": in_transaction}[kind])
        finally:
            connections["default"].close()

    if "under_way" not in runs:
        replayed.clear()
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(suppressed, work), name="beside"
        )
        thread.start()
        threads.append(thread)
        began.wait(5)
        time.sleep(0.2)
    else:
        replayed.set()
        add("second")
    return HttpResponse(lost_reads("under_way"))


def suppressed(work: Callable[[], None]) -> None:
    with suppress(Exception):
        work()


def outlived(request: HttpRequest) -> HttpResponse:
    """A thread in the request's context goes on after the request, and loses its connection."""

    def work() -> None:
        time.sleep(0.7)
        run("SELECT 1")
        lose_this()
        try:
            time.sleep(0.01)
            told(lambda: run("SELECT 2"))
        finally:
            connections["default"].close()

    def lose_this() -> None:
        pid = backend_pid(connections["default"])
        timer = threading.Timer(0.3, faults["terminate"], [pid])
        timer.start()
        told(lambda: run("SELECT pg_sleep(1)"))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(suppressed, work))
    thread.start()
    threads.append(thread)
    return HttpResponse("outlived")


def calls_what_writes(request: HttpRequest) -> HttpResponse:
    run("SELECT effects_write()")
    return HttpResponse(lost_reads("calls_what_writes"))


def reads_what_writes(request: HttpRequest) -> HttpResponse:
    """Only the database knows that this view writes."""
    run("SELECT * FROM effects_acting")
    return HttpResponse(lost_reads("reads_what_writes"))


class Marked(View):
    @replayable
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(lost_reads("marked"))

    @not_replayable
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(lost_reads("marked"))


@not_replayable
class Below(Marked):
    """Inherits a method that is marked otherwise."""


@replayable
class Overriding(Below):
    """A mark of its own does not take the other one away."""


class Unmarked(Marked):
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(lost_reads("marked"))


urlpatterns = [
    *views(some_rows, read_rows, hidden, hidden_by_a_setting, hidden_and_failed, inner, inner_hook),
    *views(inner_reads, inner_elsewhere, inner_sets, sets),
    *views(outlived, calls_what_writes, reads_what_writes),
    path("batch/<str:url>/", batch),
    path("gathered/<str:kind>/", gathered),
    path("under_way/<str:kind>/", under_way),
    path("marked/", Marked.as_view()),
    path("below/", Below.as_view()),
    path("overriding/", Overriding.as_view()),
    path("unmarked/", Unmarked.as_view()),
    path("around/", not_replayable(Marked.as_view())),
    path("contrary/", replayable(Below.as_view())),
]


@pytest.fixture(autouse=True)
def over(shop: None) -> Iterator[None]:
    """Threads that outlive their request end with the test."""
    ended.clear()
    yield
    while threads:
        threads.pop().join()


def send_async(url: str) -> Any:
    """And wait for what the view has left behind."""
    from django.test import AsyncClient

    async def ask() -> Any:
        await sync_to_async(forget_connection)()
        response = await AsyncClient(raise_request_exception=False).get(url)
        await until_async(lambda: len(ended) > 1)  # one writer of each attempt
        await sync_to_async(forget_connection)()
        return response

    return asyncio.run(ask())


# -- many rows --------------------------------------------------------------------------------


def test_rows_before_the_one_that_was_refused_count() -> None:
    """psycopg 3 sends them as one transaction; that it does is not relied on."""
    assert send("/some_rows/").status_code == 500
    assert runs == ["some_rows"]
    assert names() == (["a0", "b0"] if DRIVER == "psycopg2" else [])


def test_reads_of_many_rows_do_not_count() -> None:
    if DRIVER == "psycopg2":
        assert send("/read_rows/").status_code == 200
        assert runs == ["read_rows"] * 2


class Rows:
    """Between the first row and the second the server is fenced off."""

    def __init__(self, server: Server) -> None:
        self.server, self.times = server, 0

    def __iter__(self) -> Iterator[list[str]]:
        self.times += 1
        yield ["row0", "row0"]
        if self.times == 1:
            self.server.configure(default_transaction_read_only="on")
            time.sleep(0.3)
        yield ["row1", "row1"]


@pytest.mark.psycopg2
def test_rows_before_a_refusal_are_not_sent_again(
    own_server: Server, own_connections: Connections
) -> None:
    connection = own_connections(CONN_MAX_AGE=None)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE many (a text, b text)")
    several: Any = Rows(own_server)
    with pytest.raises(Error) as caught, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO many VALUES (%s, %s)", several)
    assert several.times == 1
    assert "default_transaction_read_only" in "".join(caught.value.__notes__)
    found = own_server.execute("SELECT a FROM many", database="app")
    assert found == [("row0",)]


# -- texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["hidden", "hidden_by_a_setting", "hidden_and_failed"])
def test_a_second_statement_counts_however_it_is_hidden(view: str) -> None:
    assert send(f"/{view}/").status_code == 500
    assert (runs, names()) == ([view], ["once"])


def test_a_read_of_what_writes_counts(server: Server) -> None:
    for statement in (
        "CREATE FUNCTION effects_acts() RETURNS int LANGUAGE sql VOLATILE AS $$ INSERT INTO"
        " shop_customer (name, email) VALUES ('once', gen_random_uuid()) RETURNING 1 $$",
        "CREATE VIEW effects_acting AS SELECT effects_acts()",
        "GRANT ALL ON effects_acting TO PUBLIC",
    ):
        server.execute(statement, database="project")
    try:
        assert send("/reads_what_writes/").status_code == 500
        assert (runs, names()) == (["reads_what_writes"], ["once"])
    finally:
        server.execute("DROP FUNCTION effects_acts CASCADE", database="project")


# -- requests within requests -----------------------------------------------------------------


@pytest.mark.parametrize(("url", "left"), [("inner", ["inner"]), ("inner_hook", [])])
def test_what_an_inner_request_did_counts_for_the_outer_one(url: str, left: list[str]) -> None:
    assert send(f"/batch/{url}/").status_code == 500
    assert runs == (["hook"] if url == "inner_hook" else []) + ["batch"]
    assert names() == left


def test_another_engine_used_by_an_inner_request_counts(make_connection: Connections) -> None:
    make_connection(STOCK, alias=SECOND, database="project", CONN_MAX_AGE=60)
    assert send("/batch/inner_elsewhere/").status_code == 500
    assert runs == ["batch"]


def test_reads_of_an_inner_request_do_not() -> None:
    assert send("/batch/inner_reads/").status_code == 200
    assert runs == ["batch"] * 2


def test_what_an_attempt_had_set_around_an_inner_request_is_not_set_for_the_next() -> None:
    assert send("/sets/").status_code == 200
    assert runs == ["sets"] * 2
    assert ended == [None, None]


# -- tasks and threads ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "elsewhere"])
def test_what_the_first_attempt_left_behind_does_nothing_more(kind: str) -> None:
    """The second attempt has a writer of its own: one row."""
    before = list(UNDER_WAY)
    response = send_async(f"/gathered/{kind}/")
    assert response.status_code == 200
    assert runs == ["gathered"] * 2
    assert names() == (["inner"] if kind == "request" else ["once"])
    first = next(one for one in ended if one != "done")
    assert isinstance(first, AttemptAbandoned)
    assert 'nothing more is done on "default"' in str(first)
    del first
    ended.clear()
    gc.collect()
    if kind != "request":  # pytest keeps what was logged, and that the inner request
        added = [one for one in UNDER_WAY if one not in before]
        assert added == [], "statements need not look for their unit any more"


def test_nor_on_another_engine(make_connection: Connections) -> None:
    make_connection(STOCK, alias=SECOND, database="project")
    response = send_async("/gathered/elsewhere/")
    assert response.status_code == 200
    assert names() == ["once"]


@pytest.mark.parametrize("kind", ["statement", "transaction", "reads"])
def test_what_is_under_way_elsewhere_counts(kind: str) -> None:
    """A statement may take effect, a transaction will not be committed."""
    status = send(f"/under_way/{kind}/").status_code
    threads[0].join()
    if kind == "statement":
        assert (status, runs, names()) == (500, ["under_way"], ["once"])
        assert ended == ["done"]
    else:
        assert (status, runs, names()) == (200, ["under_way"] * 2, ["second"])
        assert (ended == ["done"]) is (kind == "reads")


# -- after the request ------------------------------------------------------------------------


@override_settings(RESILIENT_PG_REQUEST_DEADLINE=0.5)
def test_the_time_of_a_request_that_is_over_bounds_nobody() -> None:
    assert send("/outlived/").status_code == 200
    threads[0].join()
    assert ended == ["done", "done"]


# -- marks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["below", "overriding", "around", "contrary"])
@pytest.mark.parametrize("method", ["post", "get", "head", "options"])
def test_not_replayable_wins(view: str, method: str) -> None:
    if method == "options":  # answered by Django's own method
        return
    assert send(f"/{view}/", method).status_code == 500
    assert runs == ["marked"]


def test_a_mark_is_for_its_own_method() -> None:
    assert send("/marked/", "post").status_code == 200
    assert runs == ["marked"] * 2
    for url, method in (("marked", "get"), ("marked", "head"), ("unmarked", "post")):
        runs.clear()
        assert send(f"/{url}/", method).status_code == 500
        assert runs == ["marked"]


# -- 503 --------------------------------------------------------------------------------------


@override_settings(RESILIENT_PG_UNAVAILABLE_RESPONSE=True)
def test_after_a_function_that_may_write_nobody_is_invited_again(server: Server) -> None:
    server.execute(
        "CREATE OR REPLACE FUNCTION effects_write() RETURNS int LANGUAGE sql VOLATILE AS $$ INSERT"
        " INTO shop_customer (name, email) VALUES ('once', gen_random_uuid()); SELECT 1 $$",
        database="project",
    )
    server.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC", database="project")
    for retries in (0, 1):
        with override_settings(RESILIENT_PG_REQUEST_RETRIES=retries):
            response = send("/calls_what_writes/")
        assert (response.status_code, response.get("Retry-After")) == (503, None)
        assert names() == ["once"]
        Customer.objects.all().delete()
        runs.clear()
