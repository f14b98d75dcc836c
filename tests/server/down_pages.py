"""Pages of a site whose database is down: see ``test_down``."""

from __future__ import annotations

from django.db import OperationalError, connections
from django.http import HttpRequest, HttpResponse
from django.urls import path


def select(alias: str) -> HttpResponse:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("1")


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("1")


def database(request: HttpRequest) -> HttpResponse:
    return select("default")


def either(request: HttpRequest) -> HttpResponse:
    try:
        return select("default")
    except OperationalError:
        return select("fallback")


urlpatterns = [
    path("plain/", plain),
    path("live/", plain),
    path("database/", database),
    path("either/", either),
]
