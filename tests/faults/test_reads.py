"""A read that is lost again while it is being run again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections, killed_midway
from tests.faults.proxy import Proxy

MANY = 1_000_000
READ = "SELECT g FROM generate_series(1, 300) AS g, pg_sleep(0.3)"


def read_killed_midway(server: Server, connection: BaseDatabaseWrapper) -> list[int]:
    found: list[int] = []
    with killed_midway(server, connection), connection.cursor() as cursor:
        cursor.execute(READ)
        while rows := cursor.fetchmany(100):
            found += [row[0] for row in rows]
    return found


def test_the_rows_are_there_when_only_the_end_of_their_transaction_was_lost(
    server: Server, make_connection: Connections, make_proxy: Callable[..., Proxy]
) -> None:
    """They came before its COMMIT. psycopg2 forgets them with the connection: it asks again."""
    proxy = make_proxy()
    connection = make_connection(
        RESILIENT, options={"sslmode": "disable"}, PORT=str(proxy.port), read_retries=3
    )
    connection.ensure_connection()
    # Before that, so that the catalogues' answer is known: they are asked each time if it is late.
    assert read_killed_midway(server, connection) == list(range(1, 301))
    # Once only to count the messages. The last one is COMMIT.
    proxy.cut_at(MANY, "before")
    assert read_killed_midway(server, connection) == list(range(1, 301))
    messages = MANY - proxy.messages_left

    proxy.cut_at(messages, "before")
    assert read_killed_midway(server, connection) == list(range(1, 301))
    assert proxy.messages_left == 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT 5")
        assert cursor.fetchall() == [(5,)]

    stock = make_connection(STOCK)
    stock.ensure_connection()
    with pytest.raises(Error):
        read_killed_midway(server, stock)
