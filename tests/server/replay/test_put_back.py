"""The second attempt finds the request as the first one had found it, or there is none."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import Error, close_old_connections, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import override_settings

from django_resilient_pg.decorators import replayable
from testproject.shop.models import Customer, Order
from tests.engines import OURS
from tests.server.replay.sending import (
    add,
    forget_connection,
    names,
    plain_atomic,
    seen,
    send,
    views,
)
from tests.server.request_views import lose, lost_reads, runs

pytestmark = [pytest.mark.once_per_driver, pytest.mark.usefixtures("shop")]
folder: list[Path] = []


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


def posts_then_shows(request: HttpRequest) -> HttpResponse:
    seen.append("charged")  # outside of the database
    request.method = "GET"  # and on to the view that shows it
    return HttpResponse(lost_reads("posts_then_shows"))


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


@replayable
def reads_no_body(request: HttpRequest) -> HttpResponse:
    return HttpResponse("done")


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


def test_a_post_stays_a_post() -> None:
    assert send("/posts_then_shows/", "post").status_code == 500
    assert seen == ["charged"]


@override_settings(FILE_UPLOAD_MAX_MEMORY_SIZE=1)
def test_a_file_that_was_moved(tmp_path: Path) -> None:
    folder[:] = [tmp_path]
    with override_settings(MIDDLEWARE=[f"{__name__}.reads_post_at_once", OURS]):
        response = send("/stores/", "post", {"file": SimpleUploadedFile("f", b"joe")})
    assert response.status_code == 200 or isinstance(response.exc_info[1], Error)


def test_a_file_that_was_closed() -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.reads_body_and_post_at_once", OURS]):
        response = send("/closes/", "post", {"file": SimpleUploadedFile("f", b"joe")})
    assert response.status_code == 200 or isinstance(response.exc_info[1], Error)


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


def test_a_form_that_the_view_has_changed() -> None:
    with override_settings(MIDDLEWARE=["tests.server.request_middleware.reads_post", OURS]):
        response = send(
            "/appends/", "post", {"name": "joe", "file": SimpleUploadedFile("f", b"joe")}
        )
    assert response.status_code == 500 or response.content == b"['joe', 'added']"


def test_a_copy_of_the_request_may_be_handled_by_its_view() -> None:
    response = send("/sub_request/")
    assert (response.status_code, response.content) == (200, b"0"), seen


urlpatterns = views(
    related,
    nested,
    posts_then_shows,
    stores,
    closes,
    reads_no_body,
    closes_on_its_way,
    closes_old_on_its_way,
    fails_then_loses,
    appends,
    sub_request,
    plain_atomic,
)
