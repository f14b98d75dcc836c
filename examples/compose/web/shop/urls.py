"""One page that reads the database, and one that does not."""

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path


def live(request: HttpRequest) -> HttpResponse:
    """Whether this process answers. It must not ask the database: see docs/operations.rst."""
    return HttpResponse("live")


def clock(request: HttpRequest) -> HttpResponse:
    """What the time is at the server: a read, which is retried."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        (now,) = cursor.fetchone()
    return HttpResponse(f"{now:%H:%M:%S}", content_type="text/plain")


urlpatterns = [path("", clock), path("live/", live)]
