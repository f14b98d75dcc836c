"""A project that has the app, and no PostgreSQL where it is tested: no driver either."""

from __future__ import annotations

import pytest

from tests.children import python

PROJECT = """
import sys, types
sys.modules["psycopg"] = sys.modules["psycopg2"] = None
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django_resilient_pg"],
    MIDDLEWARE=["django_resilient_pg.middleware.RequestRetryMiddleware"],
    ROOT_URLCONF="urls", ALLOWED_HOSTS=["*"], SECRET_KEY="x",
)
import django
django.setup()
from django.http import HttpResponse
from django.urls import path
urls = sys.modules["urls"] = types.ModuleType("urls")
urls.urlpatterns = [path("", lambda request: HttpResponse("served"))]
"""


@pytest.mark.parametrize(
    "use",
    [
        "from django.core.management import call_command; call_command('check')",
        "from django.test import Client; assert Client().get('/').content == b'served'",
        "from django_resilient_pg.transaction import retry_atomic; retry_atomic(lambda: None)",
        "from django_resilient_pg import errors, signals",
    ],
)
def test_it_works(use: str) -> None:
    done = python("-c", PROJECT + use)
    assert done.returncode == 0, done.stderr
