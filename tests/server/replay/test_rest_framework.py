"""Requests that Django REST framework handles."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from tests.engines import STOCK
from tests.server import rest_views
from tests.server.replay.sending import atomic_requests, engine, names, send
from tests.server.request_views import runs

pytestmark = pytest.mark.usefixtures("shop")


@pytest.mark.parametrize("view", ["rest", "rest_set", "function"])
@pytest.mark.parametrize("atomic", [False, True])
def test_rest_reads_are_run_again(view: str, atomic: bool, reported: list[Any]) -> None:
    """DRF has no answer to an error of the database: it raises it again."""
    with override_settings(ROOT_URLCONF=rest_views.__name__):
        if atomic:
            with atomic_requests():
                response = send(f"/{view}/")
        else:
            response = send(f"/{view}/")
        assert (response.status_code, response.json()) == (200, "0")
        assert (runs, reported) == ([view] * 2, [])
        with engine(STOCK):
            runs.clear()
            assert send(f"/{view}/").status_code == 500


@pytest.mark.parametrize("view", ["rest", "rest_set"])
@pytest.mark.parametrize("content_type", ["application/json", None])
def test_rest_writes_that_are_marked(view: str, content_type: str | None) -> None:
    """The mark on a method counts, and both a JSON body and a form are there again."""
    more = {} if content_type is None else {"content_type": content_type}
    with override_settings(ROOT_URLCONF=rest_views.__name__):
        response = send(f"/{view}/", "post", {"name": "joe"}, **more)
    assert (response.status_code, response.json()) == (200, "joe")
    assert (runs, names()) == ([view] * 2, ["joe", "joe2"])


def test_rest_writes_that_are_not() -> None:
    with override_settings(ROOT_URLCONF=rest_views.__name__):
        response = send("/rest/", "put", {"name": "j"}, content_type="application/json")
    assert (response.status_code, runs, names()) == (500, ["rest"], [])


@pytest.mark.parametrize(
    ("view", "method"),
    [
        ("kept_from_it", "get"),
        ("kept_from_it", "post"),
        ("contradicting", "post"),
        ("kept", "get"),
        ("kept", "head"),
    ],
)
def test_not_replayable_holds_below_api_view_too(view: str, method: str) -> None:
    """DRF asks for its own decorators to be written so, and keeps nothing of what is below."""
    with override_settings(ROOT_URLCONF=rest_views.__name__):
        assert send(f"/{view}/", method).status_code == 500
    assert runs == [view]


def test_replayable_holds_below_api_view_too() -> None:
    with override_settings(ROOT_URLCONF=rest_views.__name__):
        assert send("/allowed/", "post").status_code == 200
    assert (runs, names()) == (["allowed"] * 2, ["joe", "joe2"])


def test_what_rest_answers_is_rolled_back_and_not_run_again() -> None:
    """``APIException``: DRF calls ``set_rollback()`` and answers; nothing reaches Django."""
    with override_settings(ROOT_URLCONF=rest_views.__name__), atomic_requests():
        response = send("/answered/")
    assert (response.status_code, response.json()) == (500, {"detail": "sorry"})
    assert (runs, names()) == (["answered"], [])
