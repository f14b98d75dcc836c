"""Threads and tasks beside a first attempt, and what must not run again."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from contextlib import suppress

import pytest
from asgiref.sync import sync_to_async
from django.db import Error, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path

from django_resilient_pg.decorators import not_replayable
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from testproject.shop.models import Customer
from tests.server.replay.sending import (
    add,
    joined,
    names,
    seen,
    send,
    send_async,
    views,
)
from tests.server.request_views import faults, lost_reads, runs

pytestmark = [pytest.mark.once_per_driver, pytest.mark.usefixtures("shop")]


async def grouped(request: HttpRequest) -> HttpResponse:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(sync_to_async(lost_reads)("grouped"))
    return HttpResponse(task.result())


@not_replayable
class Feed:
    def __call__(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(lost_reads("feed"))


class Feed2:
    @not_replayable
    def __call__(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(lost_reads("feed2"))


def commits_slowly_beside(request: HttpRequest) -> HttpResponse:
    """A thread of the request is in the middle of its COMMIT when the request fails."""
    began = threading.Event()

    def beside() -> None:
        connection = connections["default"]
        connection.force_debug_cursor = False
        with transaction.atomic():
            add("beside")
            with connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL DEFERRED")
            began.set()
        connections.close_all()

    thread = threading.Thread(target=contextvars.copy_context().run, args=[beside])
    thread.start()
    joined.append(thread)
    began.wait()
    time.sleep(0.2)  # it is in its COMMIT, for a second
    return HttpResponse(lost_reads("commits_slowly_beside"))


@not_replayable
def forbidden(request: HttpRequest) -> HttpResponse:
    seen.append("mail")
    return HttpResponse(lost_reads("forbidden"))


def test_a_loss_in_a_task_group() -> None:
    response = send_async("/grouped/")
    assert (response.status_code, runs) == (200, ["grouped"] * 2)


@pytest.mark.parametrize("url", ["feed", "feed2"])
def test_the_mark_of_a_class_whose_instance_is_the_view(url: str) -> None:
    assert send(f"/{url}/").status_code == 500
    assert runs == [url]


def test_a_coroutine_function_is_refused() -> None:
    ran: list[bool] = []

    with pytest.raises((TypeError, RuntimeError)):

        @retry_atomic
        async def work() -> None:
            ran.append(connections["default"].in_atomic_block)

        asyncio.run(work())
    assert ran != [False]


@override_settings(RESILIENT_PG_UNAVAILABLE_RESPONSE=True)
def test_nobody_is_invited_to_do_again_what_must_not_be_done_again() -> None:
    response = send("/forbidden/")
    assert response.status_code == 503
    assert "Retry-After" not in response


@override_settings(RESILIENT_PG_UNAVAILABLE_RESPONSE=True)
def test_nobody_is_invited_while_a_commit_is_under_way(server: Server) -> None:
    server.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;"
        " CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON shop_customer"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
        database="project",
    )
    try:
        response = send("/commits_slowly_beside/")
        for thread in joined:
            thread.join()
    finally:
        joined.clear()
        server.execute(
            "DROP TRIGGER slow ON shop_customer; DROP FUNCTION slow()", database="project"
        )
    assert (response.status_code, names()) == (503, ["beside"])
    assert "Retry-After" not in response


def test_threads_of_a_first_attempt_of_retry_atomic() -> None:
    """As those of a request: what they do later they must not do for both attempts."""
    go_on = threading.Event()

    def beside() -> None:
        go_on.wait()
        with suppress(Error):
            add("beside")
        connections.close_all()

    @retry_atomic
    def work() -> None:
        runs.append("work")
        thread = threading.Thread(target=contextvars.copy_context().run, args=[beside])
        thread.start()
        joined.append(thread)
        Customer.objects.count()
        if len(runs) == 1:
            faults["kill"]()
        Customer.objects.count()

    try:
        work()
    finally:
        go_on.set()
        for thread in joined:
            thread.join()
        joined.clear()
    assert (runs, names()) == (["work"] * 2, ["beside"])


urlpatterns = [
    *views(grouped, commits_slowly_beside, forbidden),
    path("feed/", Feed()),
    path("feed2/", Feed2()),
]
