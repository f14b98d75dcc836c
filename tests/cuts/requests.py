"""A GET and a replayable POST through the middleware, as units of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg.decorators import replayable
from tests.cuts.units import Kind, Work, unit

MIDDLEWARE: Final = "django_resilient_pg.middleware.RequestRetryMiddleware"
#: What the view under way works with.
_works: list[Work] = []


def get(request: HttpRequest) -> HttpResponse:
    """Two reads."""
    work = _works[-1]
    work.run("SELECT 1")
    [(found,)] = work.run("SELECT 9")
    return HttpResponse(str(found))


@replayable
def post(request: HttpRequest) -> HttpResponse:
    """Two writes in one transaction."""
    work = _works[-1]
    with work.atomic():
        work.hook()
        work.insert(1)
        work.insert(2)
        work.mark()  # what is lost before COMMIT the middleware replays
    return HttpResponse("done")


urlpatterns = [path("get", get), path("post", post)]


@contextmanager
def routed() -> Iterator[None]:
    """Within it the test client finds these views behind the middleware."""
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[MIDDLEWARE], ALLOWED_HOSTS=["*"]):
        yield


def _ask(work: Work, method: str) -> Any:
    _works.append(work)
    try:
        # Not Django's own signals: they would close what the next statement is to find.
        response = getattr(Client(raise_request_exception=True), method)(f"/{method}")
        return response.status_code, response.content
    finally:
        _works.pop()


@unit(Kind.HEALED, answer=(200, b"9"))
def request_get(work: Work) -> Any:
    return _ask(work, "get")


@unit(Kind.TRANSACTION, answer=(200, b"done"), parts=(1, 2), hooks=1)
def request_post(work: Work) -> Any:
    return _ask(work, "post")
