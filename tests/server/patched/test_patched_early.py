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
# What a loss between cursor() and the statement is to each kind of cursor, after the classes that
# stood in for Django's while the kind was made for the first time are Django's own again.
FIRST = """
from django.db.backends.postgresql import base


def standing_in(owner, name):
    found = getattr(owner, name)

    class Other(found):
        pass

    setattr(owner, name, Other)
    return lambda: setattr(owner, name, found)


restore = [standing_in(utils, "CursorWrapper"), standing_in(base, "CursorDebugWrapper")]
"""
LATE = """
from django.db import connection

connection.ensure_connection()
"""
LOST = """
from django.db import OperationalError, connection, connections


def lose():
    killer = connections.create_connection("default")
    with killer.cursor() as cursor:
        pid = connection.connection.info.backend_pid
        cursor.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])
    killer.close()


def use(make, debug, lost=False):
    connection.force_debug_cursor = debug
    with make() as cursor:
        if lost:
            lose()
        try:
            cursor.execute("SELECT 1")
        except OperationalError:
            told.append("lost")
        else:
            told.append(cursor.fetchone()[0])


connection.ensure_connection()
MAKES = (connection.cursor, connection.chunked_cursor)
KINDS = [(make, debug) for debug in (False, True) for make in MAKES]
for kind in KINDS:
    use(*kind)
for again in restore:
    again()
for kind in KINDS:
    use(*kind, lost=True)
    connection.close()
    connection.ensure_connection()
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


@pytest.mark.parametrize("imported", ["after", "before"])
@pytest.mark.parametrize("engine", [STOCK, RESILIENT], ids=["stock", "resilient"])
def test_before_a_kind_of_cursor_is_made(engine: str, imported: str, server: Server) -> None:
    """Whatever stood in for a class of Django's then: it heals when that is Django's again."""
    entry = server.database("app", engine=engine)
    first = f"{FIRST}{LATE}" if imported == "after" else f"{LATE}{FIRST}"
    script = f"{BEFORE}{first}{LOST}print(json.dumps(told))"
    environ = {"DJANGO_SETTINGS_MODULE": "", "PATCHED_DATABASE": json.dumps(entry)}
    answer = python("-c", script, environ=environ)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == [1] * 4 + ([1] if engine == RESILIENT else ["lost"]) * 4
