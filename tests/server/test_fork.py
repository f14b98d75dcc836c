"""Forked children: each has sessions of its own, and the parent's go on."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.errors import SessionLost, TransactionLost
from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT, STOCK, Connections, ask, backend_pid, until

# Python says what this module is about.
pytestmark = [
    pytest.mark.once_per_driver,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]

CHILDREN, STATEMENTS = 8, 200
# Seconds that a child may take to answer, and all children to be done.
ANSWERS, DONE = 30.0, 60.0
TRANSPORTS = {"plain": {"sslmode": "disable"}, "TLS": {}}
POOLS: dict[str, dict[str, Any]] = {"alone": {}}
if DRIVER == "psycopg":
    POOLS["pooled"] = {"pool": {"min_size": 2, "max_size": 4}}


def fork_in_c() -> int:
    """As uWSGI and others that embed Python do: none of its hooks is called."""
    # Not CDLL, which lets go of the GIL: a thread that is not in the child might have it.
    return int(ctypes.PyDLL(None).fork())


#: Of what is used in C alone no test needs a thread of the parent's.
FORKS = {"python": os.fork, "c": fork_in_c}
any_fork = pytest.mark.parametrize("fork", FORKS)


# A child that was forked in C has Python's lock as it was: another thread may just have taken it,
# or been about to. Then it waits for ever, whatever it was to do. That is Python's, and uWSGI's.
ATTEMPTS = {"python": 1, "c": 3}


def in_child(work: Callable[[], Any], fork: str = "python") -> Any:
    """What ``work`` returns in a forked child (as JSON), or its error as text."""
    for _ in range(ATTEMPTS[fork]):
        with contextlib.suppress(TimeoutError):
            return _in_child(work, fork)
    raise TimeoutError(f"no child answered within {ANSWERS} s")


def _in_child(work: Callable[[], Any], fork: str) -> Any:
    reader, writer = os.pipe()
    pid = FORKS[fork]()
    if not pid:
        code = 1
        try:
            os.close(reader)
            try:
                answer = work()
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(writer, json.dumps(answer).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as pipe:
        if not select.select([pipe], [], [], ANSWERS)[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError
        said = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(said)


# -- prefork ------------------------------------------------------------------------------------

# In a process of its own: the one that runs the tests has threads and other connections.
PREFORK = """
    import ctypes, json, os, sys, time
    import django
    from django.conf import settings
    entry, children, statements, fork = json.loads(sys.argv[1])
    fork = {"python": os.fork, "c": ctypes.PyDLL(None).fork}[fork]
    settings.configure(DATABASES={"default": entry}, USE_TZ=True)
    django.setup()
    from django.db import connection

    def session():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return cursor.fetchone()[0]

    def work(me):
        wrong = errors = 0
        for n in range(statements):
            wanted = me * 1000 + n
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT %s::int, pg_backend_pid()", [wanted])
                    wrong += cursor.fetchone()[0] != wanted
            except Exception:
                errors += 1
                if errors > 5:
                    break
        try:
            pid = session()
        except Exception:
            pid = None
        connection.close()  # what a child does in the end
        return [wrong, errors, pid]

    before = session()
    pipes = []
    start = time.monotonic() + 0.5
    for me in range(1, children + 1):
        reader, writer = os.pipe()
        if not fork():
            time.sleep(max(0, start - time.monotonic()))
            os.write(writer, json.dumps(work(me)).encode())
            os._exit(0)
        os.close(writer)
        pipes.append(reader)
    time.sleep(max(0, start - time.monotonic()))
    wrong, errors, after = work(0)
    found = [[wrong, errors, before if after == before else None]]
    for reader in pipes:
        with open(reader, "rb") as pipe:
            found.append(json.loads(pipe.read() or b"[0, 1, null]"))
        os.wait()
    print(json.dumps(found))
"""


def prefork(entry: dict[str, Any], fork: str = "python") -> list[list[Any]]:
    """[rows that were another's, errors, session] of the parent and of each child."""
    given = json.dumps([entry, CHILDREN, STATEMENTS, fork])
    for _ in range(ATTEMPTS[fork]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return _prefork(given)
    raise TimeoutError(f"no children were done within {DONE} s")


def _prefork(given: str) -> list[list[Any]]:
    path = str(Path(__file__).resolve().parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PREFORK), given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "" if os.environ.get("TEST_INSTALLED") else path},
        start_new_session=True,
    )
    try:
        said, complaints = parent.communicate(timeout=DONE)
    except subprocess.TimeoutExpired:
        os.killpg(parent.pid, signal.SIGKILL)  # its children too
        parent.communicate()
        raise
    assert parent.returncode == 0, complaints
    found: list[list[Any]] = json.loads(said)
    return found


@any_fork
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("pool", POOLS)
def test_eight_children_and_their_parent_disturb_nobody(
    transport: str, pool: str, fork: str, server: Server
) -> None:
    options = {**TRANSPORTS[transport], **POOLS[pool]}
    max_age = 0 if options.get("pool") else 60
    entry = server.database(engine=RESILIENT, options=options, CONN_MAX_AGE=max_age)
    found = prefork(entry, fork)
    assert [(wrong, errors) for wrong, errors, _ in found] == [(0, 0)] * (CHILDREN + 1)
    sessions = [session for *_, session in found]
    assert None not in sessions
    assert len(set(sessions)) == CHILDREN + 1, "each has a session of its own"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_stock_engine_mixes_them_up(transport: str, server: Server) -> None:
    found = prefork(server.database(engine=STOCK, options=TRANSPORTS[transport], CONN_MAX_AGE=60))
    wrong = sum(wrong for wrong, *_ in found)
    errors = sum(errors for _, errors, _ in found)
    assert wrong if transport == "plain" else errors


# -- what a child may do, and what it must not ----------------------------------------------------


@any_fork
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_closing_in_the_child_leaves_the_parents_session_alone(
    transport: str, fork: str, make_connection: Connections, server: Server
) -> None:
    connection = make_connection(options=TRANSPORTS[transport])
    ask(connection, "SELECT 1")
    pid = backend_pid(connection)
    raw = connection.connection

    def close() -> str:
        if fork == "python":
            raw.close()
        connection.close()
        raw.close()
        connections.close_all()
        return "closed"

    assert in_child(close, fork) == "closed"
    assert ask(connection, "SELECT pg_backend_pid()") == pid
    until(lambda: server.backends() == [pid], "others are left, or none")


def test_closing_in_the_child_ends_it_on_the_stock_engine(stock: BaseDatabaseWrapper) -> None:
    assert in_child(lambda: stock.close()) is None
    with pytest.raises(DatabaseError):
        ask(stock, "SELECT 1")


def test_the_child_does_not_keep_the_parents_session_alive(
    make_connection: Connections, server: Server
) -> None:
    """Its copy of the socket is closed: the server sees at once when the parent dies."""
    connection = make_connection()
    ask(connection, "SELECT 1")
    number = connection.connection.fileno()

    def peer() -> bool:
        try:
            with socket.socket(fileno=os.dup(number)) as inherited:
                return inherited.family == socket.AF_INET and bool(inherited.getpeername())
        except OSError:
            return False

    assert peer()
    assert in_child(peer) is False


@any_fork
def test_a_transaction_of_the_parent_is_not_gone_on_with_in_the_child(
    fork: str, make_connection: Connections
) -> None:
    connection = make_connection()
    with transaction.atomic(using=connection.alias):
        ask(connection, "SELECT 1")
        pid = backend_pid(connection)
        answer = in_child(lambda: ask(connection, "SELECT 2"), fork)
        assert TransactionLost.__name__ in answer
        assert ask(connection, "SELECT pg_backend_pid()") == pid


@any_fork
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_child_does_not_end_a_transaction_of_the_parent(
    end: str, fork: str, make_connection: Connections
) -> None:
    connection = make_connection()
    with transaction.atomic(using=connection.alias):
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE of_the_parent ()")
        pid = backend_pid(connection)
        answer = in_child(getattr(connection, f"_{end}"), fork)
        assert answer is None if end == "rollback" else TransactionLost.__name__ in answer
        assert ask(connection, "SELECT count(*) FROM of_the_parent") == 0
        assert ask(connection, "SELECT pg_backend_pid()") == pid


@any_fork
def test_a_health_check_in_the_child_reads_nothing_of_the_parents(
    fork: str, make_connection: Connections
) -> None:
    connection = make_connection()
    ask(connection, "SELECT 1")
    assert in_child(connection.is_usable, fork) is False
    assert connection.is_usable()


@any_fork
def test_what_the_parents_session_held_is_not_silently_missing_in_the_child(
    fork: str, make_connection: Connections
) -> None:
    connection = make_connection()
    ask(connection, "SELECT pg_advisory_lock(7)")
    assert SessionLost.__name__ in in_child(lambda: ask(connection, "SELECT 2"), fork)
    assert ask(connection, "SELECT 3") == 3


def test_what_can_be_given_to_another_session_is_given_to_the_childs(
    make_connection: Connections,
) -> None:
    connection = make_connection()
    with connection.cursor() as cursor:
        cursor.execute("SET search_path TO pg_catalog")
    assert in_child(lambda: ask(connection, "SHOW search_path")) == "pg_catalog"


@any_fork
def test_a_write_is_the_first_statement_of_a_child(fork: str, make_connection: Connections) -> None:
    connection = make_connection()
    ask(connection, "SELECT 1")
    sql = "CREATE TEMPORARY TABLE made_in_child AS SELECT 1"
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")  # heard a moment ago: the child must not trust that

    def write() -> int:
        with connection.cursor() as cursor:
            cursor.execute(sql)
        return int(ask(connection, "SELECT count(*) FROM made_in_child"))

    assert in_child(write, fork) == 1


@any_fork
def test_reason_and_level_of_the_childs_loss(fork: str, make_connection: Connections) -> None:
    connection: Any = make_connection()
    ask(connection, "SELECT 1")

    def lost() -> dict[str, int]:
        ask(connection, "SELECT 1")
        return dict(connection.resilience.stats.lost)

    assert in_child(lost, fork) == {"FORK": 1}
    assert connection.resilience.stats.lost == {}


@any_fork
def test_a_fork_while_other_threads_hold_locks(fork: str, make_connection: Connections) -> None:
    """Every lock of the engine is held by another thread at the moment of the fork."""
    from django_resilient_pg import signals
    from django_resilient_pg.policy.token_bucket import BUCKET
    from django_resilient_pg.state import shared

    connection: Any = make_connection()
    ask(connection, "SELECT 1")
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        own = connection.resilience.shared
        with (
            BUCKET._lock,
            own._lock,
            own.learned._lock,
            signals.connection_lost.lock,
            shared._shared_lock,
        ):
            held.set()
            over.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)

    def use_them() -> list[Any]:
        answer = ask(connection, "SELECT 4")
        BUCKET.take()
        return [answer, sum(connection.resilience.stats.lost.values())]

    try:
        assert in_child(use_them, fork) == [4, 1]
    finally:
        over.set()
        thread.join()


@any_fork
@pytest.mark.psycopg3
def test_a_child_has_a_pool_of_its_own(
    fork: str, make_connection: Connections, server: Server
) -> None:
    options = {"pool": {"min_size": 2, "max_size": 2}}
    connection: Any = make_connection(options=options)
    ask(connection, "SELECT 1")
    connection.close()
    connection.pool.wait(10)
    until(lambda: len(server.backends()) == 2, "the pool is not full")
    parents = sorted(server.backends())
    inherited = connection.pool

    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        """As a worker of the pool, or another thread in the middle of taking a connection."""
        with inherited._lock:
            held.set()
            over.wait(30)

    def work() -> list[Any]:
        mine = ask(connection, "SELECT pg_backend_pid()")
        connection.close()
        again = ask(connection, "SELECT pg_backend_pid()")
        inherited.close()
        fresh = connection.pool is not inherited
        connection.close()
        connection.close_pool()
        return [mine in parents, again in parents, fresh]

    ask(connection, "SELECT 1")  # the child inherits a connection in use, too
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert in_child(work, fork) == [False, False, True]
    finally:
        over.set()
        thread.join()
    connection.close()
    until(lambda: sorted(server.backends()) == parents, "others are left, or fewer")
    assert ask(connection, "SELECT pg_backend_pid()") in parents
