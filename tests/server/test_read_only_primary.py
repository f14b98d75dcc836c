"""The only primary turns read-only: its disk is full, or somebody has fenced it off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

import pytest
from django.db import Error, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT, Connections, backend_pid, run, until

pytestmark = pytest.mark.once_per_driver

OPTIONS: list[dict[str, str]] = [{}, {"target_session_attrs": "read-write"}]
TABLE = "CREATE TABLE IF NOT EXISTS entry (value text)"
SETTING = "default_transaction_read_only"


def insert(connection: BaseDatabaseWrapper) -> None:
    run(connection, "INSERT INTO entry VALUES ('x')")


def in_transaction(connection: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=connection.alias):
        insert(connection)


def later_in_transaction(connection: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=connection.alias):
        run(connection, "SELECT 1")
        insert(connection)


WRITES: list[Callable[[BaseDatabaseWrapper], None]] = [insert, in_transaction, later_in_transaction]


def lift(server: Server) -> None:
    """In one session, which has to lift it for itself first."""
    link = import_module(DRIVER).connect(
        host=server.socket_dir,
        port=server.port,
        dbname="postgres",
        user=server.superuser,
        password=server.superuser_password,
    )
    link.autocommit = True
    for sql in (f"SET {SETTING} = off", f"ALTER SYSTEM RESET {SETTING}", "SELECT pg_reload_conf()"):
        link.cursor().execute(sql)
    link.close()


@pytest.fixture
def shut(server: Server) -> Iterator[Callable[[], None]]:
    """Make the server read-only; it is lifted in the end."""
    yield lambda: server.configure(default_transaction_read_only="on")
    lift(server)
    until(lambda: server.execute(f"SHOW {SETTING}") == [("off",)], "still read-only")


def wait_for(connection: BaseDatabaseWrapper, value: str) -> None:
    until(lambda: run(connection, f"SHOW {SETTING}") == [(value,)], f"not {value}")


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_session_is_kept_and_reads_go_on(
    options: dict[str, str],
    write: Callable[[BaseDatabaseWrapper], None],
    make_connection: Connections,
    server: Server,
    shut: Callable[[], None],
) -> None:
    connection = make_connection(RESILIENT, options=options, CONN_MAX_AGE=None)
    run(connection, TABLE)
    pid = backend_pid(connection)
    shut()
    wait_for(connection, "on")
    for _ in range(3):
        with pytest.raises(Error, match="read-only transaction") as caught:
            write(connection)
        notes = "".join(caught.value.__notes__)
        assert "its disk is full, it is under maintenance, or it was fenced off" in notes
        assert "standby" not in notes
        assert run(connection, "SELECT 1") == [(1,)]
    assert backend_pid(connection) == pid
    stats = connection.resilience.stats  # type: ignore[attr-defined]
    assert (dict(stats.lost), stats.replaced, stats.connect_retries) == ({}, 0, 0)
    lift(server)
    wait_for(connection, "off")
    write(connection)
    assert backend_pid(connection) == pid


@pytest.mark.psycopg3
@pytest.mark.parametrize("options", OPTIONS)
def test_so_is_a_pools(
    options: dict[str, str],
    make_connection: Connections,
    shut: Callable[[], None],
) -> None:
    pool = {"pool": {"min_size": 1, "max_size": 1}}
    connection = make_connection(RESILIENT, options={**options, **pool})
    run(connection, TABLE)
    pid = backend_pid(connection)
    shut()
    wait_for(connection, "on")
    with pytest.raises(Error, match="read-only transaction"):
        insert(connection)
    connection.close()
    assert run(connection, "SELECT 1") == [(1,)]
    assert backend_pid(connection) == pid


def test_a_read_only_transaction_of_the_applications_own_has_no_note(
    make_connection: Connections,
) -> None:
    connection = make_connection(RESILIENT)
    run(connection, TABLE)
    with pytest.raises(Error) as caught, transaction.atomic(using=connection.alias):
        run(connection, "SET TRANSACTION READ ONLY")
        insert(connection)
    assert not getattr(caught.value, "__notes__", [])
