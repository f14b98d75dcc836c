"""Requests that lose their connection: what is replayed, and what is not.

Beside every promise: the same request on Django's engine, which fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import Error, connections, transaction
from django.db.backends.signals import connection_created
from django.http import HttpRequest
from django.test import Client, override_settings

from django_resilient_pg import signals
from django_resilient_pg.policy.token_bucket import BUCKET
from testproject.postgres import Server
from testproject.shop.models import Customer
from tests.engines import RESILIENT, STOCK, Connections, backend_pid
from tests.server.replay.sending import atomic_requests, engine, names, send, send_async
from tests.server.request_views import SECOND, faults, runs

pytestmark = pytest.mark.usefixtures("shop")


# -- what is run again -----------------------------------------------------------------------------


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


# -- what is not -----------------------------------------------------------------------------------


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


# -- giving up -------------------------------------------------------------------------------------


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
