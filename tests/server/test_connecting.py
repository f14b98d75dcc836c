"""Connecting: what is tried again, for how long, and what is not."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg import signals
from testproject.postgres import Server
from tests.engines import PATIENCE, Connections, run, until
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.once_per_driver


def answers(connection: BaseDatabaseWrapper) -> bool:
    """Whether a statement succeeds: in a long outage those fail whose turn it is not."""
    with contextlib.suppress(OperationalError):
        return run(connection, "SELECT 1") == [(1,)]
    return False


@pytest.mark.parametrize("connected", [True, False])
def test_a_server_that_is_down_is_given_up_in_time_and_recovers_by_itself(
    own_connections: Connections, own_server: Server, connected: bool
) -> None:
    connection = own_connections(retry_deadline=2.0)
    if connected:
        run(connection, "SELECT 1")
    own_server.stop("fast")
    for note in ("retry_deadline (2 s) is used up", "has been down since"):
        began = time.monotonic()
        with pytest.raises(OperationalError) as caught:
            run(connection, "SELECT 1")
        assert time.monotonic() - began < 2.0 + PATIENCE / 2
        assert note in caught.value.__notes__[0]
    own_server.start()
    until(lambda: answers(connection), "it does not recover")


@pytest.fixture
def four_ways(server: Server) -> Iterator[list[Proxy]]:
    """Four addresses of one server."""
    with ExitStack() as stack:
        yield [stack.enter_context(Proxy(server.port)) for _ in range(4)]


def through(ways: Sequence[Proxy]) -> dict[str, Any]:
    """The settings of an alias with all these addresses."""
    ports = ",".join(str(way.port) for way in ways)
    return {"HOST": ",".join(["localhost"] * len(ways)), "PORT": ports}


@pytest.mark.slow
@pytest.mark.parametrize("connected", [True, False])
def test_four_silent_addresses_are_given_up_in_time(
    four_ways: list[Proxy], make_connection: Connections, connected: bool
) -> None:
    """The drivers give each of them two seconds at least, and five where nothing bounds it."""
    deadline = 3.0
    connection = make_connection(**through(four_ways), retry_deadline=deadline)
    if connected:
        run(connection, "SELECT 1")
        connection.close()
    for way in four_ways:
        way.set_mode("deaf")
    began = time.monotonic()
    with pytest.raises(OperationalError) as caught:
        run(connection, "SELECT 1")
    assert time.monotonic() - began < deadline + 1.0
    assert "retry_deadline (3 s) is used up" in "".join(caught.value.__notes__)


@pytest.mark.slow
@pytest.mark.parametrize("good", [0, 3])
def test_the_one_address_that_answers_is_reached_in_time(
    four_ways: list[Proxy], make_connection: Connections, good: int
) -> None:
    """Each address has its share: the silent ones before it do not use up the deadline."""
    connection = make_connection(**through(four_ways), retry_deadline=3.0)
    for way in four_ways:
        way.set_mode("deaf")
    four_ways[good].set_mode("pass")
    began = time.monotonic()
    assert run(connection, "SELECT 1") == [(1,)]
    assert time.monotonic() - began < 3.0 + 1.0


@pytest.mark.slow
def test_an_address_that_answers_late_is_used(
    four_ways: list[Proxy], make_connection: Connections
) -> None:
    """Its share is over, and others are tried beside it."""
    connection = make_connection(**through(four_ways), retry_deadline=3.0)
    for way in four_ways:
        way.set_mode("deaf")
    threading.Timer(1.5, four_ways[0].set_mode, ["pass"]).start()
    assert run(connection, "SELECT 1") == [(1,)]
    until(lambda: sum(way.open for way in four_ways) == 1, "what was left is still connected")


@pytest.mark.slow
def test_a_silent_address_is_given_up_in_time(server: Server, make_connection: Connections) -> None:
    with Proxy(server.port) as way:
        way.set_mode("deaf")
        connection = make_connection(HOST="127.0.0.1", PORT=way.port, retry_deadline=2.0)
        began = time.monotonic()
        with pytest.raises(OperationalError):
            run(connection, "SELECT 1")
        assert time.monotonic() - began < 2.0 + 1.0


def test_an_attempt_without_time_hides_no_error_that_says_more(
    server: Server, make_connection: Connections
) -> None:
    with Proxy(server.port) as way:
        connection = make_connection(HOST="127.0.0.1", PORT=way.port, retry_deadline=1.5)
        way.set_mode("refuse")
        threading.Timer(0.7, way.set_mode, ["deaf"]).start()
        with pytest.raises(OperationalError, match="refused"):
            run(connection, "SELECT 1")


def test_a_wrong_password_is_tried_on_one_address(
    four_ways: list[Proxy], make_connection: Connections
) -> None:
    connection = make_connection(**through(four_ways), retry_deadline=3.0)
    connection.settings_dict["PASSWORD"] = "a-wrong-secret"
    with pytest.raises(OperationalError, match="password authentication failed"):
        run(connection, "SELECT 1")
    assert [way.accepted > 0 for way in four_ways] == [True, False, False, False]


def test_a_restart_is_waited_out(own_connections: Connections, own_server: Server) -> None:
    connection = own_connections()
    run(connection, "SELECT 1")
    own_server.stop("immediate")
    threading.Timer(1.0, own_server.start).start()
    assert run(connection, "SELECT 1") == [(1,)]
    assert connection.resilience.stats.connect_retries > 0  # type: ignore[attr-defined]


def test_a_server_that_will_be_back_is_asked_often(
    own_connections: Connections, own_server: Server
) -> None:
    """So that no wait of the past keeps anybody for long once it is there."""
    connection = own_connections(retry_deadline=4.0)
    run(connection, "SELECT 1")
    waits: list[float] = []

    def listen(record: Any, **_: Any) -> None:
        waits.append(record.wait)

    signals.connect_retried.connect(listen)
    own_server.stop("immediate")
    with pytest.raises(OperationalError):
        run(connection, "SELECT 1")
    signals.connect_retried.disconnect(listen)
    assert len(waits) >= 4
    assert max(waits) <= 0.5


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"PASSWORD": "a-wrong-secret"}, "password authentication failed"),
        ({"NAME": "nowhere"}, "does not exist"),
        ({"USER": "nobody-here", "PASSWORD": "a-wrong-secret"}, "password authentication failed"),
    ],
)
def test_a_wrong_setting_fails_at_once_and_leaks_nothing(
    make_connection: Connections,
    change: dict[str, str],
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    connection = make_connection()
    connection.settings_dict.update(change)
    began = time.monotonic()
    with pytest.raises(OperationalError, match=text) as caught:
        run(connection, "SELECT 1")
    assert time.monotonic() - began < PATIENCE / 2
    said = str(caught.value) + " ".join(getattr(caught.value, "__notes__", [])) + caplog.text
    assert connection.settings_dict["PASSWORD"] not in said


def test_a_refused_certificate_fails_at_once(make_connection: Connections) -> None:
    connection = make_connection(options={"sslrootcert": "system"})
    began = time.monotonic()
    with pytest.raises(OperationalError, match=r"certificate|root"):
        run(connection, "SELECT 1")
    assert time.monotonic() - began < PATIENCE / 2


def test_a_wrong_option_is_said_before_anything_is_sent(make_connection: Connections) -> None:
    connection = make_connection(ping_aftr=3)
    with pytest.raises(ImproperlyConfigured, match="ping_after"):
        run(connection, "SELECT 1")


def test_retries_are_announced(own_connections: Connections, own_server: Server) -> None:
    """Frozen records to every listener, and the connection they are about."""
    connection = own_connections(retry_deadline=0.5, backoff=0.05)
    heard: list[Any] = []

    def listen(sender: Any, record: Any, **_: Any) -> None:
        heard.append(record)

    every: list[Any] = [
        signals.connection_lost,
        signals.connection_replaced,
        signals.connect_retried,
        signals.statement_retried,
    ]
    for signal in every:
        signal.connect(listen)
    try:
        run(connection, "SELECT 1")
        own_server.terminate_all()
        assert run(connection, "SELECT 1") == [(1,)]
        own_server.stop("fast")
        with pytest.raises(OperationalError):
            run(connection, "SELECT 1")
    finally:
        for signal in every:
            signal.disconnect(listen)
        kinds = [type(record).__name__ for record in heard]
    assert kinds[:2] == ["ConnectionLost", "ConnectionReplaced"]
    assert "ConnectRetried" in kinds
    assert {record.alias for record in heard} == {connection.alias}
    assert own_server.password not in repr(heard)


def test_a_receiver_that_raises_disturbs_nothing(
    resilient: BaseDatabaseWrapper, kill: Callable[[BaseDatabaseWrapper], int]
) -> None:
    def bad(**_: Any) -> None:
        raise RuntimeError("a receiver's own error")

    signals.connection_lost.connect(bad)
    try:
        kill(resilient)
        assert run(resilient, "SELECT 1") == [(1,)]
    finally:
        signals.connection_lost.disconnect(bad)


def test_a_connection_that_could_not_be_set_up_is_not_kept(
    make_connection: Connections,
) -> None:
    """A failing connection_created receiver must not leave a half-configured connection."""
    from django.db.backends.signals import connection_created

    connection = make_connection()

    def fail(connection: BaseDatabaseWrapper, **_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT no_such_column")

    connection_created.connect(fail)
    try:
        with pytest.raises(Error):
            run(connection, "SELECT 1")
        assert connection.connection is None
    finally:
        connection_created.disconnect(fail)
    assert run(connection, "SELECT 1") == [(1,)]


def test_what_receivers_set_on_a_new_connection_is_set_again_and_does_not_pin(
    make_connection: Connections, server: Server
) -> None:
    from django.db.backends.signals import connection_created

    connection = make_connection()

    def configure(connection: BaseDatabaseWrapper, **_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET application_name TO 'mine'")

    connection_created.connect(configure)
    try:
        assert run(connection, "SHOW application_name") == [("mine",)]
        server.terminate_all()
        assert run(connection, "SHOW application_name") == [("mine",)]
    finally:
        connection_created.disconnect(configure)


@pytest.mark.psycopg2
def test_a_pool_needs_psycopg_3(make_connection: Connections) -> None:
    connection = make_connection(options={"pool": True})
    with pytest.raises(ImproperlyConfigured, match="psycopg >= 3"):
        run(connection, "SELECT 1")
    del connection.settings_dict["OPTIONS"]["pool"]
