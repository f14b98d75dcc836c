"""Bodies are there again for the second attempt, and the first one leaves no trace."""

from __future__ import annotations

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client, override_settings

from django_resilient_pg.policy.token_bucket import BUCKET
from tests.engines import OURS
from tests.server import request_middleware
from tests.server.replay.sending import names, send
from tests.server.request_views import faults, runs

pytestmark = pytest.mark.usefixtures("shop")


# -- bodies ----------------------------------------------------------------------------------------


def test_a_body_read_as_a_stream_is_replayed() -> None:
    response = send("/streamed/", "post", b"joe", content_type="text/plain")
    assert (response.content, names()) == (b"joe", ["joe", "joe2"])


@pytest.mark.parametrize("csrf", [False, True])
def test_an_upload_is_replayed(csrf: bool) -> None:
    """CSRF protection parses the form from the stream before the view."""
    before = ["tests.server.request_middleware.reads_post"] if csrf else []
    with override_settings(MIDDLEWARE=[*before, OURS]):
        response = send("/uploading/", "post", {"file": SimpleUploadedFile("f", b"joe")})
    assert (response.content, names()) == (b"joe", ["joe", "joe2"])


def test_a_middleware_below_that_uses_the_database_on_its_way_out_stops_no_repetition() -> None:
    """It is refused for the attempt that was given up, and Django makes a 500 of that."""
    with override_settings(MIDDLEWARE=[OURS, "tests.server.request_middleware.counts_after"]):
        response = send("/reading/")
    assert (response.status_code, runs.count("reading")) == (200, 2)
    assert response["X-Customers"] == "0"


@override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=100)
def test_an_upload_that_stays_a_stream_is_not(caplog: pytest.LogCaptureFixture) -> None:
    response = send("/uploading/", "post", {"file": SimpleUploadedFile("f", b"joe")})
    assert (response.status_code, names()) == (500, [])
    assert "its body was a stream, which cannot be read twice" in caplog.text


@override_settings(FILE_UPLOAD_MAX_MEMORY_SIZE=1)
def test_nor_is_one_that_was_written_to_a_file_before_the_view() -> None:
    with override_settings(MIDDLEWARE=["tests.server.request_middleware.reads_post", OURS]):
        response = send("/uploading/", "post", {"file": SimpleUploadedFile("f", b"joe")})
    assert (response.status_code, names()) == (500, [])


# -- no trace --------------------------------------------------------------------------------------


TRACED = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "tests.server.request_middleware.begins_traces",
    OURS,
]
SESSIONS = "django.contrib.sessions.backends.cache"


@pytest.mark.parametrize("storage", ["fallback.Fallback", "cookie.Cookie", "session.Session"])
@pytest.mark.parametrize("stored", [False, True])
def test_the_failed_attempt_leaves_no_trace(storage: str, stored: bool) -> None:
    """Session, messages, attributes and META are as before the view; ``stored``: the second
    request of a session, which is loaded from its store."""
    given = {"MESSAGE_STORAGE": f"django.contrib.messages.storage.{storage}Storage"}
    client = Client()
    with override_settings(MIDDLEWARE=TRACED, SESSION_ENGINE=SESSIONS, **given):
        if stored:
            kill, faults["kill"] = faults["kill"], lambda: None
            client.get("/tracing/")
            faults["kill"] = kill
            runs.clear()
        response = client.get("/tracing/")
    assert runs == ["tracing"] * 2
    visits = ["middleware", "view"] * (2 if stored else 1)
    told = (1, ["middleware", "view"], ["view"], "x", visits, ["seen"])
    assert response.content.decode() == repr(told)


def test_a_session_with_a_new_key_is_an_effect(caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(MIDDLEWARE=TRACED, SESSION_ENGINE=SESSIONS):
        assert send("/new_session_key/").status_code == 500
    assert "it changed or removed the key of its session" in caplog.text


def test_other_middlewares_see_one_answer() -> None:
    request_middleware.seen.clear()
    above = "tests.server.request_middleware.Watching"
    with override_settings(MIDDLEWARE=[above, OURS]):
        assert send("/rendering/").status_code == 200
        assert send("/reading/").status_code == 200
    assert request_middleware.seen == [
        *["process_view", "process_template_response"] * 2,
        "response",
        *["process_view"] * 2,
        "response",
    ]


def test_a_middleware_below_runs_twice() -> None:
    """Which is why a system check wants this one to be the last."""
    request_middleware.seen.clear()
    below = "tests.server.request_middleware.Watching"
    with override_settings(MIDDLEWARE=[OURS, below]):
        assert send("/reading/").status_code == 200
    assert request_middleware.seen.count("response") == 2


def test_without_tokens_nothing_is_run_again(caplog: pytest.LogCaptureFixture) -> None:
    BUCKET.tokens, BUCKET.short = 0, True
    assert send("/reading/").status_code == 500
    assert "too many retries are under way" in caplog.text
