"""What requests and ``retry_atomic`` may meet on their way: nothing is done twice or lost."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.core.files.storage import FileSystemStorage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.db import Error, IntegrityError, close_old_connections, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path

from django_resilient_pg.decorators import not_replayable, replayable
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from testproject.shop.models import Customer, Order
from tests.engines import DRIVER, RESILIENT, STOCK, Connections, backend_pid
from tests.server.request_views import SECOND, faults, lose, lost_reads, runs
from tests.server.test_middleware import (
    OURS,
    TEMPLATES,
    engine,
    forget_connection,
    send,
    send_async,
)

pytestmark = pytest.mark.once_per_driver

seen: list[object] = []
folder: list[Any] = []
locks: list[Callable[[], object]] = []
joined: list[threading.Thread] = []


def add(name: str, using: str = "default") -> None:
    Customer.objects.using(using).create(name=name, email=f"{uuid.uuid4()}@example.com")


def names() -> list[str]:
    return sorted(Customer.objects.values_list("name", flat=True))


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


def loads_order(get_response: Any) -> Any:
    """A middleware above: gives the request what its view works on."""

    def middleware(request: HttpRequest) -> Any:
        vars(request)["order"] = Order.objects.first()
        vars(request)["prefs"] = {"visits": {"home": 1}}
        return get_response(request)

    return middleware


@replayable
def related(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        customer = vars(request)["order"].customer  # remembered by the order from now on
        customer.name += "+1"
        customer.save()
        lose("related")
        Customer.objects.count()
    return HttpResponse(customer.name)


def nested(request: HttpRequest) -> HttpResponse:
    vars(request)["prefs"]["visits"]["home"] += 1
    lost_reads("nested")
    return HttpResponse(str(vars(request)["prefs"]["visits"]["home"]))


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


def posts_then_shows(request: HttpRequest) -> HttpResponse:
    seen.append("charged")  # outside of the database
    request.method = "GET"  # and on to the view that shows it
    return HttpResponse(lost_reads("posts_then_shows"))


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


def reads_post_at_once(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> Any:
        request.POST.get("x")
        return get_response(request)

    return middleware


def reads_body_and_post_at_once(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> Any:
        request.body  # noqa: B018
        request.POST.get("x")
        return get_response(request)

    return middleware


@replayable
def stores(request: HttpRequest) -> HttpResponse:
    file: Any = request.FILES["file"]
    FileSystemStorage(folder[0]).save("f", file)  # moves it there
    lost_reads("stores")
    return HttpResponse("stored")


@replayable
def closes(request: HttpRequest) -> HttpResponse:
    sent: Any = request.FILES["file"]
    with sent as file:
        text = file.read().decode()
    lost_reads("closes")
    return HttpResponse(text)


def sets_elsewhere(request: HttpRequest) -> HttpResponse:
    with connections[SECOND].cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        seen.append(cursor.fetchone()[0])
        cursor.execute("SET statement_timeout = '9s'")
    return HttpResponse(lost_reads("sets_elsewhere"))


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


def copies_out(request: HttpRequest) -> HttpResponse:
    with transaction.atomic(), connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")
        lose("copies_out")
        sql = "COPY shop_customer TO STDOUT"
        if DRIVER == "psycopg":
            with cursor.copy(sql) as copy:
                return HttpResponse(b"".join(bytes(one) for one in copy))
        into = io.StringIO()
        cursor.copy_expert(sql, into)
        return HttpResponse(into.getvalue())


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


@replayable
def reads_no_body(request: HttpRequest) -> HttpResponse:
    return HttpResponse("done")


@not_replayable
def forbidden(request: HttpRequest) -> HttpResponse:
    seen.append("mail")
    return HttpResponse(lost_reads("forbidden"))


urlpatterns = [
    *(
        path(f"{view.__name__}/", view)
        for view in (
            caching, related, nested, plain_reads, posts_then_shows, grouped,
            driver_commits, copied_connection, nodb, stores, closes, sets_elsewhere,
            forbidden, commits_slowly_beside, copies_out, handles_a_conflict,
            handles_a_conflict_2, reads_no_body,
        )
    ),
    path("feed/", Feed()),
    path("feed2/", Feed2()),
]  # fmt: skip


@pytest.fixture(autouse=True)
def shop(project: str, server: Server, tmp_path: Any) -> Iterator[None]:
    runs.clear()
    seen.clear()
    faults["kill"] = lambda: server.terminate(backend_pid(connections[project]))
    folder[:] = [tmp_path]
    with override_settings(
        ROOT_URLCONF=__name__, MIDDLEWARE=[OURS], ALLOWED_HOSTS=["testserver"], TEMPLATES=TEMPLATES
    ):
        yield


@pytest.fixture
def atomic_requests() -> Iterator[None]:
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    yield
    connections.settings["default"]["ATOMIC_REQUESTS"] = False


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
    database_cache: None, atomic_requests: None
) -> None:
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


def test_what_a_model_instance_of_the_request_remembers_is_put_back() -> None:
    Order.objects.create(customer=Customer.objects.create(name="joe", email="joe@example.com"))
    with override_settings(MIDDLEWARE=[f"{__name__}.loads_order", OURS]):
        response = send("/related/", "post")
    assert runs == ["related"] * 2
    assert (response.content, names()) == (b"joe+1", ["joe+1"])


def test_what_containers_in_containers_hold_is_put_back() -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.loads_order", OURS]):
        response = send("/nested/")
    assert (runs, response.content) == (["nested"] * 2, b"2")


@pytest.mark.parametrize("name", [RESILIENT, STOCK])
@pytest.mark.parametrize("above", ["in_a_manual_transaction", "in_a_begin"])
def test_what_a_middleware_above_wrote_in_its_transaction_is_not_lost_silently(
    above: str, name: str
) -> None:
    with engine(name), override_settings(MIDDLEWARE=[f"{__name__}.{above}", OURS]):
        response = send("/plain_reads/")
        connections["default"].close()
        assert response.status_code == 500 or names() == ["audit"]


def test_a_post_stays_a_post() -> None:
    assert send("/posts_then_shows/", "post").status_code == 500
    assert seen == ["charged"]


def test_a_loss_in_a_task_group() -> None:
    response = send_async("/grouped/")
    assert (response.status_code, runs) == (200, ["grouped"] * 2)


@pytest.mark.parametrize("url", ["feed", "feed2"])
def test_the_mark_of_a_class_whose_instance_is_the_view(url: str) -> None:
    assert send(f"/{url}/").status_code == 500
    assert runs == [url]


def test_a_commit_of_the_driver_counts_also_if_nothing_follows(
    make_connection: Connections, server: Server
) -> None:
    other = make_connection(RESILIENT, alias=SECOND, database="project", CONN_MAX_AGE=60)
    faults["kill"] = lambda: server.terminate(backend_pid(other))
    response = send("/driver_commits/")
    assert (response.status_code, runs, names()) == (500, ["driver_commits"], ["once"])


@pytest.mark.parametrize("url", ["copied_connection", "nodb"])
def test_a_connection_of_no_alias(url: str, reported: list[Any]) -> None:
    response = send(f"/{url}/")
    assert response.status_code == 200 or isinstance(response.exc_info[1], Error)


@pytest.fixture
def reported() -> list[Any]:
    return []


@override_settings(FILE_UPLOAD_MAX_MEMORY_SIZE=1)
def test_a_file_that_was_moved(caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.reads_post_at_once", OURS]):
        response = send("/stores/", "post", {"file": SimpleUploadedFile("f", b"joe")})
    assert response.status_code == 200 or isinstance(response.exc_info[1], Error)


def test_a_file_that_was_closed() -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.reads_body_and_post_at_once", OURS]):
        response = send("/closes/", "post", {"file": SimpleUploadedFile("f", b"joe")})
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


def test_a_loss_within_copy_is_a_loss() -> None:
    response = send("/copies_out/")
    assert (response.status_code, runs) == (200, ["copies_out"] * 2)


def test_a_loss_within_copy_says_why() -> None:
    response = send("/copies_out/")
    if response.status_code != 200:
        assert getattr(response.exc_info[1], "__notes__", [])
        assert vars(connections["default"])["resilience"].stats.lost


def test_a_loss_before_a_savepoint_is_rolled_back_to_is_a_loss() -> None:
    response = send("/handles_a_conflict/")
    assert runs == ["handles_a_conflict"] * 2
    assert response.status_code == 200


@pytest.mark.parametrize("middleware", [[], [OURS]])
def test_a_body_that_nobody_reads(middleware: list[str]) -> None:
    class Gone(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError("the client has gone")

    from django.core.handlers.wsgi import WSGIHandler, WSGIRequest

    with override_settings(MIDDLEWARE=middleware):
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/reads_no_body/",
            "CONTENT_LENGTH": "5",
            "SERVER_NAME": "testserver",
            "SERVER_PORT": "80",
            "wsgi.input": Gone(),
            "wsgi.url_scheme": "http",
        }
        response = WSGIHandler().get_response(WSGIRequest(environ))
    assert response.status_code == 200


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


def sets_a_tenant(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> Any:
        with connections["default"].cursor() as cursor:
            cursor.execute("SET app.tenant = 'a'")
        return get_response(request)

    return middleware


def tenant() -> object:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT current_setting('app.tenant', true)")
        return cursor.fetchone()[0]


def closes_on_its_way(request: HttpRequest) -> HttpResponse:
    seen.append(tenant())
    connections["default"].close()  # something slow follows that needs no connection
    return HttpResponse(lost_reads("closes_on_its_way"))


def closes_old_on_its_way(request: HttpRequest) -> HttpResponse:
    seen.append(tenant())
    close_old_connections()
    return HttpResponse(lost_reads("closes_old_on_its_way"))


@pytest.fixture
def default_age() -> Iterator[None]:
    """CONN_MAX_AGE as Django has it by default."""
    connections.settings["default"]["CONN_MAX_AGE"] = 0
    forget_connection()
    yield
    forget_connection()
    connections.settings["default"]["CONN_MAX_AGE"] = 60


@pytest.mark.parametrize("url", ["closes_on_its_way", "closes_old_on_its_way"])
def test_the_second_attempt_has_the_tenant_of_the_first(url: str, default_age: None) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.sets_a_tenant", OURS]):
        response = send(f"/{url}/")
    assert response.status_code == 500 or seen == ["a", "a"]


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


def plain_atomic(request: HttpRequest) -> HttpResponse:
    return HttpResponse(lost_reads("plain_atomic"))


def test_a_lock_on_a_connection_that_lives_is_kept(
    make_connection: Connections, server: Server
) -> None:
    make_connection(RESILIENT, alias=SECOND, database="project")  # CONN_MAX_AGE is 0
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"
    locks[:] = [lambda: server.execute(held)[0][0]]
    with override_settings(MIDDLEWARE=[f"{__name__}.locks_elsewhere", OURS]):
        response = send("/is_locked/")
    assert response.status_code == 500 or seen == [1, 1]


urlpatterns += [
    path(f"{view.__name__}/", view)
    for view in (closes_on_its_way, closes_old_on_its_way, plain_atomic, is_locked)
]


def asks_twice(get_response: Any) -> Any:
    """Another middleware that repeats requests."""

    def middleware(request: HttpRequest) -> Any:
        response = get_response(request)
        return get_response(request) if response.status_code >= 500 else response

    return middleware


@replayable
def fails_then_loses(request: HttpRequest) -> HttpResponse:
    runs.append("fails")
    if len(runs) == 1:
        raise ValueError
    with transaction.atomic():
        add("ordered")
        lose("fails_then_loses")
        Customer.objects.count()
    return HttpResponse("ordered")


urlpatterns += [path("fails_then_loses/", fails_then_loses)]


def test_a_request_that_comes_twice() -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.asks_twice", OURS]):
        response = send("/fails_then_loses/", "post")
    assert response.status_code == 500 or (response.content, names()) == (b"ordered", ["ordered"])


@replayable
def appends(request: HttpRequest) -> HttpResponse:
    form: Any = request.POST
    form._mutable = True
    form.appendlist("name", "added")
    request.FILES.pop("file", None)
    lost_reads("appends")
    return HttpResponse(repr(request.POST.getlist("name")))


@replayable
def sub_request(request: HttpRequest) -> HttpResponse:
    """A batch endpoint that hands its own request on to another handler, as a copy."""
    from django.core.handlers.wsgi import WSGIHandler

    inner = copy.copy(request)
    inner.path_info = "/plain_atomic/"
    answer: Any = WSGIHandler().get_response(inner)
    seen.append((answer.status_code, answer.content))
    return HttpResponse(answer.content)


urlpatterns += [path(f"{view.__name__}/", view) for view in (appends, sub_request)]


def test_a_form_that_the_view_has_changed() -> None:
    with override_settings(MIDDLEWARE=["tests.server.request_middleware.reads_post", OURS]):
        response = send(
            "/appends/", "post", {"name": "joe", "file": SimpleUploadedFile("f", b"joe")}
        )
    assert response.status_code == 500 or response.content == b"['joe', 'added']"


def test_a_copy_of_the_request_may_be_handled_by_its_view() -> None:
    response = send("/sub_request/")
    assert (response.status_code, response.content) == (200, b"0"), seen


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


urlpatterns += [path("fails_by_itself/", fails_by_itself)]


@override_settings(RESILIENT_PG_UNAVAILABLE_RESPONSE=True)
def test_a_loss_that_was_there_before_is_none_of_the_request() -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.makes_good", OURS]):
        response = send("/fails_by_itself/")
    assert (response.status_code, seen) == (500, ["mail"])
