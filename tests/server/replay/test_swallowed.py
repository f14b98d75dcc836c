"""A loss that somebody swallowed: what is gone is not reported as done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.db import Error, IntegrityError, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import override_settings

from django_resilient_pg.decorators import replayable
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from testproject.shop.models import Customer
from tests.engines import copy_out
from tests.server.replay.sending import (
    add,
    atomic_requests,
    names,
    send,
    views,
)
from tests.server.request_views import faults, lose, runs

pytestmark = [pytest.mark.once_per_driver, pytest.mark.usefixtures("shop")]


def fails_or_leaves(name: str, work: Callable[[], object]) -> None:
    """Never a success without its row."""
    try:
        work()
    except Error:
        return
    assert name in names()


@replayable
def caching(request: HttpRequest) -> HttpResponse:
    """ATOMIC_REQUESTS; a cache in the database passes over errors of its own inner block."""
    add("ordered")
    kill_inside_cache("caching")
    cache.set("key", "value")
    return HttpResponse("ordered")


def kill_inside_cache(name: str) -> None:
    """As soon as the inner block of cache.set() has its savepoint."""
    runs.append(name)
    if runs.count(name) > 1:
        return
    connection = connections["default"]

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("SELECT") and "expires" in sql and "cache_key" in sql:
            connection.execute_wrappers.remove(wrapper)
            faults["kill"]()
        return execute(sql, params, many, context)

    connection.execute_wrappers.append(wrapper)


def copies_out(request: HttpRequest) -> HttpResponse:
    with transaction.atomic(), connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")
        lose("copies_out")
        return HttpResponse(copy_out(cursor, "COPY shop_customer TO STDOUT"))


def handles_a_conflict(request: HttpRequest) -> HttpResponse:
    """As get_or_create() does; the connection dies before the savepoint is rolled back to."""
    with transaction.atomic():
        try:
            with transaction.atomic():
                try:
                    with connections["default"].cursor() as cursor:
                        cursor.execute("INSERT INTO shop_customer (name, email) VALUES (NULL, 'a')")
                except IntegrityError:
                    lose("handles_a_conflict")
                    raise
        except IntegrityError:
            return HttpResponse(str(Customer.objects.count()))
    return HttpResponse("never")


def handles_a_conflict_2(request: HttpRequest) -> HttpResponse:
    """The same, and the view goes on after it."""
    with transaction.atomic():
        Customer.objects.count()
        with suppress(ValueError), transaction.atomic():
            lose("handles_a_conflict_2")
            if len(runs) == 1:
                raise ValueError
        return HttpResponse(str(Customer.objects.count()))


DATABASE_CACHE = {
    "default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cached"}
}


@pytest.fixture
def database_cache() -> Iterator[None]:
    with override_settings(CACHES=DATABASE_CACHE):
        call_command("createcachetable")
        yield
        with connections["default"].cursor() as cursor:
            cursor.execute("DROP TABLE cached")


def test_a_request_whose_loss_an_inner_block_swallowed_is_not_answered_as_done(
    database_cache: None,
) -> None:
    with atomic_requests():
        response = send("/caching/", "post")
    assert response.status_code == 500 or names() == ["ordered"]


def test_retry_atomic_does_not_return_from_a_transaction_that_is_gone(server: Server) -> None:
    @retry_atomic
    def work() -> str:
        runs.append("work")
        add("ordered")
        with suppress(Error), transaction.atomic():
            if len(runs) == 1:
                faults["kill"]()
            add("extra")
        return "done"

    fails_or_leaves("ordered", work)


def test_atomic_raises_at_its_end(server: Server) -> None:
    with pytest.raises(Error), transaction.atomic():
        add("ordered")
        with suppress(Error), transaction.atomic():
            faults["kill"]()
            add("extra")


def test_wrapped_in_retry_atomic() -> None:
    class Mine(Exception):
        pass

    @retry_atomic
    def work() -> None:
        runs.append("work")
        try:
            add("once")
            if len(runs) == 1:
                faults["kill"]()
            Customer.objects.count()
        except Error as error:
            raise Mine from error

    work()
    assert names() == ["once"]


def test_a_loss_within_copy_is_a_loss() -> None:
    response = send("/copies_out/")
    assert (response.status_code, runs) == (200, ["copies_out"] * 2)


def test_a_loss_before_a_savepoint_is_rolled_back_to_is_a_loss() -> None:
    response = send("/handles_a_conflict/")
    assert runs == ["handles_a_conflict"] * 2
    assert response.status_code == 200


def test_what_follows_a_savepoint_that_was_lost_is_a_loss() -> None:
    response = send("/handles_a_conflict_2/")
    assert runs == ["handles_a_conflict_2"] * 2
    assert response.status_code == 200


def test_a_loss_met_at_the_savepoint(server: Server) -> None:
    """The inner block fails for a reason of its own; its savepoint is gone with the connection."""
    with pytest.raises(Error), transaction.atomic():
        add("ordered")
        with suppress(ValueError), transaction.atomic():
            faults["kill"]()
            raise ValueError


def test_retry_atomic_runs_again_what_swallowed_a_loss(server: Server) -> None:
    hooks: list[int] = []

    @retry_atomic
    def work() -> str:
        runs.append("work")
        add("ordered")
        transaction.on_commit(lambda: hooks.append(1))
        with suppress(ValueError), transaction.atomic():
            if len(runs) == 1:
                faults["kill"]()
            raise ValueError
        return "done"

    assert work() == "done"
    assert (runs, names(), hooks) == (["work"] * 2, ["ordered"], [1])


@pytest.mark.parametrize("how", ["save", "delete", "savepoint=False"])
def test_swallowed_where_django_marks_for_rollback(how: str, server: Server) -> None:
    """No inner block of the application: save() and delete() mark the transaction themselves."""
    extra = Customer.objects.create(name="extra", email="extra@example.com")

    @retry_atomic
    def work() -> str:
        runs.append("work")
        add("ordered")
        if len(runs) == 1:
            faults["kill"]()
        with suppress(Error):
            if how == "save":
                extra.save()
            elif how == "delete":
                Customer.objects.filter(name="nobody").delete()
                extra.delete()
            else:
                with transaction.atomic(savepoint=False):
                    Customer.objects.count()
        return "done"

    fails_or_leaves("ordered", work)


urlpatterns = views(caching, copies_out, handles_a_conflict, handles_a_conflict_2)
