"""Transactions and connections that are not of the request, or that only the driver has seen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.db import Error, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import override_settings

from django_resilient_pg.decorators import replayable
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from testproject.shop.models import Customer
from tests.engines import OURS, RESILIENT, STOCK, Connections, backend_pid
from tests.server.replay.sending import (
    add,
    engine,
    names,
    plain_atomic,
    seen,
    send,
    views,
)
from tests.server.request_views import SECOND, faults, lose, lost_reads, runs

pytestmark = [pytest.mark.once_per_driver, pytest.mark.usefixtures("shop")]
locks: list[Callable[[], object]] = []


def in_a_manual_transaction(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> Any:
        transaction.set_autocommit(False)
        try:
            add("audit")
            response = get_response(request)
            transaction.commit()
        except BaseException:
            transaction.rollback()
            raise
        finally:
            transaction.set_autocommit(True)
        return response

    return middleware


def in_a_begin(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> Any:
        with connections["default"].cursor() as cursor:
            cursor.execute("BEGIN")
        add("audit")
        response = get_response(request)
        with connections["default"].cursor() as cursor:
            cursor.execute("COMMIT")
        return response

    return middleware


def plain_reads(request: HttpRequest) -> HttpResponse:
    Customer.objects.count()
    lose("plain_reads")
    return HttpResponse(str(Customer.objects.count()))


def driver_commits(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        add("once")
        connections["default"].connection.commit()
        with transaction.atomic(using=SECOND):
            Customer.objects.using(SECOND).count()
            lose("driver_commits")
            Customer.objects.using(SECOND).count()
    return HttpResponse("done")


def copied_connection(request: HttpRequest) -> HttpResponse:
    copy = connections["default"].copy(alias="my copy")
    with copy.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM shop_customer")
    copy.close()
    return HttpResponse(lost_reads("copied_connection"))


def nodb(request: HttpRequest) -> HttpResponse:
    with connections["default"]._nodb_cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class")
    return HttpResponse(lost_reads("nodb"))


def sets_elsewhere(request: HttpRequest) -> HttpResponse:
    with connections[SECOND].cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        seen.append(cursor.fetchone()[0])
        cursor.execute("SET statement_timeout = '9s'")
    return HttpResponse(lost_reads("sets_elsewhere"))


@pytest.mark.parametrize("name", [RESILIENT, STOCK])
@pytest.mark.parametrize("above", ["in_a_manual_transaction", "in_a_begin"])
def test_what_a_middleware_above_wrote_in_its_transaction_is_not_lost_silently(
    above: str, name: str
) -> None:
    with engine(name), override_settings(MIDDLEWARE=[f"{__name__}.{above}", OURS]):
        response = send("/plain_reads/")
        connections["default"].close()
        assert response.status_code == 500 or names() == ["audit"]


def test_a_commit_of_the_driver_counts_also_if_nothing_follows(
    make_connection: Connections, server: Server
) -> None:
    other = make_connection(RESILIENT, alias=SECOND, database="project", CONN_MAX_AGE=60)
    faults["kill"] = lambda: server.terminate(backend_pid(other))
    response = send("/driver_commits/")
    assert (response.status_code, runs, names()) == (500, ["driver_commits"], ["once"])


@pytest.mark.parametrize("url", ["copied_connection", "nodb"])
def test_a_connection_of_no_alias(url: str) -> None:
    response = send(f"/{url}/")
    assert response.status_code == 200 or isinstance(response.exc_info[1], Error)


@pytest.mark.psycopg3
@pytest.mark.parametrize("pool", [False, True])
def test_what_was_set_elsewhere_is_not_set_for_the_second_attempt(
    make_connection: Connections, pool: bool
) -> None:
    options = {"pool": {"min_size": 1, "max_size": 1}} if pool else {}
    made = make_connection(RESILIENT, alias=SECOND, database="project", options=options)
    try:
        assert send("/sets_elsewhere/").status_code == 200
    finally:
        made.close()
    assert seen == ["0", "0"]


def test_a_commit_of_the_driver_under_retry_atomic(
    make_connection: Connections, server: Server
) -> None:
    other = make_connection(RESILIENT, alias=SECOND, database="project", CONN_MAX_AGE=60)

    @retry_atomic
    def work() -> None:
        runs.append("work")
        add("once")
        connections["default"].connection.commit()
        with transaction.atomic(using=SECOND):
            Customer.objects.using(SECOND).count()
            if len(runs) == 1:
                server.terminate(backend_pid(other))
            Customer.objects.using(SECOND).count()

    with suppress(Error):
        work()
    assert names() == ["once"]


def manually_elsewhere(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> Any:
        transaction.set_autocommit(False, using=SECOND)
        try:
            add("audit", SECOND)
            response = get_response(request)
            transaction.commit(using=SECOND)
        finally:
            transaction.set_autocommit(True, using=SECOND)
        return response

    return middleware


def locks_elsewhere(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> Any:
        with connections[SECOND].cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(4711)")
        response = get_response(request)
        connections[SECOND].close()
        return response

    return middleware


def is_locked(request: HttpRequest) -> HttpResponse:
    seen.append(locks[0]())
    return HttpResponse(lost_reads("is_locked"))


@pytest.mark.parametrize("ours", [[], [OURS]])
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_transaction_on_a_connection_that_lives_is_not_given_up(
    ours: list[str], method: str, make_connection: Connections
) -> None:
    """Begun by a middleware above, on an alias that was not lost."""
    make_connection(RESILIENT, alias=SECOND, database="project")
    with override_settings(MIDDLEWARE=[f"{__name__}.manually_elsewhere", *ours]):
        send("/plain_atomic/", method)
    assert names() == ["audit"]


def test_a_lock_on_a_connection_that_lives_is_kept(
    make_connection: Connections, server: Server
) -> None:
    make_connection(RESILIENT, alias=SECOND, database="project")  # CONN_MAX_AGE is 0
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"
    locks[:] = [lambda: server.execute(held)[0][0]]
    with override_settings(MIDDLEWARE=[f"{__name__}.locks_elsewhere", OURS]):
        response = send("/is_locked/")
    assert response.status_code == 500 or seen == [1, 1]


def makes_good(get_response: Any) -> Any:
    """A middleware that meets a loss of its own, and handles the request where it handles that."""

    def middleware(request: HttpRequest) -> Any:
        try:
            lost_reads("makes_good")
        except Error:
            return get_response(request)
        raise AssertionError

    return middleware


@replayable
def fails_by_itself(request: HttpRequest) -> HttpResponse:
    seen.append("mail")
    raise ValueError


@override_settings(RESILIENT_PG_UNAVAILABLE_RESPONSE=True)
def test_a_loss_that_was_there_before_is_none_of_the_request() -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.makes_good", OURS]):
        response = send("/fails_by_itself/")
    assert (response.status_code, seen) == (500, ["mail"])


urlpatterns = views(
    plain_reads,
    driver_commits,
    copied_connection,
    nodb,
    sets_elsewhere,
    is_locked,
    fails_by_itself,
    plain_atomic,
)
