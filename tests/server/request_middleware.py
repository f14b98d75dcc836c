"""Middlewares that stand above the one under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.functional import SimpleLazyObject

from testproject.shop.models import Customer

seen: list[str] = []
GetResponse = Callable[[HttpRequest], HttpResponse]


def reads_post(get_response: GetResponse) -> GetResponse:
    """As CSRF protection does: the form is parsed from the stream before the view."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    class Reading:
        def __call__(self, request: HttpRequest) -> HttpResponse:
            return middleware(request)

        def process_view(self, request: HttpRequest, *_: object) -> None:
            request.POST.get("csrfmiddlewaretoken")

    return Reading()


def begins_traces(get_response: GetResponse) -> GetResponse:
    """What a request has before its view."""

    def middleware(request: HttpRequest) -> HttpResponse:
        vars(request)["trail"] = ["middleware"]
        vars(request)["lazy"] = SimpleLazyObject(list)
        request.session.setdefault("visits", []).append("middleware")
        request.session.modified = True
        return get_response(request)

    return middleware


class Watching:
    """Which of its hooks are called."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        seen.append("response")
        return response

    def process_view(self, *_: object) -> None:
        seen.append("process_view")

    def process_template_response(self, request: HttpRequest, response: Any) -> Any:
        seen.append("process_template_response")
        return response

    def process_exception(self, *_: object) -> None:
        seen.append("process_exception")


def counts_after(get_response: GetResponse) -> GetResponse:
    """It uses the database on the way out."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["X-Customers"] = str(Customer.objects.count())
        return response

    return middleware


class _File:
    """Something that a response holds until it is closed."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        seen.append("opened")

    def __iter__(self) -> Iterator[bytes]:
        yield self.content

    def close(self) -> None:
        seen.append("closed")


def holds_a_file(get_response: GetResponse) -> Callable[[HttpRequest], HttpResponseBase]:
    """It answers with a stream of its own."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return StreamingHttpResponse(_File(get_response(request).content))

    return middleware
