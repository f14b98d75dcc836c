"""Sessions that live on at the server, with their locks: the path died on the client's side."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg.driver import lost_sessions
from django_resilient_pg.driver.choose import link_to
from django_resilient_pg.driver.lost_sessions import LostSession
from django_resilient_pg.policy.verdicts import Reason
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import OURS, RESILIENT, Connections, backend_pid, run, until
from tests.faults.pgbouncer import PgBouncer
from tests.faults.proxy import Proxy

TABLE = "held"
# Without the engine's doing the locks of the lost session are waited for: for so long.
BOUNDED = {"options": "-c lock_timeout=4s"}
UPDATE = f"UPDATE {TABLE} SET value = value + 1 WHERE id = 1"
COUNT = f"SELECT count(*) FROM {TABLE}"
# A statement that takes locks, and what it answers when nobody holds them.
STATEMENTS = {
    "update": (f"{UPDATE} RETURNING value", [(1,)]),
    "insert": (f"INSERT INTO {TABLE} VALUES (7, 0) RETURNING id", [(7,)]),
    "for update": (f"SELECT id FROM {TABLE} WHERE id = 1 FOR UPDATE", [(1,)]),
    "nowait": (f"SELECT id FROM {TABLE} WHERE id = 1 FOR UPDATE NOWAIT", [(1,)]),
    "skip locked": (f"SELECT id FROM {TABLE} ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED", [(1,)]),
    "advisory": ("SELECT 1 FROM (SELECT pg_advisory_xact_lock(7)) AS locked", [(1,)]),
    "try advisory": ("SELECT pg_try_advisory_xact_lock(7)", [(True,)]),
}
runs: list[str] = []
faults: list[Callable[[], object]] = []


def prepare(server: Server) -> None:
    server.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, value int)", database="app")
    server.execute(f"INSERT INTO {TABLE} VALUES (1, 0), (2, 0)", database="app")
    server.execute(f"GRANT ALL ON {TABLE} TO app", database="app")


@pytest.fixture
def table(server: Server) -> Iterator[None]:
    prepare(server)
    yield
    server.execute(f"DROP TABLE {TABLE}", database="app")


def value(server: Server) -> int:
    [(found,)] = server.execute(f"SELECT value FROM {TABLE} WHERE id = 1", database="app")
    return int(found)


def is_there(server: Server, pid: int) -> bool:
    return bool(server.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]))


def opened(connection: BaseDatabaseWrapper) -> int:
    connection.ensure_connection()
    return backend_pid(connection)


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_first_statement_does_not_meet_the_locks_of_its_lost_session(
    name: str, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port, options=BOUNDED)
    sql, answer = STATEMENTS[name]
    pid = opened(connection)
    with transaction.atomic(using=connection.alias):
        proxy.cut_at(2, "answer", leaves=True)  # 1 is BEGIN
        assert run(connection, sql) == answer
    assert not is_there(server, pid)


def test_a_savepoint_changes_nothing(
    make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port, options=BOUNDED)
    connection.ensure_connection()
    with transaction.atomic(using=connection.alias), transaction.atomic(using=connection.alias):
        proxy.cut_at(1, "answer", leaves=True)
        run(connection, UPDATE)
    assert value(server) == 1


@pytest.mark.parametrize("found", ["by a statement", "before COMMIT"])
def test_retry_atomic_does_not_meet_them(
    found: str, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port, options=BOUNDED)
    opened(connection)
    pids: list[int] = []

    def work() -> None:
        run(connection, UPDATE)
        pids.append(backend_pid(connection))
        if len(pids) == 1:
            proxy.cut_clients()
        if found == "by a statement":
            run(connection, COUNT)

    retry_atomic.run(work, using=connection.alias)
    assert (len(pids), value(server)) == (2, 1)
    assert not is_there(server, pids[0])


def view(request: HttpRequest) -> HttpResponse:
    runs.append("view")
    connection = connections["held"]
    with transaction.atomic(using="held"):
        run(connection, UPDATE)
        if len(runs) == 1:
            faults[0]()
        run(connection, COUNT)
    return HttpResponse("done")


urlpatterns = [path("view/", view)]


def test_a_replayed_request_does_not_meet_them(
    make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    runs.clear()
    faults[:] = [proxy.cut_clients]
    make_connection(RESILIENT, alias="held", PORT=proxy.port, CONN_MAX_AGE=60, options=BOUNDED)
    ours = [OURS]
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=ours):
        assert Client().get("/view/").content == b"done"
    assert (runs, value(server)) == (["view", "view"], 1)


@pytest.mark.parametrize("options", [{"assume_role": "clerk"}, {}])
def test_it_is_the_login_that_ends_it_whatever_role_was_taken(
    options: dict[str, str],
    make_connection: Connections,
    server: Server,
    table: None,
    proxy: Proxy,
) -> None:
    server.execute(
        f"CREATE ROLE clerk; GRANT clerk TO app; GRANT ALL ON {TABLE} TO clerk", database="app"
    )
    try:
        connection = make_connection(RESILIENT, PORT=proxy.port, options={**BOUNDED, **options})
        if not options:
            run(connection, "SET ROLE clerk")
        opened(connection)
        with transaction.atomic(using=connection.alias):
            proxy.cut_at(2, "answer", leaves=True)
            run(connection, UPDATE)
            assert run(connection, "SELECT current_user") == [("clerk",)]
        connection.close()
    finally:
        server.execute("DROP OWNED BY clerk; DROP ROLE clerk", database="app")


def notes_of(error: BaseException) -> str:
    return "".join(getattr(error, "__notes__", []))


@contextmanager
def not_allowed(server: Server) -> Iterator[None]:
    function = "FUNCTION pg_terminate_backend(int, bigint)"
    server.execute(f"REVOKE EXECUTE ON {function} FROM PUBLIC", database="app")
    try:
        yield
    finally:
        server.execute(f"GRANT EXECUTE ON {function} TO PUBLIC", database="app")


@pytest.mark.parametrize("name", STATEMENTS)
def test_what_may_wait_for_locks_is_raised_where_nobody_may_end_the_session(
    name: str, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port, options=BOUNDED)
    pid = opened(connection)
    atomic = transaction.atomic(using=connection.alias)
    with not_allowed(server), pytest.raises(Error) as caught, atomic:
        proxy.cut_at(2, "answer", leaves=True)
        run(connection, STATEMENTS[name][0])
    assert "may still hold its locks" in notes_of(caught.value)
    assert "the role may not terminate it" in notes_of(caught.value)
    server.terminate(pid)
    with transaction.atomic(using=connection.alias):
        assert run(connection, STATEMENTS[name][0]) == STATEMENTS[name][1]


@pytest.mark.parametrize("sql", [COUNT, f"SELECT id FROM {TABLE}", "SELECT now()"])
def test_a_read_is_retried_even_there(
    sql: str, make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port, options=BOUNDED)
    opened(connection)
    with not_allowed(server), transaction.atomic(using=connection.alias):
        proxy.cut_at(2, "answer", leaves=True)
        assert len(run(connection, sql)) in {1, 2}
        run(connection, UPDATE)
    assert value(server) == 1


def test_retry_atomic_runs_nothing_again_there_and_says_why(
    make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    connection = make_connection(RESILIENT, PORT=proxy.port, options=BOUNDED)
    pid = opened(connection)
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        run(connection, UPDATE)
        proxy.cut_clients()
        run(connection, COUNT)

    with not_allowed(server), pytest.raises(Error) as caught:
        retry_atomic.run(work, using=connection.alias)
    assert "The transaction was not retried: the lost session" in notes_of(caught.value)
    server.terminate(pid)
    assert (len(calls), value(server)) == (1, 0)


# -- nobody else's session ------------------------------------------------------------------------


def lost(connection: BaseDatabaseWrapper, **given: Any) -> LostSession:
    """As if this connection, which lives, had been lost; but for what is given."""
    link = link_to(connection.connection)
    before = {name: getattr(link, name) for name in given}
    for name, other in given.items():
        setattr(link, name, other)
    try:
        return LostSession(
            link, Reason.UNKNOWN, None, time.monotonic(), holds=True, first=True, direct=True
        )
    finally:
        for name, own in before.items():
            setattr(link, name, own)


@pytest.mark.parametrize("other", ["began later", "began earlier", "port", "login", "database"])
def test_a_session_of_the_same_process_id_that_is_another_is_left_alone(
    other: str, make_connection: Connections, server: Server
) -> None:
    options: dict[str, dict[str, Any]] = {
        "login": {"user": server.superuser},
        "database": {"database": "postgres"},
    }
    victim = make_connection(RESILIENT, **options.get(other, {}))
    pid = opened(victim)
    asking = make_connection(RESILIENT, user=server.superuser if other == "database" else None)
    opened(asking)
    now = time.monotonic()
    given: dict[str, dict[str, Any]] = {
        "began later": {"made_at": now - 900, "heard_at": now - 600},
        "began earlier": {"made_at": now + 60, "heard_at": now + 60},
        "port": {"port": 1},
    }
    session = lost(victim, **given.get(other, {}))
    session.settle(link_to(asking.connection), 1.0)
    assert is_there(server, pid)
    assert run(victim, "SELECT 1") == [(1,)]
    # The process id has been given out again: the lost session is gone.
    assert bool(session.why) == (other != "began later")


def test_that_very_session_is_ended(make_connection: Connections, server: Server) -> None:
    victim, asking = make_connection(RESILIENT), make_connection(RESILIENT)
    pid, _ = opened(victim), opened(asking)
    session = lost(victim)
    session.settle(link_to(asking.connection), 5.0)
    assert (session.why, is_there(server, pid)) == ("", False)


def test_a_forked_child_leaves_the_session_of_its_parent_alone(
    make_connection: Connections, server: Server, table: None
) -> None:
    """Python's hooks do not see a fork in C, as uWSGI's is."""
    connection = make_connection(RESILIENT)
    pid = opened(connection)
    with transaction.atomic(using=connection.alias):
        run(connection, UPDATE)
        child = ctypes.CDLL(None).fork()
        if not child:
            dead, far_end = socket.socketpair()
            far_end.close()
            os.dup2(dead.fileno(), connection.connection.fileno())
            with contextlib.suppress(BaseException):
                run(connection, COUNT)
            with contextlib.suppress(BaseException):
                connection.in_atomic_block = False
                connection.close()
                run(connection, COUNT)
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert is_there(server, pid)
        run(connection, UPDATE)
    assert value(server) == 2


_BEFORE_CONNECTING: list[Callable[[], object]] = []


def before_connecting(alias: str) -> dict[str, str]:
    """The option ``credentials``: a new connection is about to be made."""
    while _BEFORE_CONNECTING:
        _BEFORE_CONNECTING.pop(0)()
    return {"user": "app"}


def test_a_statement_timeout_shorter_than_its_end_does_not_matter(
    make_connection: Connections,
    server: Server,
    table: None,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is stopped for a while, and so ends late."""
    monkeypatch.setattr(lost_sessions, "_PATIENCE", 9.0)  # on a busy machine it is stopped for long
    short = {"options": "-c lock_timeout=4s -c statement_timeout=200ms"}
    _BEFORE_CONNECTING[:] = []
    way = f"{before_connecting.__module__}.{before_connecting.__name__}"
    connection = make_connection(RESILIENT, PORT=proxy.port, options=short, credentials=way)
    pid = opened(connection)

    def go_on() -> None:
        asked = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_terminate_backend(a.pid%'"
        until(lambda: server.execute(f"{asked} AND pid <> pg_backend_pid()") != [], "not asked")
        time.sleep(0.4)  # twice the limit
        os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=go_on, name="go_on")
    with transaction.atomic(using=connection.alias):
        proxy.cut_at(2, "answer", leaves=True)
        _BEFORE_CONNECTING[:] = [partial(os.kill, pid, signal.SIGSTOP), thread.start]
        try:
            run(connection, UPDATE)
        finally:
            os.kill(pid, signal.SIGCONT) if is_there(server, pid) else None
            thread.join()
    assert value(server) == 1


def test_a_session_that_waits_in_autocommit_is_not_ended(
    make_connection: Connections, server: Server, table: None, proxy: Proxy
) -> None:
    """Its statement is a transaction of its own, which may take effect yet."""
    connection = make_connection(RESILIENT, PORT=proxy.port)
    opened(connection)
    slow = f"{UPDATE} AND pg_sleep(1) IS NOT NULL"
    cutter = threading.Timer(0.3, proxy.cut_clients)
    cutter.start()
    with pytest.raises(Error):
        run(connection, slow)
    cutter.join()
    run(connection, "SELECT 1")
    until(lambda: value(server) == 1, "the statement was ended")


# -- behind a pooler ------------------------------------------------------------------------------


@pytest.fixture
def pooler(server: Server) -> Iterator[PgBouncer]:
    with PgBouncer(server, pool_mode="transaction") as running:
        yield running


@pytest.fixture
def behind(
    make_connection: Connections,
    table: None,
    pooler: PgBouncer,
    make_proxy: Callable[..., Proxy],
) -> tuple[Proxy, BaseDatabaseWrapper]:
    """A connection through a pooler, open, and the proxy before the pooler."""
    proxy = make_proxy(pooler.port)
    connection = make_connection(RESILIENT, PORT=proxy.port)
    opened(connection)
    return proxy, connection


@pytest.mark.needs("pgbouncer")
@pytest.mark.parametrize("sql", [UPDATE, COUNT])
def test_behind_a_pooler_that_has_not_ended_it_what_waits_for_locks_is_raised(
    sql: str, server: Server, behind: tuple[Proxy, BaseDatabaseWrapper]
) -> None:
    proxy, connection = behind
    with transaction.atomic(using=connection.alias):
        [(pid,)] = run(connection, "SELECT pg_backend_pid()")
    error: Error | None = None
    try:
        with transaction.atomic(using=connection.alias):
            proxy.cut_at(2, "answer", leaves=True)
            run(connection, sql)
    except Error as raised:
        error = raised
    assert is_there(server, pid)
    if sql == COUNT:
        assert error is None
        return
    assert error is not None
    assert "a pooler hides it" in notes_of(error)
    server.terminate(pid)
    with transaction.atomic(using=connection.alias):
        run(connection, sql)
    assert value(server) == 1


@pytest.mark.needs("pgbouncer")
def test_behind_a_pooler_a_long_job_of_the_same_login_does_not_matter(
    make_connection: Connections,
    server: Server,
    table: None,
    pooler: PgBouncer,
    make_proxy: Callable[..., Proxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lost_sessions, "_LOGIN", 0.2)
    job = make_connection(RESILIENT, PORT=pooler.port)
    proxy = make_proxy(pooler.port)
    connection = make_connection(RESILIENT, PORT=proxy.port, CONN_MAX_AGE=None)
    with transaction.atomic(using=job.alias):
        run(job, "SELECT 1")
        time.sleep(0.5)
        run(connection, "SELECT 1")
        with transaction.atomic(using=connection.alias):
            proxy.cut_at(2, "answer")
            run(connection, UPDATE)
    assert value(server) == 1


@pytest.mark.needs("pgbouncer")
def test_behind_a_pooler_that_has_ended_it_nothing_is_missing(
    server: Server, behind: tuple[Proxy, BaseDatabaseWrapper]
) -> None:
    proxy, connection = behind
    with transaction.atomic(using=connection.alias):
        proxy.cut_at(2, "answer")
        run(connection, UPDATE)
    assert value(server) == 1
