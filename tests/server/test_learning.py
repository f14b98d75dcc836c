"""What a process learns from the connections that it finds dead, and what it must not."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

import pytest

from django_resilient_pg.recovery import announce_loss
from testproject.postgres import Server
from tests.engines import Connections, backend_pid, run, until

pytestmark = pytest.mark.once_per_driver

NO_LIMIT = float("inf")
#: What a server says when it ends a session, said by a function.
WORDS = [
    ("NOTICE", "57P05", "terminating connection due to idle-session timeout"),
    ("WARNING", "57P02", "terminating connection because of crash of another server process"),
    ("WARNING", "57P01", "terminating connection due to immediate shutdown command"),
    ("INFO", "25P03", "terminating connection due to idle-in-transaction timeout"),
]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection need not be idle for five seconds to be learned from."""
    monkeypatch.setattr(announce_loss, "_LEARN_FROM", 0.3)


def limit(connection: Any) -> float:
    return float(connection.resilience.limits.idle.seconds)


def cut(connection: Any) -> None:
    """End the stream without a word, as a device on the path does."""
    with socket.socket(fileno=os.dup(connection.connection.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("severity", "code", "text"), WORDS)
def test_what_a_function_says_is_not_the_servers_last_word(
    severity: str, code: str, text: str, make_connection: Connections
) -> None:
    connection: Any = make_connection(CONN_MAX_AGE=None)
    run(
        connection,
        f"DO $$ BEGIN RAISE {severity} USING MESSAGE = '{text}', ERRCODE = '{code}'; END $$",
    )
    run(connection)
    cut(connection)
    run(connection)
    assert set(connection.resilience.stats.lost) <= {"UNKNOWN", "NETWORK"}
    assert limit(connection) == NO_LIMIT


def test_a_stream_that_was_cut_is_learned_from(make_connection: Connections) -> None:
    connection = make_connection(CONN_MAX_AGE=None)
    run(connection)
    time.sleep(0.4)
    cut(connection)
    run(connection)
    assert 0.2 <= limit(connection) < NO_LIMIT


def test_a_crash_of_the_server_is_not(own_connections: Connections, own_server: Server) -> None:
    """The session's own process says nothing when it is killed."""
    connection = own_connections(CONN_MAX_AGE=None)
    run(connection)
    time.sleep(0.4)
    os.kill(backend_pid(connection), signal.SIGKILL)
    until(lambda: bool(connection._link.poll(0)), "the end has not arrived")  # type: ignore[attr-defined]
    run(connection)
    assert limit(connection) == NO_LIMIT


def test_a_server_that_does_not_answer_is_not(
    own_connections: Connections, own_server: Server
) -> None:
    connection = own_connections(CONN_MAX_AGE=None, ping_after=0.1, ping_timeout=0.3)
    run(connection)
    time.sleep(0.4)
    own_server.pause()
    try:
        assert not connection.is_usable()
    finally:
        own_server.resume()
    connection.close()
    run(connection)
    assert limit(connection) == NO_LIMIT


def test_a_connection_that_outlives_what_was_learned_unlearns_it(
    make_connection: Connections,
) -> None:
    """One that holds session state is kept beyond the limit."""
    connection = make_connection(CONN_MAX_AGE=None, ping_after=0.1)
    run(connection)
    time.sleep(0.4)
    cut(connection)
    run(connection, "SELECT pg_advisory_lock(1)")
    assert limit(connection) < NO_LIMIT
    time.sleep(0.8)
    run(connection)
    assert limit(connection) == NO_LIMIT
