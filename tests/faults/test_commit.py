"""COMMIT on a wire that is cut: before the server sees it, after it, and before its answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import pytest
from django.db import Error, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_resilient_pg.errors import CommitOutcomeUnknown, ServerDown, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT, STOCK, Connections, backend_pid, until
from tests.faults.proxy import Point, Proxy

TABLE = "commits"


@pytest.fixture
def table(server: Server) -> Iterator[None]:
    server.execute(f"CREATE TABLE {TABLE} (value text)", database="app")
    server.execute(f"GRANT ALL ON {TABLE} TO app", database="app")
    yield
    server.execute(f"DROP TABLE {TABLE}", database="app")


def rows(server: Server) -> list[str]:
    return [v for (v,) in server.execute(f"SELECT value FROM {TABLE} ORDER BY 1", database="app")]


def assert_rows(server: Server, count: int) -> None:
    """A COMMIT that has been sent may still be under way."""
    until(lambda: len(rows(server)) >= count, f"less than {count} rows")
    assert len(rows(server)) == count


def insert(connection: BaseDatabaseWrapper, value: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {TABLE} (value) VALUES (%s)", [value])


@pytest.mark.parametrize("via", ["retry_atomic", "option"])
def test_the_server_is_asked_what_became_of_a_commit(
    via: str, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    """The answer to COMMIT never arrives; the row is there; nothing is done twice."""
    given: dict[str, Any] = {} if via == "retry_atomic" else {"commit_outcome": True}
    connection = make_connection(RESILIENT, PORT=proxy.port, **given)
    hooks: list[str] = []

    def work() -> None:
        insert(connection, "once")
        transaction.on_commit(lambda: hooks.append("once"), using=connection.alias)

    slow_commit(server)
    pid: list[int] = []
    connection.ensure_connection()
    pid.append(backend_pid(connection))
    cutter = threading.Thread(target=cut_after_commit, args=(server, proxy, pid[0]))
    cutter.start()
    if via == "retry_atomic":
        retry_atomic.run(work, using=connection.alias)
    else:
        with transaction.atomic(using=connection.alias):
            work()
    cutter.join()
    assert rows(server) == ["once"]
    assert hooks == ["once"]


def slow_commit(server: Server) -> None:
    """Make COMMIT take long enough to be cut in the middle."""
    server.execute(
        """
        CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$
        """,
        database="app",
    )
    server.execute(
        f"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {TABLE}"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
        database="app",
    )


def cut_after_commit(server: Server, proxy: Proxy, pid: int) -> None:
    """Cut the connection while its COMMIT runs in the server."""
    deadline = time.monotonic() + 10
    asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    while not server.execute(asleep, [pid]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    proxy.cut("reset")


@pytest.mark.campaign
@pytest.mark.parametrize("point", ["before", "after", "answer"])
def test_two_hundred_commits_cut_leave_one_row_and_one_hook_each(
    point: Point, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port)
    hooks: list[str] = []

    def work(token: str, runs: list[int]) -> None:
        runs.append(1)
        insert(connection, token)
        transaction.on_commit(lambda: hooks.append(token), using=connection.alias)
        if len(runs) == 1:
            proxy.cut_at(2, point)  # 1 asks for the transaction's id, 2 is COMMIT

    tokens = [f"{number:03}" for number in range(200)]
    for token in tokens:
        runs: list[int] = []
        retry_atomic.run(partial(work, token, runs), using=connection.alias)
        assert len(runs) == (2 if point == "before" else 1)
    assert rows(server) == tokens
    assert hooks == tokens
    assert sum(connection.resilience.stats.lost.values()) >= 200  # type: ignore[attr-defined]


@pytest.mark.parametrize("point", ["before", "after", "answer"])
def test_plain_atomic_never_claims_to_know(
    point: Point, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port)
    for number in range(10):
        with pytest.raises(CommitOutcomeUnknown), transaction.atomic(using=connection.alias):
            insert(connection, f"{number}")
            proxy.cut_at(1, point)
    assert_rows(server, 0 if point == "before" else 10)


@pytest.mark.parametrize("point", ["before", "after", "answer"])
def test_the_stock_engine_raises_alike_whether_it_committed_or_not(
    point: Point, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    """Which is why retry loops around it write rows twice."""
    connection = make_connection(STOCK, PORT=proxy.port)
    with pytest.raises(Error) as caught, transaction.atomic(using=connection.alias):
        insert(connection, "x")
        proxy.cut_at(1, point)
    assert not isinstance(caught.value, CommitOutcomeUnknown)
    assert_rows(server, 0 if point == "before" else 1)


def test_a_lost_commit_that_was_rolled_back_runs_again(
    make_connection: Connections, server: Server, table: None
) -> None:
    """Killed in COMMIT's triggers: aborted, says the server, and retry_atomic does it again."""
    connection = make_connection(RESILIENT)
    slow_commit(server)
    connection.ensure_connection()
    pid = backend_pid(connection)
    runs: list[int] = []
    hooks: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(connection, "once")
        transaction.on_commit(lambda: hooks.append(1), using=connection.alias)

    killer = threading.Thread(target=kill_in_commit, args=(server, pid))
    killer.start()
    retry_atomic.run(work, using=connection.alias)
    killer.join()
    assert len(runs) == 2
    assert rows(server) == ["once"]
    assert hooks == [1]


def kill_in_commit(server: Server, pid: int) -> None:
    deadline = time.monotonic() + 10
    asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    while not server.execute(asleep, [pid]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.terminate(pid)


def test_plain_atomic_says_that_the_outcome_is_unknown(
    make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port)
    slow_commit(server)
    connection.ensure_connection()
    cutter = threading.Thread(
        target=cut_after_commit, args=(server, proxy, backend_pid(connection))
    )
    cutter.start()
    with pytest.raises(CommitOutcomeUnknown), transaction.atomic(using=connection.alias):
        insert(connection, "x")
    cutter.join()
    assert len(rows(server)) <= 1


@pytest.mark.parametrize("using", ["function", "decorator", "arguments"])
def test_a_transaction_lost_in_the_middle_runs_again(
    using: str,
    make_connection: Connections,
    server: Server,
    table: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    connection = make_connection(RESILIENT)
    runs: list[int] = []

    def work() -> str:
        runs.append(1)
        insert(connection, "a")
        if len(runs) == 1:
            kill(connection)
        insert(connection, "b")
        return "done"

    if using == "function":
        assert retry_atomic.run(work, using=connection.alias) == "done"
    else:
        decorated = retry_atomic(using=connection.alias)(work)
        assert decorated() == "done"
    assert len(runs) == 2
    assert rows(server) == ["a", "b"]


def test_conflicts_run_again(make_connection: Connections, server: Server, table: None) -> None:
    """SQLSTATE 40001: the server says itself that the transaction may be run again."""
    connection = make_connection(RESILIENT)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(connection, "a")
        if len(runs) < 3:
            with connection.cursor() as cursor:
                cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'c' USING ERRCODE = '40001'; END $$")

    retry_atomic.run(work, using=connection.alias)
    assert (len(runs), rows(server)) == (3, ["a"])
    runs.clear()
    with pytest.raises(Error):
        retry_atomic.run(work, using=connection.alias, conflicts=False)
    assert (len(runs), rows(server)) == (1, ["a"])


def test_it_gives_up_after_its_retries_with_the_last_error(
    make_connection: Connections,
    server: Server,
    table: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    connection = make_connection(RESILIENT)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(connection, "a")
        kill(connection)
        insert(connection, "b")

    with pytest.raises(Error):
        retry_atomic.run(work, using=connection.alias, retries=2)
    assert len(runs) == 3
    assert rows(server) == []


def test_it_refuses_to_nest(make_connection: Connections) -> None:
    connection = make_connection(RESILIENT)
    with transaction.atomic(using=connection.alias), pytest.raises(RuntimeError, match="outermost"):
        retry_atomic.run(lambda: None, using=connection.alias)


LOCAL = [
    "SET LOCAL app.tenant = '7'",
    "SELECT set_config('app.tenant', '7', true)",
    "SELECT pg_catalog.set_config('app.tenant', '7', true)",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
]


@contextmanager
def reading(connection: BaseDatabaseWrapper, first: str) -> Iterator[None]:
    """In a transaction that only reads, and whose hook runs."""
    hooks: list[int] = []
    with transaction.atomic(using=connection.alias):
        transaction.on_commit(lambda: hooks.append(1), using=connection.alias)
        with connection.cursor() as cursor:
            cursor.execute(first)
            cursor.execute("SELECT 1")
        yield
    assert hooks == [1]


@pytest.mark.parametrize("first", ["SELECT count(*) FROM pg_class", *LOCAL])
@pytest.mark.parametrize("given", [{}, {"commit_outcome": True}])
def test_a_transaction_that_only_read_is_not_reported_as_unknown(
    first: str, given: dict[str, Any], make_connection: Connections, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port, **given)
    with reading(connection, first):
        proxy.cut_at(2 if given else 1, "before")  # the id is asked for before
    assert sum(connection.resilience.stats.lost.values()) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", ["SELECT count(*) FROM pg_class", *LOCAL])
def test_a_transaction_that_only_read_has_nothing_to_lose(
    first: str, make_connection: Connections, kill: Callable[[BaseDatabaseWrapper], int]
) -> None:
    connection = make_connection(RESILIENT)
    with reading(connection, first):
        kill(connection)


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_only_read_by_its_text_is_lost_where_nobody_can_be_asked(
    by_hand: bool, own_server: Server, own_connections: Connections
) -> None:
    """Only the catalogues know whether what it named writes by itself."""
    connection = own_connections(RESILIENT, retry_deadline=0.5)
    hooks: list[int] = []

    def work() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not by_hand:
            transaction.on_commit(lambda: hooks.append(1), using=connection.alias)
        own_server.stop()

    with pytest.raises(TransactionLost):
        if by_hand:
            connection.set_autocommit(False)
            work()
            connection.commit()
        else:
            with transaction.atomic(using=connection.alias):
                work()
    connection.close()
    own_server.start()
    until(lambda: answers(connection), "no answer")  # whoever comes before the next attempt is due
    assert hooks == []


def answers(connection: BaseDatabaseWrapper) -> bool:
    """Whether the server is known to be back."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except ServerDown:
        return False
    return True


@pytest.mark.parametrize(
    "text", ["NOTIFY news, 'x'", "SELECT pg_notify('news', 'x')", "SELECT wake()"]
)
def test_a_notification_alone_is_not_taken_for_sent(
    make_connection: Connections, server: Server, proxy: Proxy, text: str
) -> None:
    """It has no transaction id until COMMIT has begun, and so nobody can tell."""
    wake = "LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('news', 'x'); END $$"
    server.execute(f"CREATE OR REPLACE FUNCTION wake() RETURNS void {wake}", database="app")
    connection = make_connection(RESILIENT, PORT=proxy.port)

    def work() -> None:
        with connection.cursor() as cursor:
            cursor.execute(text)
        proxy.cut_at(2, "before")  # 1 asks for the transaction's id, 2 is COMMIT

    with pytest.raises(CommitOutcomeUnknown):
        retry_atomic.run(work, using=connection.alias)


@pytest.mark.parametrize(
    "text",
    [
        f"SELECT lower(value) FROM {TABLE}",
        "SET LOCAL work_mem = '8MB'",
    ],
)
def test_what_had_no_effect_succeeds_whatever_became_of_its_commit(
    make_connection: Connections, table: None, proxy: Proxy, text: str
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port)

    def work() -> None:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute(text)
        # What has run something asks for the transaction's id before COMMIT.
        proxy.cut_at(2 if text.startswith("SELECT") else 1, "before")

    retry_atomic.run(work, using=connection.alias)
    assert sum(connection.resilience.stats.lost.values()) == 1  # type: ignore[attr-defined]


@pytest.fixture
def without_ids(server: Server) -> Iterator[str]:
    """A database that gives no transaction its id, as some that speak the protocol do not."""
    server.create_database("without_ids")
    server.execute(
        "CREATE OR REPLACE FUNCTION pg_catalog.pg_current_xact_id_if_assigned()"
        " RETURNS xid8 STABLE LANGUAGE sql AS 'SELECT NULL::xid8'",
        database="without_ids",
    )
    server.execute(f"CREATE TABLE {TABLE} (value text)", database="without_ids")
    server.execute(f"GRANT ALL ON {TABLE} TO app", database="without_ids")
    yield "without_ids"
    server.drop_database("without_ids")


@pytest.mark.parametrize(
    "text",
    [
        f"INSERT INTO {TABLE} (value) VALUES ('x')",
        f"UPDATE {TABLE} SET value = lower(value) WHERE value = 'nobody'",
    ],
)
def test_that_no_id_was_given_out_does_not_prove_that_nothing_was_written(
    text: str, without_ids: str, make_connection: Connections, server: Server, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, database=without_ids, PORT=proxy.port)
    hooks: list[int] = []

    def work() -> None:
        with connection.cursor() as cursor:
            cursor.execute(text)
        transaction.on_commit(lambda: hooks.append(1), using=connection.alias)
        proxy.cut_at(2, "before")  # 1 asks for the transaction's id, 2 is COMMIT

    with pytest.raises(CommitOutcomeUnknown):
        retry_atomic.run(work, using=connection.alias)
    assert hooks == []
    assert server.execute(f"SELECT count(*) FROM {TABLE}", database=without_ids) == [(0,)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def test_a_swallowed_loss_runs_again_as_well(
    make_connection: Connections,
    server: Server,
    table: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    connection = make_connection(RESILIENT)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(connection, "a")
        if len(runs) == 1:
            kill(connection)
            try:
                insert(connection, "b")
            except Error:
                return
        insert(connection, "b")

    retry_atomic.run(work, using=connection.alias)
    assert (len(runs), rows(server)) == (2, ["a", "b"])


def test_without_retry_the_loss_of_a_writing_transaction_is_certain(
    make_connection: Connections,
    server: Server,
    table: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    connection = make_connection(RESILIENT)
    with pytest.raises(TransactionLost), transaction.atomic(using=connection.alias):
        insert(connection, "a")
        kill(connection)
    assert rows(server) == []


@pytest.mark.parametrize("kind", ["read", "write"])
def test_the_question_is_asked_again_if_its_connection_dies_too(
    kind: str, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    """As under a load whose sessions are ended all the time."""
    connection = make_connection(RESILIENT, PORT=proxy.port)
    hooks: list[int] = []
    killed: list[int] = []

    def kill_the_first(connection: BaseDatabaseWrapper, **_: Any) -> None:
        if not killed:
            killed.append(backend_pid(connection))
            server.terminate(*killed)

    def work() -> None:
        if kind == "write":
            insert(connection, "once")
        else:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM pg_class")
        transaction.on_commit(lambda: hooks.append(1), using=connection.alias)
        proxy.cut_at(2 if kind == "write" else 1, "answer")

    connection.ensure_connection()
    connection_created.connect(kill_the_first)
    try:
        if kind == "write":
            retry_atomic.run(work, using=connection.alias)
        else:
            with transaction.atomic(using=connection.alias):
                work()
    finally:
        connection_created.disconnect(kill_the_first)
    assert killed
    assert hooks == [1]
    assert rows(server) == (["once"] if kind == "write" else [])


ROWS = ["dict_row", "namedtuple_row"] if DRIVER == "psycopg" else []
CURSORS = ["NamedTupleCursor", "RealDictCursor"] if DRIVER == "psycopg2" else []


@contextmanager
def rows_of_another_kind(name: str) -> Iterator[dict[str, Any]]:
    """Connections whose rows are no plain tuples; the value is their OPTIONS."""
    if name in CURSORS:
        yield {"cursor_factory": getattr(import_module("psycopg2.extras"), name)}
        return

    def give(connection: BaseDatabaseWrapper, **_: object) -> None:
        connection.connection.row_factory = getattr(import_module("psycopg.rows"), name)

    connection_created.connect(give)
    try:
        yield {}
    finally:
        connection_created.disconnect(give)


@pytest.mark.parametrize("point", ["before", "answer"])
@pytest.mark.parametrize("name", [*ROWS, *CURSORS])
def test_the_engine_asks_for_tuples_whatever_the_application_has(
    name: str,
    point: Point,
    make_connection: Connections,
    server: Server,
    table: None,
    proxy: Proxy,
) -> None:
    runs: list[int] = []
    with rows_of_another_kind(name) as options:
        connection = make_connection(RESILIENT, PORT=proxy.port, options=options)

        def work() -> None:
            runs.append(1)
            insert(connection, f"{len(runs)}")
            if len(runs) == 2:
                proxy.cut_at(2, point)  # 1 asks for the transaction's id, 2 is COMMIT

        for _ in range(2):
            retry_atomic.run(work, using=connection.alias)
    assert rows(server) == (["1", "3"] if point == "before" else ["1", "2"])


def test_what_follows_a_text_that_ended_the_transaction_is_not_done_twice(
    make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    """psycopg2 believes itself in a transaction still: what follows takes effect at once."""
    connection = make_connection(RESILIENT, PORT=proxy.port)
    with pytest.raises(Error), transaction.atomic(using=connection.alias):
        insert(connection, "a")
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
            proxy.cut_at(1 if DRIVER == "psycopg2" else 2, "answer")
            cursor.execute(f"INSERT INTO {TABLE} (value) VALUES ('b')")
    assert rows(server).count("b") == (1 if DRIVER == "psycopg2" else 0)


def test_what_is_said_of_a_loss_after_a_text_has_committed(
    make_connection: Connections,
    server: Server,
    table: None,
    kill: Callable[[BaseDatabaseWrapper], int],
) -> None:
    connection = make_connection(RESILIENT)
    with pytest.raises(TransactionLost, match="COMMIT as text") as caught:  # noqa: SIM117
        with transaction.atomic(using=connection.alias):
            for sql in ("COMMIT", "BEGIN")[: 1 + (DRIVER == "psycopg2")]:
                with connection.cursor() as cursor:
                    cursor.execute(sql)
            insert(connection, "a")
            kill(connection)
    assert not caught.value.transaction_lost
    assert rows(server) == []
