"""What one physical connection knows of itself, and how that changes: on real connections."""

from __future__ import annotations

import math
import time

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.driver.choose import link_to
from django_resilient_pg.driver.link import IDLE, UNKNOWN, Link
from testproject.postgres import Server
from tests.engines import PATIENCE, Connections, backend_pid

pytestmark = pytest.mark.once_per_driver


def link_of(connection: BaseDatabaseWrapper) -> Link:
    connection.ensure_connection()
    link: Link = connection._link  # type: ignore[attr-defined]
    return link


@pytest.fixture
def link(make_connection: Connections) -> Link:
    return link_of(make_connection())


def lost(link: Link, server: Server) -> Link:
    """The same, once its session was terminated and its last words were read."""
    server.terminate(link.backend_pid())
    assert link.poll(int(PATIENCE * 1000))
    link.consume()
    assert link.lost()
    return link


def test_a_wrapper_has_the_link_of_its_connection(make_connection: Connections) -> None:
    made = make_connection()
    first = link_of(made)
    assert first.connection is made.connection
    made.close()
    assert made._link is None  # type: ignore[attr-defined]
    assert link_of(made) is not first


@pytest.mark.psycopg3
def test_a_connection_has_one_link_for_life(make_connection: Connections) -> None:
    """A pool hands it out again and again."""
    made = make_connection()
    assert link_of(made) is link_to(made.connection)


def test_what_was_heard_was_seen_too(link: Link) -> None:
    link.heard(5.0)
    assert (link.heard_at, link.seen_at) == (5.0, 5.0)
    link.seen(6.0)
    assert (link.heard_at, link.seen_at) == (5.0, 6.0)
    link.doubt()
    assert (link.heard_at, link.seen_at) == (5.0, -math.inf)


def test_lending_it_forgets_what_was_agreed_before(link: Link) -> None:
    link.terms, link.seen_at = object(), 0.0
    link.lend(peeks=True, asks_outcome=True)
    assert (link.terms, link.asks_outcome, link.peek) == (None, True, link.poll)
    assert link.seen_at > 0.0
    link.lend(peeks=False, asks_outcome=False)
    assert not link.asks_outcome
    assert not link.peek(0), "the option peek is off"


def test_a_loss_is_announced_once(link: Link) -> None:
    assert (link.announced, link.incident) == (False, None)
    incident = object()
    link.announce(incident)
    assert (link.announced, link.incident) == (True, incident)


def test_a_cursor_that_another_thread_left_is_closed_between_statements(link: Link) -> None:
    cursor = link.connection.cursor()
    link.leave_cursor(cursor)
    assert link.peek(0), "so that the next check comes"
    link.close_left()
    assert (cursor.closed, link.left) == (True, [])


def test_the_last_word_is_that_of_the_server(link: Link, server: Server) -> None:
    assert link.last_word is None
    assert (link.status(), link.lost()) == (IDLE, False)
    word = lost(link, server).last_word
    assert word is not None
    assert word.severity == "FATAL"
    assert "terminating connection" in word.text
    assert link.status() == UNKNOWN


def test_a_warning_is_no_last_word_once_the_server_was_heard_again(
    link: Link, server: Server
) -> None:
    word = lost(link, server).last_word
    assert word is not None
    word.severity = "WARNING"
    assert link.last_word is word
    link.heard(time.monotonic())
    assert link.last_word is None


def test_what_keeps_it_last_is_its_cursors(make_connection: Connections) -> None:
    made = make_connection()
    link, pid = link_of(made), backend_pid(made)
    cursor = link.connection.cursor()
    made.connection = None
    link.leave()
    assert link.status() == UNKNOWN
    cursor.execute("SELECT pg_backend_pid()")
    assert tuple(cursor.fetchone()) == (pid,)
    cursor.close()
    del cursor
    with pytest.raises(link.connection.Error, match="closed"):
        link.connection.cursor()
