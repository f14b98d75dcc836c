"""How long connections of a pool live, and which checks they pass."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import (
    OperationalError,
)

from testproject.postgres import Server
from tests.engines import PATIENCE, Connections, backend_pid, run
from tests.server.pool.pools import filled, pool_of, sized

pytestmark = pytest.mark.psycopg3


def test_a_limit_learned_later_holds_for_what_was_lent_before(make_connection: Connections) -> None:
    connection = filled(make_connection(options=sized(1)))
    [(before,)] = run(connection, "SELECT pg_backend_pid()")
    connection.close()
    assert run(connection, "SELECT pg_backend_pid()") == [(before,)]
    connection.close()
    connection.resilience.shared.learned.note(0.5)  # type: ignore[attr-defined]
    time.sleep(0.5)  # twice its half
    assert run(connection, "SELECT pg_backend_pid()") != [(before,)]


def test_the_pool_keeps_to_the_engines_limits(
    own_connections: Connections, own_server: Server
) -> None:
    own_server.configure(idle_session_timeout="10s")
    connection: Any = filled(own_connections(options=sized(1)))
    assert pool_of(connection).max_idle == 5.0
    assert pool_of(connection).max_lifetime == 3600.0
    assert connection.resilience.limits.age is None


def test_what_the_user_has_set_holds(own_connections: Connections, own_server: Server) -> None:
    own_server.configure(idle_session_timeout="10s")
    options = sized(1, max_idle=60.0, max_lifetime=120.0)
    connection = filled(own_connections(options=options))
    assert pool_of(connection).max_idle == 60.0
    assert pool_of(connection).max_lifetime == 120.0


def test_a_connection_idle_for_longer_than_its_limit_is_replaced_before_use(
    make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    connection = filled(make_connection(options=sized(1), idle_timeout=4.0))
    connection.ensure_connection()
    pid = backend_pid(connection)
    connection.close()
    connection.ensure_connection()
    assert backend_pid(connection) == pid
    connection.close()
    time.sleep(2.1)  # half of it and more
    with caplog.at_level(logging.INFO):
        run(connection, "SELECT 1")
    assert backend_pid(connection) != pid
    assert not caplog.records, "routine"


def test_max_age_and_pool_contradict_each_other_as_with_the_stock_engine(
    make_connection: Connections,
) -> None:
    connection = make_connection(options=sized(1), CONN_MAX_AGE=60)
    with pytest.raises(ImproperlyConfigured, match="persistent connections"):
        run(connection, "SELECT 1")
    del connection.settings_dict["OPTIONS"]["pool"]


def test_a_check_of_the_users_own_is_asked_too(make_connection: Connections) -> None:
    asked: list[Any] = []

    def refuse_first(connection: Any) -> None:
        asked.append(connection)
        if len(asked) == 1:
            raise ValueError("not this one")

    connection = make_connection(options=sized(2, check=refuse_first))
    assert run(connection, "SELECT 1") == [(1,)]
    assert len(asked) == 2


def test_a_check_that_refuses_all_is_named_and_makes_no_storm(
    make_connection: Connections,
) -> None:
    asked: list[Any] = []

    def refuse(connection: Any) -> None:
        asked.append(connection)
        raise ValueError("never")

    connection = make_connection(options=sized(2, check=refuse), retry_deadline=2.0)
    began = time.monotonic()
    with pytest.raises(OperationalError, match=r"check refused .* ValueError") as caught:
        run(connection, "SELECT 1")
    assert time.monotonic() - began < 2.0 + PATIENCE / 2
    assert 3 < len(asked) < 30
    assert "max_size" not in str(caught.value)


def slow_credentials(alias: str) -> dict[str, str]:
    time.sleep(1.2)
    return {"user": "app"}


def test_connections_that_are_slow_to_be_made_are_not_said_to_be_in_use(
    make_connection: Connections,
) -> None:
    connection = make_connection(
        options=sized(2), retry_deadline=0.5, credentials=f"{__name__}.slow_credentials"
    )
    with pytest.raises(OperationalError, match="0 of at most 2 are in use") as caught:
        run(connection, "SELECT 1")
    assert "still being made" in str(caught.value)
    assert "max_size" not in str(caught.value)
