"""What uWSGI serves in ``test_uwsgi``: its connections are opened before the workers are forked."""

from __future__ import annotations

import json
import os

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": json.loads(os.environ["UWSGI_DATABASE"])},
    INSTALLED_APPS=["django_resilient_pg"],
    MIDDLEWARE=[],
    ROOT_URLCONF=__name__,
)

from django.core.wsgi import get_wsgi_application  # noqa: E402  the settings first
from django.db import connection  # noqa: E402


def select(number: int) -> tuple[int, int]:
    """The process of the session, and the number as the server returns it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), %s", [number])
        backend, answer = cursor.fetchone()
    return backend, int(answer)


def page(request: HttpRequest, number: int) -> HttpResponse:
    backend, answer = select(number)
    return HttpResponse(json.dumps([os.getpid(), backend, answer]))


urlpatterns = [path("<int:number>/", page)]
application = get_wsgi_application()
INHERITED = select(0)
if settings.DATABASES["default"]["OPTIONS"].get("pool"):
    connection.close()  # back into the pool, which the workers inherit
