"""What was replaced before this engine was imported takes effect as on Django's engine."""

from __future__ import annotations

import json

import pytest

from testproject.postgres import Server
from tests.children import python
from tests.engines import RESILIENT, STOCK

BEFORE = """
import json, os
from django.conf import settings
from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper
from pytest_django.plugin import DjangoDbBlocker

entry = json.loads(os.environ["PATCHED_DATABASE"])
settings.configure(DATABASES={"default": entry}, USE_TZ=True)
told = []


class Forbidden(Exception):
    pass


def tell(name, use):
    try:
        use()
    except (Forbidden, RuntimeError) as error:
        told.append([name, type(error).__name__])
    else:
        told.append([name, "passed"])


def execute():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def forbid(*_, **__):
    raise Forbidden


def record(self, sql, params, *rest):
    told.append(["_execute", sql])
    return original(self, sql, params, *rest)
"""
GUARD = """
blocker = DjangoDbBlocker(_ispytest=True)
blocker.block()

import django
django.setup()
from django.db import connection

tell("closed", execute)
with blocker.unblock():
    tell("unblocked", execute)
tell("open", execute)
tell("autocommit", connection.get_autocommit)
"""
RECORDER = """
original = utils.CursorWrapper._execute
utils.CursorWrapper._execute = record

from django.db import connection

tell("recorded", execute)
utils.CursorWrapper._execute = original
tell("restored", execute)
utils.CursorWrapper._execute = forbid
tell("forbidden", execute)
"""
STAND_IN = """
class Other(utils.CursorWrapper):
    def _execute(self, sql, params, *rest):
        told.append(["_execute", sql])
        return super()._execute(sql, params, *rest)


utils.CursorWrapper = Other

from django.db import connection

tell("recorded", execute)
"""
BLOCKED = "RuntimeError"
TOLD = {
    GUARD: [
        ["closed", BLOCKED],
        ["unblocked", "passed"],
        ["open", BLOCKED],
        ["autocommit", BLOCKED],
    ],
    RECORDER: [
        ["_execute", "SELECT 1"],
        ["recorded", "passed"],
        ["restored", "passed"],
        ["forbidden", "Forbidden"],
    ],
    STAND_IN: [["_execute", "SELECT 1"], ["recorded", "passed"]],
}


@pytest.mark.parametrize("patch", TOLD, ids=["guard", "recorder", "class"])
@pytest.mark.parametrize("engine", [STOCK, RESILIENT], ids=["stock", "resilient"])
def test_before_the_engine_is_imported(engine: str, patch: str, server: Server) -> None:
    """Nor must the engine take what it finds then for Django's own."""
    entry = server.database("app", engine=engine)
    script = f"{BEFORE}{patch}print(json.dumps(told))"
    environ = {"DJANGO_SETTINGS_MODULE": "", "PATCHED_DATABASE": json.dumps(entry)}
    answer = python("-c", script, environ=environ)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == TOLD[patch]
