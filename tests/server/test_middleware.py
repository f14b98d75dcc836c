"""Requests that lose their connection, through Django's own handlers, sync and async.

Beside every promise: the same request on Django's engine, which fails.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.signals import got_request_exception, request_finished
from django.db import Error, connections, transaction
from django.db.backends.signals import connection_created
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import AsyncClient, Client, override_settings

from django_resilient_pg import signals
from django_resilient_pg.policy.token_bucket import BUCKET
from testproject.postgres import Server
from testproject.shop.models import Customer
from tests.engines import RESILIENT, STOCK, Connections, backend_pid
from tests.server import request_middleware, rest_views
from tests.server.request_views import SECOND, faults, runs

OURS = "django_resilient_pg.middleware.RequestRetryMiddleware"
VIEWS = "tests.server.request_views"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]


@pytest.fixture
def reported() -> Iterator[list[Any]]:
    """What ``got_request_exception`` told."""
    heard: list[Any] = []

    def hear(**about: Any) -> None:
        heard.append(about)

    got_request_exception.connect(hear)
    yield heard
    got_request_exception.disconnect(hear)


@pytest.fixture(autouse=True)
def shop(project: str, server: Server) -> Iterator[None]:
    runs.clear()
    faults["kill"] = lambda: server.terminate(backend_pid(connections[project]))
    with override_settings(
        ROOT_URLCONF=VIEWS,
        MIDDLEWARE=[OURS],
        ALLOWED_HOSTS=["testserver"],
        TEMPLATES=TEMPLATES,
        REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
    ):
        yield


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Give the alias "default" this engine."""
    settings = connections.settings["default"]
    before = settings["ENGINE"]
    forget_connection()
    settings["ENGINE"] = name
    try:
        yield
    finally:
        forget_connection()
        settings["ENGINE"] = before


def forget_connection() -> None:
    """So that the next one in this thread is made by the settings."""
    connections["default"].close()
    del connections["default"]


@contextmanager
def atomic_requests() -> Iterator[None]:
    settings = connections.settings["default"]
    settings["ATOMIC_REQUESTS"] = True
    try:
        yield
    finally:
        settings["ATOMIC_REQUESTS"] = False


def send(url: str, method: str = "get", data: Any = None, **more: Any) -> Any:
    client = Client(raise_request_exception=False)
    return getattr(client, method)(url, data, **more)


def send_async(url: str) -> Any:
    async def ask() -> Any:
        await sync_to_async(forget_connection)()
        response: Any = await AsyncClient(raise_request_exception=False).get(url)
        if response.streaming:
            response.body = b"".join([chunk async for chunk in response])
        else:
            response.body = response.content
        await sync_to_async(forget_connection)()
        return response

    return asyncio.run(ask())


def names() -> list[str]:
    return sorted(Customer.objects.values_list("name", flat=True))


# -- what is run again ------------------------------------------------------------------------

READS = "reading classy rendering committed_reads setting".split()


@pytest.mark.parametrize("view", READS)
def test_a_get_that_only_read_is_run_again_without_a_trace(view: str, reported: list[Any]) -> None:
    response = send(f"/{view}/")
    assert (response.status_code, response.content) == (200, b"0")
    assert runs == [view] * 2
    assert reported == []


@pytest.mark.parametrize("view", READS)
def test_on_the_stock_engine_it_fails(view: str, reported: list[Any]) -> None:
    with engine(STOCK):
        assert send(f"/{view}/").status_code == 500
    assert (runs, len(reported)) == ([view], 1)


def test_without_the_middleware_it_fails(reported: list[Any]) -> None:
    with override_settings(MIDDLEWARE=[]):
        assert send("/reading/").status_code == 500
    assert len(reported) == 1


@pytest.mark.parametrize("method", ["head", "options"])
def test_other_safe_methods_are_run_again(method: str) -> None:
    assert send("/reading/", method).status_code == 200
    assert runs == ["reading"] * 2


def test_atomic_requests_are_begun_again() -> None:
    with atomic_requests():
        assert send("/reading/").status_code == 200
        assert send("/rendering/").status_code == 200
        assert runs == ["reading", "reading", "rendering", "rendering"]


def test_a_get_that_wrote_in_its_lost_transaction_is_run_again() -> None:
    """Nothing has taken effect: the server has rolled it back."""
    with atomic_requests():
        assert send("/wrote/").status_code == 200
    assert (runs, names()) == (["wrote"] * 2, ["once"])


@pytest.mark.parametrize("name", [RESILIENT, STOCK])
@pytest.mark.parametrize("view", ["posting", "classy"])
def test_a_post_marked_replayable_is_run_again_with_its_body(view: str, name: str) -> None:
    with engine(name):
        response = send(f"/{view}/", "post", {"name": "joe"})
    if name == STOCK:
        assert (response.status_code, names()) == (500, [])
        return
    assert (response.status_code, response.content) == (200, b"joe")
    assert runs == ["posting"] * 2
    assert names() == ["joe", "joe2"]


def test_a_replay_is_a_signal() -> None:
    heard: list[signals.RequestRetried] = []

    def hear(record: signals.RequestRetried, request: HttpRequest, **_: object) -> None:
        assert request.path == record.path
        heard.append(record)

    signals.request_retried.connect(hear)
    try:
        send("/reading/?token=secret")
    finally:
        signals.request_retried.disconnect(hear)
    assert heard == [signals.RequestRetried("GET", "/reading/", 1)]


def own(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[Any]:
    names = {"django_resilient_pg", "django.request"}
    return [one for one in caplog.records if one.name in names and one.levelno >= level]


def stats() -> Any:
    return vars(connections["default"])["resilience"].stats


@contextmanager
def lost_connections() -> Iterator[list[signals.ConnectionLost]]:
    heard: list[signals.ConnectionLost] = []

    def hear(record: signals.ConnectionLost, **_: object) -> None:
        heard.append(record)

    signals.connection_lost.connect(hear)
    try:
        yield heard
    finally:
        signals.connection_lost.disconnect(hear)


def counts() -> tuple[int, int, int]:
    now = stats()
    return now.healed, now.surfaced, now.retried.get("request", 0)


def told_of(before: tuple[int, int, int]) -> list[int]:
    return [now - then for now, then in zip(counts(), before, strict=True)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_replayed_request_is_one_line_and_one_count(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Customer.objects.count()
    before = counts()
    with lost_connections() as lost:
        view = "asynchronous" if asynchronous else "reading"
        response = send_async(f"/{view}/") if asynchronous else send(f"/{view}/")
    assert response.status_code == 200
    (line,) = own(caplog)
    assert (line.levelno, line.retried_as) == (logging.INFO, "request")
    assert line.getMessage().endswith(f"Replaying GET /{view}/ on a new connection.")
    assert [(one.healed, one.retried_as) for one in lost] == [(True, "request")]
    assert told_of(before) == [1, 0, 1]


def test_a_request_that_is_not_replayed_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Customer.objects.count()
    before = counts()
    assert send("/unmarked/", "post").status_code == 500
    (line,) = [one for one in own(caplog) if one.name == "django_resilient_pg"]
    assert (line.levelno, line.retried_as) == (logging.WARNING, None)
    assert line.getMessage().endswith(
        "POST /unmarked/ lost its connection and was not replayed: its method is POST and its view"
        " is not marked @replayable."
    )
    assert told_of(before) == [0, 1, 0]


def test_a_loss_that_the_view_answers_has_surfaced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_resilient_pg")
    Customer.objects.count()
    before = counts()
    assert send("/swallowed/").status_code == 502
    (line,) = [one for one in own(caplog) if one.name == "django_resilient_pg"]
    assert line.levelno == logging.WARNING
    assert told_of(before) == [0, 1, 0]


@pytest.mark.parametrize("reachable", [True, False])
def test_a_503_is_one_record_with_the_path(
    reachable: bool, caplog: pytest.LogCaptureFixture, make_connection: Connections
) -> None:
    caplog.set_level(logging.INFO)
    alias, method, path = "default", "post", "/unmarked/"
    if not reachable:
        alias, method, path = SECOND, "get", "/unreachable/"
        make_connection(RESILIENT, alias=SECOND, PORT=1, retry_deadline=0.2)
    with override_settings(RESILIENT_PG_UNAVAILABLE_RESPONSE=True):
        assert send(path, method).status_code == 503
    (line,) = own(caplog, logging.WARNING)
    assert (line.name, line.levelno) == ("django_resilient_pg", logging.WARNING)
    assert line.getMessage().endswith(
        f'Returned 503 for {method.upper()} {path}: database "{alias}" is not available.'
    )
    assert line.alias == alias
    assert line.exc_info, "nobody else reports the error"


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_line_of_the_log_stays_one(method: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    send("/named/x%0ACRITICAL: forged/", method)
    said = [one.getMessage() for one in caplog.records if "named" in one.getMessage()]
    assert [one for one in said if "Replaying" in one or "was not replayed" in one]
    assert all("\n" not in one and "\\nCRITICAL" in one for one in said)


# -- what is not ------------------------------------------------------------------------------

EFFECTS = {
    "wrote": 'it has written on "default", or may have',
    "committed": 'it has written on "default", or may have',
    "failed_half_way": 'it has written on "default", or may have',
    "committed_much": 'it ran statements on "default" whose effect is not known',
    "copied": 'it has written on "default", or may have',
    "called": "it calls the volatile function nextval()",
    "hooked": "1 on_commit hook has run",
    "forbidden": "its view is marked @not_replayable",
}


@pytest.mark.parametrize(
    ("view", "debug"), [*((view, False) for view in EFFECTS), ("copied", True)]
)
def test_what_had_an_effect_or_is_forbidden_is_not_run_again(
    view: str,
    debug: bool,
    reported: list[Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With DEBUG too: Django's debug cursor has COPY methods of its own."""
    monkeypatch.setattr(connections["default"], "force_debug_cursor", debug)
    assert send(f"/{view}/").status_code == 500
    assert runs == (["hook"] if view == "hooked" else []) + [view]
    assert len(reported) == 1
    assert f"was not replayed: {EFFECTS[view]}." in caplog.text
    wrote = view in {"wrote", "committed", "committed_much", "copied", "failed_half_way"}
    assert names() == (["once"] if wrote else [])


def test_the_error_is_the_views_own_with_a_note() -> None:
    with pytest.raises(Error) as caught:
        Client().get("/wrote/")
    *_, note = caught.value.__notes__
    assert note == f"The request was not replayed: {EFFECTS['wrote']}."


@pytest.mark.parametrize("method", ["post", "put"])
def test_other_methods_are_not_run_again_unless_marked(method: str) -> None:
    url = "/unmarked/" if method == "post" else "/classy/"
    assert send(url, method, {"name": "joe"}).status_code == 500
    assert (runs, names()) == (["unmarked"], [])


def test_methods_can_be_added() -> None:
    with override_settings(RESILIENT_PG_REPLAY_METHODS=["GET", "POST"]):
        assert send("/unmarked/", "post").status_code == 200
    assert names() == ["u", "u2"]


def test_a_loss_that_the_view_answered_stays_answered() -> None:
    response = send("/swallowed/")
    assert (response.status_code, response.content) == (502, b"sorry")


@pytest.fixture
def second(request: pytest.FixtureRequest, make_connection: Connections) -> str:
    """A second alias with the engine of the parameter."""
    kind: str = request.param
    if kind == "sqlite":
        entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        make_connection.register(SECOND, entry)
    else:
        made = make_connection(kind, alias=SECOND, database="project", CONN_MAX_AGE=60)
        made.ensure_connection()
    return kind


@pytest.mark.parametrize("second", [RESILIENT, STOCK], indirect=True)
@pytest.mark.parametrize("view", ["wrote_elsewhere", "hooked_elsewhere"])
def test_effects_on_every_alias_count(view: str, second: str) -> None:
    assert send(f"/{view}/").status_code == 500
    assert runs[-1] == view
    assert len(runs) == (2 if view == "hooked_elsewhere" else 1)
    assert names() == (["once"] if view == "wrote_elsewhere" else [])


@pytest.mark.parametrize("second", [RESILIENT, STOCK, "sqlite"], indirect=True)
def test_reads_count_where_nobody_can_tell_them_from_writes(
    second: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # the connection is new, then old
        response = send("/read_elsewhere/")
        assert response.status_code == (200 if second == RESILIENT else 500)
        assert len(runs) == (2 if second == RESILIENT else 1)
        if second != RESILIENT:
            assert f'it used the connection "{SECOND}", whose engine' in caplog.text
        runs.clear()


@pytest.mark.parametrize("second", [STOCK, "sqlite"], indirect=True)
def test_a_connection_of_another_engine_that_is_not_used_is_in_nobodys_way(second: str) -> None:
    send("/read_elsewhere/")
    assert send("/reading/").status_code == 200
    assert runs == ["read_elsewhere", "reading", "reading"]


def test_inside_a_test_case_nothing_is_run_again(caplog: pytest.LogCaptureFixture) -> None:
    """The transaction that was lost is the test's own."""
    with transaction.atomic():
        Customer.objects.count()
        assert send("/reading/").status_code == 500
        assert runs == ["reading"]
        transaction.set_rollback(True)  # as TestCase does
    assert "inside a transaction" in caplog.text


# -- bodies -----------------------------------------------------------------------------------


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


# -- no trace ---------------------------------------------------------------------------------

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


@pytest.mark.parametrize("how", [send, send_async])
def test_replays_that_succeed_cost_nothing(how: Any) -> None:
    """With the tokens of one, and hardly a statement beside them that gives any back."""
    BUCKET.tokens, BUCKET.short = BUCKET.COST, True
    for _ in range(3):
        runs.clear()
        assert how("/classy/").status_code == 200
        assert runs == ["classy"] * 2


def test_a_replay_in_vain_has_cost_its_tokens() -> None:
    BUCKET.tokens, BUCKET.short = BUCKET.COST, True
    with _losing_always(faults["kill"]):
        assert send("/classy/").status_code == 500
    assert runs == ["classy"] * 2
    assert BUCKET.tokens < BUCKET.COST


# -- streams ----------------------------------------------------------------------------------


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


# -- ASGI -------------------------------------------------------------------------------------


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


# -- Django REST framework --------------------------------------------------------------------


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


# -- giving up --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "again"), [("reading", "5"), ("unmarked", "5"), ("wrote", None), ("hooked", None)]
)
def test_it_gives_up_with_503_where_that_is_wanted(view: str, again: str | None) -> None:
    """Only where nothing has been done does it invite to try again."""
    with override_settings(RESILIENT_PG_REQUEST_RETRIES=0, RESILIENT_PG_UNAVAILABLE_RESPONSE=True):
        response = send(f"/{view}/", "post" if view == "unmarked" else "get")
    assert response.status_code == 503
    assert response.get("Retry-After") == again
    assert runs[-1] == view
    with override_settings(RESILIENT_PG_UNAVAILABLE_RESPONSE=True):
        runs.clear()
        assert send("/reading/").status_code == 200


def test_it_gives_up_after_its_retries(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    runs.extend(["reading"])  # not the first run any more

    def always(*_: object) -> bool:
        server.terminate(backend_pid(connections["default"]))
        return True

    with override_settings(RESILIENT_PG_REQUEST_RETRIES=3), _losing_always(always):
        assert send("/reading/").status_code == 500
    assert runs == ["reading"] * 5
    assert "it was replayed 3 times already (RESILIENT_PG_REQUEST_RETRIES)" in caplog.text


def test_what_runs_while_connecting_does_not_count() -> None:
    """It runs again with every connection."""

    def greet(connection: Any, **_: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('application_name', 'greeted', false)")

    connections["default"].close()
    connection_created.connect(greet)
    try:
        assert send("/reading/").status_code == 200
    finally:
        connection_created.disconnect(greet)
    assert runs == ["reading"] * 2


@contextmanager
def _losing_always(kill: Any) -> Iterator[None]:
    from tests.server import request_views

    before = request_views.lose

    def lose(name: str) -> None:
        runs.append(name)
        kill()

    request_views.lose = lose
    try:
        yield
    finally:
        request_views.lose = before


def test_the_deadline_ends_it(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    def slowly() -> None:
        server.terminate(backend_pid(connections["default"]))
        time.sleep(0.3)

    faults["kill"] = slowly
    with override_settings(RESILIENT_PG_REQUEST_DEADLINE=0.2):
        assert send("/reading/").status_code == 500
    assert "RESILIENT_PG_REQUEST_DEADLINE (0.2 s) is used up" in caplog.text


@pytest.mark.parametrize("unavailable", [False, True])
def test_a_server_that_cannot_be_reached(unavailable: bool, make_connection: Connections) -> None:
    """The deadline of the request bounds its statements, whatever theirs is."""
    make_connection(RESILIENT, alias=SECOND, PORT=1, retry_deadline=60)
    began = time.monotonic()
    with override_settings(
        RESILIENT_PG_REQUEST_DEADLINE=0.5, RESILIENT_PG_UNAVAILABLE_RESPONSE=unavailable
    ):
        response = send("/unreachable/")
    assert time.monotonic() - began < 5
    assert response.status_code == (503 if unavailable else 500)
    assert response.get("Retry-After") == ("5" if unavailable else None)


# -- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("REQUEST_RETRIES", 11, "The nearest valid value is 10."),
        ("REQUEST_RETRIES", 1.5, "must be a whole number from 0 to 10 times"),
        ("REQUEST_DEADLINE", 0, "The nearest valid value is 0.1."),
        ("REQUEST_DEADLINE", float("nan"), "must be a number"),
        ("REPLAY_METHODS", "GET", "a list of some of GET, HEAD"),
        ("REPLAY_METHODS", ["get"], "'get' is unknown: did you mean \"GET\"?"),
        ("UNAVAILABLE_RESPONSE", "maybe", "must be True or False"),
        ("UNAVAILABLE_RESPONSE", None, "must be True or False"),
    ],
)
def test_wrong_settings_are_said_at_the_start(name: str, value: object, sentence: str) -> None:
    from django_resilient_pg.middleware import RequestRetryMiddleware

    def never(request: HttpRequest) -> HttpResponseBase:
        raise AssertionError

    with (
        override_settings(**{f"RESILIENT_PG_{name}": value}),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        RequestRetryMiddleware(never)
    assert f"RESILIENT_PG_{name} is {value!r}" in str(caught.value)
    assert sentence in str(caught.value)
