"""Who asks: a header says so, in place of a login."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from django.db import connections
from django.http import HttpRequest, HttpResponseBase

USERS = {
    "staff": SimpleNamespace(is_active=True, is_staff=True),
    "customer": SimpleNamespace(is_active=True, is_staff=False),
    "left": SimpleNamespace(is_active=False, is_staff=True),
}


class _InTheDatabase:
    """A user whose session is in a database, as Django's are."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    @property
    def is_active(self) -> bool:
        with connections[self._alias].cursor() as cursor:
            cursor.execute("SELECT true")
            return bool(cursor.fetchone()[0])

    is_staff = True


def user(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    def respond(request: HttpRequest) -> HttpResponseBase:
        who = request.headers.get("X-User", "")
        if who:
            request.user = USERS.get(who) or _InTheDatabase(who)  # type: ignore[assignment]
        return get_response(request)

    return respond
