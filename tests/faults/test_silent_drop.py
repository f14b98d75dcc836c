"""A flow whose packets vanish without a word, as in a NAT that has forgotten it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.engines import RESILIENT, STOCK, Connections, ask
from tests.faults.namespace import Namespace


@contextmanager
def forgotten(namespace: Namespace, connection: BaseDatabaseWrapper) -> Iterator[None]:
    """This connection's packets vanish, both ways; new connections pass."""
    connection.ensure_connection()
    own = socket.fromfd(connection.connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    with own:
        port = own.getsockname()[1]
    with namespace.forgetting([port]):
        yield


def test_an_idle_flow_that_was_dropped_is_found_by_the_ping(
    namespace: Namespace, make_far_connection: Connections
) -> None:
    connection = make_far_connection(ping_after=1, ping_timeout=1)
    assert ask(connection) == 1
    with forgotten(namespace, connection):
        time.sleep(1.2)
        began = time.monotonic()
        assert ask(connection, "SELECT 7") == 7
        assert time.monotonic() - began < 10.0


def test_the_stock_engine_hangs_under_the_same_fault(
    namespace: Namespace, make_far_connection: Connections
) -> None:
    connection = make_far_connection(STOCK)
    assert ask(connection) == 1
    connection.inc_thread_sharing()
    answers: list[Any] = []
    with forgotten(namespace, connection):
        thread = threading.Thread(target=lambda: answers.append(ask(connection)))
        thread.start()
        thread.join(timeout=5)
        assert thread.is_alive(), "it would hang for a quarter of an hour"
    thread.join(timeout=30)
    assert answers == [1]


@pytest.mark.slow
def test_with_all_defaults_the_next_read_answers_within_45_seconds(
    namespace: Namespace, make_far_connection: Connections
) -> None:
    """Not idle long enough for a ping: TCP_USER_TIMEOUT ends the write into the black hole."""
    connection = make_far_connection(RESILIENT)
    assert ask(connection) == 1
    with forgotten(namespace, connection):
        began = time.monotonic()
        assert ask(connection, "SELECT 7") == 7
        assert time.monotonic() - began < 45.0
