"""Asking databases for a probe: what is silent is told in time, and nothing is left behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections

from django_resilient_pg.health.asking import Answer, _lines, ask
from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections, until
from tests.faults.proxy import Mode, Proxy

pytestmark = pytest.mark.once_per_driver

SECONDS = 0.5
MOST = 0.6
LONG = 20.0  # where a busy machine must not matter


def asked(alias: str, seconds: float = LONG) -> Answer:
    return ask([alias], seconds)[alias]


def took(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def probes() -> int:
    return sum(thread.name == "health probe" for thread in threading.enumerate())


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_database_that_answers_is_reachable(engine: str, make_connection: Connections) -> None:
    answer = asked(make_connection(engine).alias)
    assert answer.reachable
    assert answer.standby is False
    assert answer.reason == ""


def test_no_session_is_held_for_longer_than_the_question(
    make_connection: Connections, server: Server
) -> None:
    connection = make_connection()
    before = set(server.backends())
    assert asked(connection.alias).reachable
    until(lambda: set(server.backends()) <= before, "the session of the probe is still there")
    assert connection.connection is None, "it was asked on a connection of its own"


@pytest.mark.parametrize("mode", ["refuse", "cut", "deaf", "mute"])
def test_one_that_is_down_or_silent_is_told_in_time(
    mode: Mode, proxy: Proxy, make_connection: Connections
) -> None:
    alias = make_connection(PORT=proxy.port).alias
    assert asked(alias).reachable
    proxy.set_mode(mode)
    # Once is enough: the machine may be busy with something else.
    assert any(took(lambda: asked(alias, SECONDS)) < MOST for _ in range(5))
    answer = asked(alias, SECONDS)
    assert not answer.reachable
    if mode in {"deaf", "mute"}:
        assert answer.reason == "no answer within 0.5 s"
    else:
        assert answer.reason
        assert "127.0.0.1" not in answer.reason
    proxy.set_mode("pass")
    assert asked(alias).reachable, "at the first question after it has recovered"


def test_twenty_silent_ones_take_no_longer_than_one(
    proxy: Proxy, make_connection: Connections
) -> None:
    aliases = [make_connection(PORT=proxy.port).alias for _ in range(20)]
    proxy.set_mode("mute")
    assert any(took(lambda: ask(aliases, SECONDS)) < MOST for _ in range(5))
    assert not any(answer.reachable for answer in ask(aliases, SECONDS).values())
    proxy.set_mode("pass")
    assert all(answer.reachable for answer in ask(aliases, LONG).values())
    until(lambda: not probes(), "threads of the probes are left")


def test_there_is_one_thread_for_each_alias_however_many_probes_come(
    proxy: Proxy, make_connection: Connections
) -> None:
    aliases = [make_connection(PORT=proxy.port).alias for _ in range(3)]
    proxy.set_mode("mute")
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, probes())

    askers = [threading.Thread(target=ask, args=(aliases, SECONDS)) for _ in range(10)]
    watcher = threading.Thread(target=watch)
    watcher.start()
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    done.set()
    watcher.join()
    assert 0 < most <= len(aliases)
    until(lambda: not probes(), "threads of the probes are left")


def test_who_comes_while_an_attempt_fails_gets_one_of_its_own(
    proxy: Proxy, make_connection: Connections
) -> None:
    alias = make_connection(PORT=proxy.port).alias
    proxy.set_mode("mute")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(asked, alias)
        until(lambda: proxy.open == 1, "nobody asks")
        second = pool.submit(asked, alias)
        until(lambda: len(_lines[alias]) == 2, "nobody else asks")
        proxy.cut()
        assert not first.result(LONG).reachable
        proxy.set_mode("pass")
        assert second.result(LONG).reachable


def test_a_probe_leaves_no_connection_open_on_a_silent_path(
    proxy: Proxy, make_connection: Connections, server: Server
) -> None:
    alias = make_connection(PORT=proxy.port).alias
    before = set(server.backends())
    proxy.set_mode("mute")
    asked(alias, 0.2)
    until(lambda: set(server.backends()) <= before, "the session of the probe is still there")


def test_a_second_address_is_asked_where_the_first_is_silent(
    proxy: Proxy, make_connection: Connections, server: Server
) -> None:
    proxy.set_mode("deaf")
    connection = make_connection(
        HOST="127.0.0.1,127.0.0.1",
        PORT=f"{proxy.port},{server.port}",
        options={"sslmode": "require"},
    )
    assert asked(connection.alias, 2.0).reachable


def test_a_wrong_password_is_told_without_it(make_connection: Connections) -> None:
    secret = "n0t-the-password"
    answer = asked(make_connection(PASSWORD=secret).alias)
    assert not answer.reachable
    assert "password authentication failed" in answer.reason
    assert secret not in answer.reason


def test_a_host_that_has_no_address_is_named(make_connection: Connections) -> None:
    answer = asked(make_connection(HOST="no-such-host.invalid").alias)
    assert not answer.reachable
    assert 'could not translate host name "no-such-host.invalid"' in answer.reason


def test_wrong_options_are_told_by_the_kind_of_their_error(make_connection: Connections) -> None:
    answer = asked(make_connection(read_retries="many").alias)
    assert answer == Answer(False, "ImproperlyConfigured was raised", None, answer.seconds)


def broken_credentials(alias: str) -> dict[str, str]:
    raise RuntimeError("the-token-itself")


def test_credentials_are_asked_for_and_their_errors_hidden(make_connection: Connections) -> None:
    path = f"{__name__}.broken_credentials"
    answer = asked(make_connection(credentials=path).alias)
    assert not answer.reachable
    assert "the-token-itself" not in answer.reason


@pytest.mark.psycopg3
def test_a_pool_that_is_exhausted_is_not_waited_for(make_connection: Connections) -> None:
    connection = make_connection(options={"pool": {"min_size": 1, "max_size": 1}})
    connection.ensure_connection()
    assert asked(connection.alias).reachable
    assert connection.pool.get_stats()["pool_size"] == 1  # type: ignore[attr-defined]


def test_a_database_of_another_kind_is_asked_by_its_own_engine(
    make_connection: Connections,
) -> None:
    made = make_connection.register(
        "probed-sqlite", {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    )
    assert asked(made.alias).reachable
    broken = make_connection.register(
        "probed-broken", {"ENGINE": "django.db.backends.sqlite3", "NAME": "/no/such/folder/file"}
    )
    answer = asked(broken.alias)
    assert answer.reason == "OperationalError was raised"


def test_an_engine_that_connects_by_itself_is_asked_by_itself(
    make_connection: Connections, server: Server
) -> None:
    """As those do that connect through a cloud's library."""
    connection = make_connection("tests.server.health.connector")
    before = set(server.backends())
    assert asked(connection.alias).reachable
    until(lambda: set(server.backends()) <= before, "the session of the probe is still there")


def test_what_the_server_says_of_a_login_that_it_refuses_is_told(
    server: Server, make_connection: Connections
) -> None:
    alias = make_connection(options={"options": "-c default_transaction_isolation=nonsense"}).alias
    answer = asked(alias)
    assert not answer.reachable
    assert "default_transaction_isolation" in answer.reason


def test_it_is_asked_anew_in_a_forked_child(
    proxy: Proxy, make_connection: Connections, server: Server
) -> None:
    """Whose parent was waiting for an answer at that moment."""
    alias = make_connection(PORT=proxy.port).alias
    proxy.set_mode("mute")
    asker = threading.Thread(target=ask, args=([alias], LONG))
    asker.start()
    until(lambda: bool(probes()), "nobody asks")
    child = os.fork()
    if not child:
        try:
            connections.settings[alias]["PORT"] = server.port
            os._exit(0 if asked(alias).reachable else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    proxy.set_mode("pass")
    asker.join()
    assert os.waitstatus_to_exitcode(status) == 0
