"""``live/``, ``ready/`` and ``status/``: what they answer, to whom, and what they never show."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from django.test import Client, override_settings

from testproject.postgres import Server
from tests.engines import DRIVER, OURS, STOCK, Connections, backend_pid, run
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.once_per_driver

STAFF = {"X-User": "staff"}
TOKEN = "a-token-of-a-monitoring-system"
SETTINGS: dict[str, Any] = {
    "ROOT_URLCONF": "tests.server.health.urls",
    "MIDDLEWARE": [
        "django.middleware.csrf.CsrfViewMiddleware",
        "tests.server.health.middleware.user",
        OURS,
    ],
    "RESILIENT_PG_READY_DEADLINE": 20.0,  # a busy machine must not matter
}


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    with override_settings(**SETTINGS):
        yield


def get(path: str, **given: Any) -> Any:
    return Client().get(f"/health/{path}", **given)


def ready(*aliases: str) -> Any:
    return get("ready/", query_params={"database": list(aliases)})


def status_of(alias: str, **given: Any) -> dict[str, Any]:
    response = get("status/?format=json", headers=STAFF, **given)
    assert response.status_code == 200
    (found,) = [one for one in response.json()["databases"] if one["alias"] == alias]
    return dict(found)


# -- live and ready -----------------------------------------------------------------------------


def test_live_touches_no_database(make_connection: Connections, server: Server) -> None:
    """Not even where each view has a transaction, and every database is down."""
    alias = make_connection(PORT=1, ATOMIC_REQUESTS=True).alias
    response = get("live/")
    assert (response.status_code, response.content) == (200, b"live\n")
    assert connections[alias].connection is None
    assert get("live/").headers["Cache-Control"].count("no-store") == 1


def test_ready_opens_no_transaction_on_the_applications_connections(
    make_connection: Connections,
) -> None:
    connection = make_connection(ATOMIC_REQUESTS=True)
    assert ready(connection.alias).status_code == 200
    assert connection.connection is None


def test_ready_says_which_database_is_not_and_why(
    make_connection: Connections, proxy: Proxy
) -> None:
    there, gone = make_connection().alias, make_connection(PORT=proxy.port).alias
    with proxy.down():
        response = ready(there, gone)
        assert response.status_code == 503
        said = response.json()
        assert said["ready"] is False
        assert said["databases"][there] == "reachable"
        assert "refused" in said["databases"][gone]
        assert ready(there).status_code == 200
    assert ready(there, gone).json() == {
        "ready": True,
        "databases": {there: "reachable", gone: "reachable"},
    }


def test_ready_asks_every_database_unless_some_are_named(make_connection: Connections) -> None:
    alias = make_connection().alias
    said = get("ready/").json()["databases"]
    assert set(said) == {one for one in connections if one != "none"}
    assert alias in said
    assert ready("no-such-database").status_code == 400


def test_what_django_has_only_because_there_must_be_a_default_is_not_asked(
    make_connection: Connections,
) -> None:
    entry = connections.settings["default"]
    connections.settings["default"] = {**entry, "ENGINE": "django.db.backends.dummy"}
    try:
        assert "default" not in get("ready/").json()["databases"]
    finally:
        connections.settings["default"] = entry


def test_ready_names_no_user_host_or_database(make_connection: Connections) -> None:
    """Anybody may ask for it."""
    wrong = make_connection(PASSWORD="n0t-the-password").alias
    host = make_connection(HOST="internal-name.invalid").alias
    said = ready(wrong, host).json()["databases"]
    assert said[wrong] == 'password authentication failed for user "..."'
    assert said[host] == 'could not translate host name "..." to address'


def test_a_failed_probe_is_no_error_of_the_application(
    make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    """Django would log an ERROR each time, and mail it."""
    with caplog.at_level(logging.WARNING):
        assert ready(make_connection(PORT=1).alias).status_code == 503
    assert [r for r in caplog.records if r.name == "django.request"] == []


def test_it_is_logged_once_that_a_database_is_not_ready_and_once_that_it_is_again(
    make_connection: Connections, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    alias = make_connection(PORT=proxy.port).alias
    with caplog.at_level(logging.INFO, "django_resilient_pg"):
        with proxy.down():
            for _ in range(3):
                ready(alias)
        for _ in range(3):
            ready(alias)
    gone, back = [r for r in caplog.records if alias in r.getMessage()]
    assert gone.getMessage().startswith(f'Database "{alias}" is not ready: ')
    assert gone.levelno == logging.WARNING
    assert back.getMessage() == f'Database "{alias}" is ready again.'
    assert vars(back)["alias"] == alias


def test_a_probe_counts_as_nothing_of_the_applications(make_connection: Connections) -> None:
    connection: Any = make_connection(PORT=1)
    ready(connection.alias)
    assert connection.resilience.stats.connect_attempts == 0
    assert not connection.resilience.shared.breaker.down


@pytest.mark.parametrize("path", ["live/", "ready/"])
def test_probes_take_get_and_head_alone(path: str) -> None:
    assert Client().head(f"/health/{path}").content == b""
    assert Client().post(f"/health/{path}").status_code == 405


@pytest.mark.parametrize("value", ["soon", 0, 61])
def test_a_wrong_deadline_is_refused(value: Any, make_connection: Connections) -> None:
    with (
        override_settings(RESILIENT_PG_READY_DEADLINE=value),
        pytest.raises(ImproperlyConfigured, match="RESILIENT_PG_READY_DEADLINE is"),
    ):
        ready(make_connection().alias)


# -- who sees the status page -------------------------------------------------------------------


@pytest.mark.parametrize("who", ["", "customer", "left"])
def test_the_status_is_for_staff(who: str) -> None:
    assert get("status/", headers={"X-User": who} if who else {}).status_code == 403


def test_a_monitoring_system_shows_its_token() -> None:
    with override_settings(RESILIENT_PG_STATUS_TOKEN=TOKEN):
        assert get("status/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        for given in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer ", ""):
            assert get("status/", headers={"Authorization": given}).status_code == 403
    for empty in (None, ""):
        with override_settings(RESILIENT_PG_STATUS_TOKEN=empty):
            assert get("status/", headers={"Authorization": "Bearer "}).status_code == 403


def test_a_token_that_can_be_guessed_is_refused_and_not_shown() -> None:
    with (
        override_settings(RESILIENT_PG_STATUS_TOKEN="guess-me"),
        pytest.raises(ImproperlyConfigured, match="too short") as caught,
    ):
        get("status/")
    assert "guess-me" not in str(caught.value)


def test_where_the_users_cannot_be_asked_for_it_says_so_in_time(
    make_connection: Connections, proxy: Proxy
) -> None:
    alias = make_connection(PORT=proxy.port, retry_deadline=60).alias
    proxy.set_mode("mute")
    began = time.monotonic()
    response = get("status/", headers={"X-User": alias})
    assert time.monotonic() - began < 20
    proxy.set_mode("pass")
    assert response.status_code == 503
    assert "RESILIENT_PG_STATUS_TOKEN" in response.json()["error"]


# -- what it shows ------------------------------------------------------------------------------


@pytest.mark.parametrize("sslmode", ["require", "disable"])
def test_it_says_whether_the_connection_is_encrypted(
    make_connection: Connections, sslmode: str
) -> None:
    """psycopg 3 knows that it is, and not by which version of TLS."""
    connection = make_connection(options={"sslmode": sslmode})
    run(connection, "SELECT 1")
    assert bool(status_of(connection.alias)["server"]["tls"]) is (sslmode == "require")
    shown = re.sub(r"<[^>]+>", " ", get("status/", headers=STAFF).content.decode())
    _, _, after = shown.partition(f"{connection.alias} ")
    found = re.search(r"TLS\s+(TLSv1|in use|none|not known)", after)
    assert found is not None
    assert found[1] != "not known"


def test_the_connections_of_the_process_are_listed_with_age_and_idle(
    make_connection: Connections,
) -> None:
    connection = make_connection(CONN_MAX_AGE=60)
    run(connection, "SELECT 1")
    found = status_of(connection.alias)
    (link,) = found["connections"]
    assert link["backend_pid"] == backend_pid(connection)
    assert link["state"] == "idle"
    assert 0 <= link["idle"] <= link["age"]
    assert found["server"]["version"] >= 140000
    assert found["server"]["path"] in {"direct", "a Unix socket"}
    assert found["reachable"] is True
    assert found["role"] == "primary"
    assert found["limits"]["age"] == 60
    assert found["limits"]["age_source"] == "CONN_MAX_AGE"


def test_before_the_first_connection_nothing_is_made_up(make_connection: Connections) -> None:
    found = status_of(make_connection().alias)
    assert found["server"] is None
    assert found["connections"] == []


def test_a_loss_is_explained(make_connection: Connections, server: Server) -> None:
    connection = make_connection()
    run(connection, "SELECT 1")
    server.terminate(backend_pid(connection))
    run(connection, "SELECT 1")
    found = status_of(connection.alias)
    (loss,) = found["losses"]["last"]
    assert sum(found["losses"]["by_reason"].values()) == found["losses"]["healed"] == 1
    assert loss["healed"] is True
    assert connection.alias in loss["explained"]
    assert "To prevent this: " in loss["explained"]


def test_an_outage_and_what_is_left_of_the_budget_are_shown(
    make_connection: Connections, proxy: Proxy
) -> None:
    connection = make_connection(PORT=proxy.port, retry_deadline=0.1)
    with proxy.down():
        with pytest.raises(OperationalError):
            run(connection, "SELECT 1")
        found = status_of(connection.alias)
        assert found["reachable"] is False
        assert found["outage"]["down"] is True
        assert "refused" in found["outage"]["said"]
        assert 0 <= found["outage"]["budget_left"] <= 0.1
        assert found["retries"]["connect"] >= 0


def test_the_tokens_that_retries_take_are_shown() -> None:
    budget = get("status/?format=json", headers=STAFF).json()["retry_budget"]
    assert budget["capacity"] == 500
    assert budget["retries_left"] == budget["tokens"] // budget["cost_of_a_retry"]


@pytest.mark.psycopg3
def test_who_holds_connections_of_the_pool_is_shown(make_connection: Connections) -> None:
    pool = {"pool": {"min_size": 1, "max_size": 3}}
    connection = make_connection(options=pool, pool_leak_after=0.01)
    with connection.cursor() as cursor:  # in this file: it is the place that is told
        cursor.execute("SELECT 'a literal', 1")
    time.sleep(0.02)
    found = status_of(connection.alias)["pool"]
    assert found["max_size"] == 3
    (hold,) = found["held_too_long"]
    assert hold["holder"] == 'thread "MainThread"'
    assert __file__ in hold["place"]
    assert hold["statement"] == "SELECT '' , 1"
    page = get("status/", headers=STAFF).content.decode()
    assert "held for longer than 10 ms" in page


@pytest.mark.psycopg3
def test_no_pool_is_made_to_be_shown(make_connection: Connections) -> None:
    connection: Any = make_connection(options={"pool": True})
    assert status_of(connection.alias)["pool"] is None
    assert connection.alias not in connection._connection_pools


def test_other_engines_are_asked_but_nothing_is_known_of_them(
    make_connection: Connections,
) -> None:
    stock = status_of(make_connection(STOCK).alias)
    assert stock["reachable"] is True
    assert "limits" not in stock
    assert any("W" in one["id"] for one in stock["findings"]["settings"])
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    other = status_of(make_connection.register("shown-sqlite", entry).alias)
    assert other["reachable"] is True
    assert "findings" not in other


def test_an_alias_whose_options_are_refused_is_shown_all_the_same(
    make_connection: Connections,
) -> None:
    found = status_of(make_connection(read_retries="many").alias)
    assert found["reachable"] is False
    assert any("many" in one["message"] for one in found["findings"]["settings"]) or (
        found["reason"] == "ImproperlyConfigured was raised"
    )


# -- findings -----------------------------------------------------------------------------------


def test_a_check_is_made_on_request_and_remembered(make_connection: Connections) -> None:
    alias = make_connection().alias
    before = status_of(alias)["findings"]
    assert (before["checked_at"], before["connection"]) == (None, [])
    response = Client().post("/health/status/?format=json", {"database": alias}, headers=STAFF)
    (checked,) = [one for one in response.json()["databases"] if one["alias"] == alias]
    assert checked["findings"]["checked_at"]
    assert checked["findings"]["verdict"].startswith(("OK", "Reachable"))
    assert status_of(alias)["findings"] == checked["findings"]


def test_a_check_of_a_database_that_is_down_says_which_stage_failed(
    make_connection: Connections,
) -> None:
    alias = make_connection(PORT=1).alias
    response = Client().post("/health/status/?format=json", {"database": alias}, headers=STAFF)
    (checked,) = [one for one in response.json()["databases"] if one["alias"] == alias]
    assert "stage TCP failed" in checked["findings"]["verdict"]


def test_a_check_needs_the_token_of_the_form(make_connection: Connections) -> None:
    alias = make_connection().alias
    client = Client(enforce_csrf_checks=True)
    assert client.post("/health/status/", {"database": alias}, headers=STAFF).status_code == 403
    page = client.get("/health/status/", headers=STAFF).content.decode()
    (token,) = set(re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page))
    data = {"database": alias, "csrfmiddlewaretoken": token}
    assert client.post("/health/status/", data, headers=STAFF).status_code == 200
    with override_settings(RESILIENT_PG_STATUS_TOKEN=TOKEN):
        told = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/health/status/", {"database": alias}, headers=told).status_code == 200
    assert client.post("/health/status/", {**data, "database": "none"}, headers=STAFF).status_code


# -- no secret ----------------------------------------------------------------------------------


SECRET = "hunter2-of-the-database"


def test_no_answer_has_a_secret(make_connection: Connections, server: Server) -> None:
    password = server.password
    pasted = f"postgres://app:{SECRET}@db.example.org/shop"
    aliases = [
        make_connection().alias,
        make_connection(PASSWORD=SECRET).alias,
        make_connection(HOST=pasted).alias,
        make_connection(NAME=pasted).alias,
        make_connection(USER=f"app:{SECRET}").alias,
        make_connection(options={"sslpassword": SECRET}).alias,
        make_connection(options={"application_name": f"password={SECRET}"}).alias,
    ]
    for alias in aliases:
        Client().post("/health/status/", {"database": alias}, headers=STAFF)
    said = [
        ready(*aliases).content,
        get("status/", headers=STAFF).content,
        get("status/?format=json", headers=STAFF).content,
    ]
    for body in said:
        text = body.decode()
        assert SECRET not in text
        assert password not in text


# -- the page -----------------------------------------------------------------------------------


class Outline(HTMLParser):
    """What of a page matters to those who do not see it, and to a strict policy."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "input", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [given for name, given in self.tags if name == tag]


def outline(text: str) -> Outline:
    found = Outline()
    found.feed(text)
    assert found.open == []
    return found


def test_the_page_can_be_read_by_everybody_and_has_nothing_inline(
    make_connection: Connections, server: Server
) -> None:
    connection = make_connection(CONN_MAX_AGE=60)
    run(connection, "SELECT 1")
    server.terminate(backend_pid(connection))
    run(connection, "SELECT 1")
    down = make_connection(PORT=1, NAME="<b>bold</b>").alias
    Client().post("/health/status/", {"database": down}, headers=STAFF)
    response = get("status/", headers={**STAFF, "Accept": "text/html"})
    page = outline(response.content.decode())
    assert "style" not in {tag for tag, _ in page.tags} | {n for _, g in page.tags for n in g}
    assert page.all("script") == []
    assert not [name for _, given in page.tags for name in given if name.startswith("on")]
    assert page.all("b") == [], "what a setting holds is text"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    for landmark in ("main", "header", "footer", "nav"):
        assert len(page.all(landmark)) == 1
    assert [given["lang"] for given in page.all("html")] == ["en"]
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table")) >= 2
    assert all(given.get("scope") in {"col", "row"} for given in page.all("th"))
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    names = [given["aria-labelledby"] or "" for _, given in page.tags if "aria-labelledby" in given]
    assert len(names) == len(set(names)), "each region has a name of its own"
    assert set(" ".join(names).split()) <= set(ids)
    assert "Not reachable: " in response.content.decode(), "no meaning is in a colour alone"
    (sheet,) = [given["href"] for given in page.all("link")]
    style = get(f"status/{sheet}")
    assert style.headers["Content-Type"].startswith("text/css")
    assert "prefers-color-scheme: dark" in style.content.decode()


def test_json_is_given_to_who_asks_for_it() -> None:
    for given in ({"Accept": "application/json"}, {"Accept": "application/json, */*;q=0.1"}):
        response = get("status/", headers={**STAFF, **given})
        assert json.loads(response.content)["process"]["pid"]
    for given in ({"Accept": "text/html,*/*"}, {"Accept": "*/*"}, {}):
        assert b"<!DOCTYPE html>" in get("status/", headers={**STAFF, **given}).content


def test_the_style_has_enough_contrast_in_light_and_dark() -> None:
    """WCAG 2 AA: text against the page and against the cards."""
    style = get("status/style.css").content.decode()
    schemes = [
        dict(re.findall(r"--(\w+): (#\w{6})", part))
        for part in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(schemes) == 2
    for colours in schemes:
        for name in ("text", "quiet", "link", "good", "bad"):
            for ground in ("page", "card"):
                assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_works_with_twenty_databases_none_of_which_is_reachable(
    make_connection: Connections,
) -> None:
    aliases = [make_connection(PORT=1).alias for _ in range(20)]
    page = get("status/", headers=STAFF).content.decode()
    outline(page)
    for alias in aliases:
        assert f">{alias}</h2>" in page
    assert DRIVER
