"""Streams, which no attempt can take back, and requests under ASGI."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.signals import request_finished
from django.db import Error
from django.test import override_settings

from tests.engines import OURS, RESILIENT, STOCK
from tests.server import request_middleware
from tests.server.replay.sending import engine, names, send, send_async
from tests.server.request_views import runs

pytestmark = pytest.mark.usefixtures("shop")


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [RESILIENT, STOCK])
@pytest.mark.parametrize("view", ["stream", "stream_writes"])
def test_a_stream_that_fails_before_its_first_chunk_fails_as_on_the_stock_engine(
    view: str, name: str, reported: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The server reads a stream after the request is over: nothing of it can be replayed."""
    with engine(name), override_settings(MIDDLEWARE=[OURS] if name == RESILIENT else []):
        response = send(f"/{view}/")
        assert (response.status_code, runs) == (200, [])
        with pytest.raises(Error) as raised:
            response.getvalue()
        assert (runs, reported) == ([view], [])
        assert names() == (["once"] if view == "stream_writes" else [])
    assert "The request" not in "".join(getattr(raised.value, "__notes__", ()))
    assert "GET" not in caplog.text


@pytest.mark.parametrize("name", [RESILIENT, STOCK])
@pytest.mark.parametrize("view", ["stream", "stream_async", "stream_writes", "stream_writes_async"])
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_so_does_a_stream_under_asgi(
    view: str, name: str, reported: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with engine(name), override_settings(MIDDLEWARE=[OURS] if name == RESILIENT else []):
        with pytest.raises(Error) as raised:
            send_async(f"/{view}/")
        assert (runs, reported) == ([view], [])
        assert names() == (["once"] if "writes" in view else [])
    assert "The request" not in "".join(getattr(raised.value, "__notes__", ()))
    assert "GET" not in caplog.text


def test_a_stream_that_is_lost_later_fails_too() -> None:
    response = send("/stream_lost_late/")
    with pytest.raises(Error):
        response.getvalue()
    assert runs == ["stream_lost_late"]


@pytest.mark.parametrize("view", ["reading", "asynchronous"])
@pytest.mark.parametrize("how", [send, send_async], ids=["wsgi", "asgi"])
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_what_a_discarded_answer_holds_is_released(how: Any, view: str) -> None:
    """A middleware below answers every attempt with a stream of an open file.

    Both files are closed, and the end of the request is announced once.
    """
    request_middleware.seen.clear()
    finished: list[list[str]] = []

    def hear(**_: object) -> None:
        finished.append(request_middleware.seen.copy())

    request_finished.connect(hear)
    try:
        with override_settings(MIDDLEWARE=[OURS, "tests.server.request_middleware.holds_a_file"]):
            response = how(f"/{view}/")
            content = response.body if how is send_async else response.getvalue()
    finally:
        request_finished.disconnect(hear)
    assert (response.status_code, content, runs) == (200, b"0", [view] * 2)
    assert request_middleware.seen == ["opened", "closed", "opened", "closed"]
    assert finished == [request_middleware.seen]


# -- ASGI ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["reading", "asynchronous", "rendering"])
@pytest.mark.parametrize("name", [RESILIENT, STOCK])
def test_under_asgi(view: str, name: str, reported: list[Any]) -> None:
    with engine(name):
        response = send_async(f"/{view}/")
    if name == STOCK:
        assert response.status_code == 500
        return
    assert response.status_code == 200
    assert response.body == b"0"
    assert (runs, reported) == ([view] * 2, [])


@pytest.mark.parametrize("above", [True, False])
def test_beside_a_synchronous_middleware_under_asgi(above: bool) -> None:
    other = "tests.server.request_middleware.Watching"
    with override_settings(MIDDLEWARE=[other, OURS] if above else [OURS, other]):
        response = send_async("/asynchronous/")
    assert (response.status_code, runs) == (200, ["asynchronous"] * 2)


def test_a_write_in_another_thread_counts() -> None:
    assert send_async("/wrote_in_a_thread/").status_code == 500
    assert (runs, names()) == (["wrote_in_a_thread"], ["once"])


def test_an_async_view_under_wsgi() -> None:
    assert send("/asynchronous/").status_code == 200
    assert runs == ["asynchronous"] * 2
