"""``ready/`` under a real gunicorn and a real uvicorn: in time with every alias down or silent."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from testproject.postgres import Server
from tests.engines import Connections, until
from tests.faults.proxy import Mode, Proxy
from tests.server.test_serving import Failed, ask, served

pytestmark = pytest.mark.once_per_driver

SERVERS = {
    "gunicorn": ["gunicorn", "-w", "1", "-k", "gthread", "--threads", "4"],
    "uvicorn": ["uvicorn"],
}
MOST = 0.6  # seconds, with the default deadline of 0.5
ALIASES = 20
TOKEN = "a-token-of-a-monitoring-system"
SETTINGS = f"""
from testproject.settings import *
ROOT_URLCONF = "health_urls"
DATABASES = {{"default": DATABASES["default"]}}
DATABASES |= {{f"other-{{n}}": DATABASES["default"] for n in range(1, {ALIASES})}}
RESILIENT_PG_STATUS_TOKEN = "{TOKEN}"
"""
URLS = """
from django.urls import include, path
urlpatterns = [
    path("health/", include("django_resilient_pg.urls")),
    path("", include("testproject.urls")),
]
"""


class Site(NamedTuple):
    port: int
    proxy: Proxy


class Response(NamedTuple):
    status: int
    said: Any
    seconds: float


@pytest.fixture(scope="module", params=SERVERS)
def site(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "health_urls.py").write_text(URLS)
    with Proxy(server.port) as proxy:
        entry = server.database(PORT=proxy.port, CONN_MAX_AGE=0, options={"connect_timeout": 20})
        arguments = SERVERS[request.param]
        with served(arguments, entry, folder, SETTINGS, "/health/live/") as port:
            yield Site(port, proxy)


def get(site: Site, path: str) -> Response:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    began = time.monotonic()
    connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    body = response.read()
    seconds = time.monotonic() - began
    connection.close()
    said = json.loads(body) if response.headers["Content-Type"] == "application/json" else body
    return Response(response.status, said, seconds)


@pytest.mark.parametrize("mode", ["refuse", "deaf", "mute"])
def test_ready_answers_in_time_and_recovers_with_the_database(site: Site, mode: Mode) -> None:
    until(lambda: get(site, "/health/ready/").status == 200, "it is not ready")
    site.proxy.set_mode(mode)
    if mode == "refuse":
        site.proxy.cut()
    waiting = threading.Thread(target=_give_the_application_work, args=[site])
    waiting.start()
    try:
        found = [get(site, "/health/ready/") for _ in range(5)]
        assert get(site, "/health/live/").status == 200
        assert {one.status for one in found} == {503}
        # Once is enough: the machine may be busy with something else.
        assert min(one.seconds for one in found) < MOST
        said = found[-1].said["databases"]
        assert len(said) == ALIASES
        silent = "no answer within 0.5 s"
        assert all("refused" in one if mode == "refuse" else one == silent for one in said.values())
        status = get(site, "/health/status/?format=json")
        assert [one["reachable"] for one in status.said["databases"]] == [False] * ALIASES
    finally:
        site.proxy.set_mode("pass")
        waiting.join()
    until(lambda: get(site, "/health/ready/").status == 200, "it has not recovered")


def _give_the_application_work(site: Site) -> None:
    """A request that waits for its own connection meanwhile."""
    with suppress(Failed):  # there is no such table
        ask(site.port, "GET", "/products/count/")


def test_the_limits_are_those_of_the_threads_that_serve(
    site: Site, request: pytest.FixtureRequest
) -> None:
    """Threads of ASGI keep no connections."""
    status = get(site, "/health/status/?format=json").said["databases"][0]
    asgi = "uvicorn" in request.node.name
    assert ("ASGI" in status["limits"]["age_source"]) is asgi


def test_no_session_of_a_probe_is_left(
    site: Site, server: Server, make_connection: Connections
) -> None:
    before = set(server.backends())
    until(lambda: get(site, "/health/ready/").status == 200, "it is not ready")
    until(lambda: set(server.backends()) <= before, "sessions of the probe are still there")
