"""A pooled connection has nothing of another request's, and the role that the settings name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import (
    DatabaseError,
    OperationalError,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from testproject.faults import Faults
from testproject.load import run as load
from testproject.postgres import Server
from tests.engines import PATIENCE, Connections, at_once, backend_pid, run
from tests.server.pool.pools import filled, pool_of, sized

pytestmark = pytest.mark.psycopg3


# -- nothing of another request's ------------------------------------------------------------------


SHOWN = (
    "SELECT coalesce(current_setting('app.tenant', true), ''), current_user::text,"
    " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
    " to_regclass('pg_temp.of_another') IS NULL, current_setting('TimeZone')"
)
CLEAN = [("", "app", 0, True, "UTC")]
LEFT = (
    "SELECT nextval('numbers')",
    "SET app.tenant = 'another'",
    "SET TimeZone = 'Asia/Tokyo'",
    "SELECT pg_advisory_lock_shared(77)",
    "CREATE TEMP TABLE of_another ()",
    "SET ROLE pg_monitor",
)


def leave_behind(alias: str, others: int, *texts: str) -> None:
    """So many requests at once leave on their sessions what a pool does not take away."""
    together = threading.Barrier(others)

    def request() -> None:
        mine = connections[alias]
        for text in texts or LEFT:
            run(mine, text)
        together.wait()
        mine.close()

    at_once(others, request)


@pytest.fixture
def beside_others(server: Server, make_connection: Connections) -> Iterator[BaseDatabaseWrapper]:
    """A request with a session of its own; what else is in the pool, others have used."""
    server.execute("GRANT pg_monitor TO app")
    server.execute("DROP SEQUENCE IF EXISTS numbers", database="app")
    server.execute("CREATE SEQUENCE numbers", database="app")
    server.execute("GRANT ALL ON SEQUENCE numbers TO app", database="app")
    connection = filled(make_connection(options=sized(3)))
    assert run(connection, SHOWN) == CLEAN
    leave_behind(connection.alias, 2)
    yield connection
    connection.close()
    server.execute("DROP SEQUENCE numbers", database="app")
    server.execute("REVOKE pg_monitor FROM app")


def test_a_replacement_has_nothing_that_another_request_has_left(
    beside_others: BaseDatabaseWrapper, server: Server
) -> None:
    for _ in range(3):
        run(beside_others, "SELECT nextval('numbers')")
        server.terminate(backend_pid(beside_others))
        with pytest.raises(OperationalError, match="lastval is not yet defined"):
            run(beside_others, "SELECT lastval()")
        assert run(beside_others, SHOWN) == CLEAN
        run(beside_others, "SELECT 1")


def test_nor_has_what_follows_a_write_that_was_raised(
    beside_others: BaseDatabaseWrapper, server: Server
) -> None:
    pid = backend_pid(beside_others)
    killer = threading.Timer(0.3, server.terminate, [pid])
    killer.start()
    with pytest.raises(OperationalError, match="terminating connection"):
        run(beside_others, "SELECT nextval('numbers') FROM pg_sleep(2)")
    killer.join()
    assert run(beside_others, SHOWN) == CLEAN


def test_nor_has_what_follows_a_lost_transaction(
    beside_others: BaseDatabaseWrapper, server: Server
) -> None:
    with pytest.raises(OperationalError), transaction.atomic(using=beside_others.alias):
        run(beside_others, "SELECT nextval('numbers')")
        server.terminate(backend_pid(beside_others))
        run(beside_others, "SELECT 1")
    assert run(beside_others, SHOWN) == CLEAN


def test_nor_has_one_without_autocommit(server: Server, make_connection: Connections) -> None:
    """DISCARD ALL cannot run in a transaction, which any statement would begin here."""
    connection = filled(make_connection(options=sized(2), AUTOCOMMIT=False))
    run(connection, "SELECT 1")
    connection.rollback()

    def request() -> None:
        mine = connections[connection.alias]
        run(mine, "SET app.tenant = 'another'")
        mine.commit()
        mine.close()

    worker = threading.Thread(target=request)
    worker.start()
    worker.join()
    pid = backend_pid(connection)
    connection.rollback()
    server.terminate(pid)
    assert run(connection, "SELECT coalesce(current_setting('app.tenant', true), '')") == [("",)]
    connection.rollback()


def test_statements_that_were_prepared_before_it_was_cleaned(
    server: Server, make_connection: Connections
) -> None:
    """DISCARD ALL drops them; psycopg before 3.3.5 goes on to execute them."""
    prepares = {"prepare_threshold": 0, "server_side_binding": True}
    connection = filled(make_connection(options={**sized(3), **prepares}))
    run(connection, "SET app.tenant = 'mine'")
    leave_behind(connection.alias, 2, "SELECT 'prepared'")
    for _ in range(3):
        server.terminate(backend_pid(connection))
        assert run(connection, "SELECT 'prepared'") == [("prepared",)]
        assert run(connection, "SELECT current_setting('app.tenant')") == [("mine",)]
    connection.close()
    for _ in range(3):  # what is in the pool by now
        assert run(connection, "SELECT 'prepared'") == [("prepared",)]
        connection.close()


def test_the_first_session_of_a_request_may_have_it_as_on_the_stock_engine(
    beside_others: BaseDatabaseWrapper,
) -> None:
    beside_others.close()
    beside_others.ensure_connection()
    seen = set()
    for _ in range(3):
        seen |= set(run(beside_others, SHOWN))
        beside_others.close()
    assert len(seen) == 2


def test_a_connection_that_could_not_be_set_up_goes_back_to_the_pool(
    make_connection: Connections,
) -> None:
    connection = filled(make_connection(options=sized(1), retry_deadline=1.0))

    def fail(**_: Any) -> None:
        raise KeyError("a receiver's own error")

    connection_created.connect(fail)
    try:
        for _ in range(3):
            with pytest.raises(KeyError):
                run(connection, "SELECT 1")
    finally:
        connection_created.disconnect(fail)
    assert run(connection, "SELECT 1") == [(1,)]


def test_what_was_interrupted_while_it_was_cleaned_serves_nobody(
    make_connection: Connections, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between DISCARD ALL and what Django sets up."""
    connection = filled(make_connection(options=sized(2), TIME_ZONE="Asia/Tokyo"))
    both = [connection, connection.copy()]
    for one in both:
        one.ensure_connection()
    both[1].close()

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    server.terminate(backend_pid(connection))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(connection, "_configure_connection", interrupt)
        run(connection, "SELECT 1")
    both[0] = connection.copy()
    assert [run(one, "SHOW TimeZone") for one in both] == [[("Asia/Tokyo",)]] * 2
    for one in both:
        one.close()


@pytest.mark.campaign
def test_a_load_on_a_pool_fails_no_read_and_loses_and_doubles_nothing(
    own_connections: Connections, own_server: Server
) -> None:
    """Six threads, four connections, a session killed after every forty operations, a restart."""
    connection = own_connections(options=sized(4))
    call_command("migrate", database=connection.alias, verbosity=0)
    connection.close()
    faults = Faults(own_server, kill_every=40, restarts=[(1200, "fast")], down=0.5)
    result = load(
        connection.alias,
        threads=6,
        operations=3000,
        faults=faults,
        ask=lambda sql, params: own_server.execute(sql, params, database="app"),
    )
    assert faults.kills > 20
    assert faults.restarts == 1
    assert result.failed_reads == 0, result.errors
    assert (result.lost, result.doubled, result.half_committed, result.hung) == (0, 0, 0, 0)
    connection.close()
    pool_of(connection).wait(PATIENCE)  # no place has leaked


# -- assume_role -----------------------------------------------------------------------------------


@pytest.fixture
def role(server: Server) -> Iterator[str]:
    server.execute("CREATE ROLE pool_clerk")
    yield "pool_clerk"
    server.execute("DROP ROLE pool_clerk")


def test_every_connection_of_a_pool_has_the_role(
    role: str, make_connection: Connections, server: Server
) -> None:
    """On the stock engine the first one asks the pool for another one, and so on."""
    server.execute(f"GRANT {role} TO app")
    connection = filled(make_connection(options={**sized(2), "assume_role": role}))
    for _ in range(3):
        assert run(connection, "SELECT current_user") == [(role,)]
        server.terminate(backend_pid(connection))


def test_a_role_that_is_refused_is_named(role: str, make_connection: Connections) -> None:
    connection = make_connection(options={**sized(2), "assume_role": role})
    with pytest.raises(DatabaseError, match=f'^permission denied to set role "{role}"'):
        run(connection, "SELECT 1")
