"""A table in which each row shall stand once, and the ways to write there and to be lost."""

from __future__ import annotations

from collections.abc import Callable

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg.decorators import replayable
from testproject.postgres import Server
from tests.engines import OURS, run, values

Kill = Callable[[BaseDatabaseWrapper], int]
TABLE = "once"
CONFLICT = "DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$"
ALIASES = ("first", "second")


def rows(server: Server) -> list[str]:
    return values(server, TABLE)


def insert(connection: BaseDatabaseWrapper, value: str) -> None:
    run(connection, f"INSERT INTO {TABLE} VALUES ('{value}')")


def lose(connection: BaseDatabaseWrapper, kill: Kill) -> None:
    """Lose a transaction in its middle."""
    with transaction.atomic(using=connection.alias):
        run(connection, "SELECT 1")
        kill(connection)
        run(connection, "SELECT 1")


actions: dict[str, Callable[[], None]] = {}


@replayable
def act(request: HttpRequest) -> HttpResponse:
    actions["do"]()
    return HttpResponse("done")


urlpatterns = [path("act/", act)]


def post(do: Callable[[], None]) -> int:
    actions["do"] = do
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[OURS], ALLOWED_HOSTS=["*"]):
        return Client(raise_request_exception=False).post("/act/").status_code


def lose_now(connection: BaseDatabaseWrapper, kill: Kill) -> None:
    """Lose the transaction under way."""
    kill(connection)
    run(connection, "SELECT 1")
