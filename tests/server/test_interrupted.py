"""What a signal handler interrupts: Ctrl-C, Celery's soft time limit. The next statement works."""

from __future__ import annotations

import importlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from django_resilient_pg.driver.link import ACTIVE
from django_resilient_pg.transaction import retry_atomic
from testproject import guard
from testproject.postgres import Server
from tests.engines import DRIVER, until
from tests.server.scenarios import TABLE, TENANT, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]
ANY_ERROR = Exception


class SoftTimeLimit(Exception):
    pass


@contextmanager
def interrupted(
    when: Callable[[], object], error: type[BaseException] = SoftTimeLimit
) -> Iterator[None]:
    """Raise ``error`` in the block, from a signal handler, as soon as ``when`` says so."""

    def on_signal(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, on_signal)
    over, main = threading.Event(), threading.get_ident()
    sent: list[bool] = []

    def watch() -> None:
        with suppress(TimeoutError):
            until(lambda: over.is_set() or bool(when()), "nothing to interrupt")
            if not over.is_set():
                sent.append(True)
                signal.pthread_kill(main, signal.SIGALRM)

    thread = threading.Thread(target=watch, name="interrupted")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGALRM, before)
    assert sent, "was over before it could be interrupted"


def waiting(stage: Stage, event: str) -> Callable[[], bool]:
    """Whether a session of the stage waits for this: a column and its value."""
    sql = f"SELECT 1 FROM pg_stat_activity WHERE datname = %s AND {event}"
    return lambda: bool(stage.server.execute(sql, [stage.database]))


def asleep(stage: Stage) -> Callable[[], bool]:
    return waiting(stage, "wait_event = 'PgSleep'")


# -- a statement --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
def test_while_it_runs_again(first: bool, stage_of: Stages) -> None:
    """As a read, or as the first statement of a transaction."""
    stage = stage_of()
    sleeps = asleep(stage)
    with (
        pytest.raises(SoftTimeLimit),
        stage.killed_midway() as killed,
        interrupted(lambda: killed and sleeps()),
        stage.atomic() if first else nullcontext(),
    ):
        stage.run("SELECT 1, pg_sleep(1.5)")
    assert stage.run("SELECT 5") == [(5,)]
    stage.insert("x")
    assert stage.rows() == ["x"]


def test_in_commit(stage_of: Stages, server: Server) -> None:
    stage = stage_of()
    for sql in (
        "CREATE FUNCTION slow_check() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END $$",
        f"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {TABLE} DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow_check()",
    ):
        server.execute(sql, database=stage.database)
    with pytest.raises(ANY_ERROR), interrupted(asleep(stage)), stage.atomic():
        stage.insert("a")
    server.execute(f"DROP TRIGGER slow ON {TABLE}", database=stage.database)
    assert stage.run("SELECT 5") == [(5,)]
    with stage.atomic():
        stage.insert("x")
    assert "x" in stage.rows()
    assert stage.connection.get_autocommit()


@pytest.mark.psycopg3
def test_in_a_stream(stage_of: Stages) -> None:
    stage = stage_of()
    with (
        pytest.raises(SoftTimeLimit),
        interrupted(asleep(stage)),
        stage.connection.cursor() as cursor,
    ):
        list(cursor.stream("SELECT pg_sleep(2)"))
    assert stage.run("SELECT 5") == [(5,)]


# -- a round trip of the engine's or of the driver's own ----------------------------------------


def ping(stage: Stage, freeze: Callable[[], None]) -> None:
    time.sleep(0.5)  # longer than ping_after
    freeze()
    stage.run("SELECT 1")


def health_check(stage: Stage, freeze: Callable[[], None]) -> None:
    with stage.atomic():
        stage.run("SELECT 1")
        freeze()
        stage.connection.is_usable()


def fetch(stage: Stage, freeze: Callable[[], None]) -> None:
    with stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 2000) AS g")
        for number, _ in enumerate(cursor):
            if number == 50:
                freeze()


def close_cursor(stage: Stage, freeze: Callable[[], None]) -> None:
    with stage.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 2000) AS g")
        cursor.fetchmany(10)
        freeze()


def rollback(stage: Stage, freeze: Callable[[], None]) -> None:
    with stage.atomic():
        stage.insert("a")
        freeze()
        raise KeyError


def before_commit(stage: Stage, freeze: Callable[[], None]) -> None:
    """The transaction's id is asked for."""
    with stage.atomic():
        stage.insert("a")
        freeze()


@pytest.mark.psycopg3
@pytest.mark.parametrize("way", [ping, health_check, fetch, close_cursor, rollback, before_commit])
def test_in_a_round_trip(way: Callable[..., None], stage_of: Stages) -> None:
    """psycopg 3 leaves the connection in the middle of it: usable by nobody, and not closed."""
    stage = stage_of(ping_after=0.2, commit_outcome=True)
    connection: Any = stage.connection
    pid = stage.pid()
    frozen: list[int] = []

    def freeze() -> None:
        guard.send(pid, signal.SIGSTOP)
        until(lambda: _state(pid) == "T", "the session is not stopped")
        frozen.append(pid)

    try:
        with (
            pytest.raises(SoftTimeLimit),
            interrupted(lambda: frozen and connection._link.status() == ACTIVE),
        ):
            way(stage, freeze)
    finally:
        guard.send(pid, signal.SIGCONT)
    assert stage.run("SELECT 5") == [(5,)]
    assert stage.pid() != pid
    assert connection.get_autocommit()
    stage.insert("x")
    assert stage.rows() == ["x"]


@pytest.mark.parametrize("outcome", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_before_commit(first: bool, outcome: bool, stage_of: Stages) -> None:
    """The same under psycopg2, which comes back with the answer; also under retry_atomic."""
    stage = stage_of(commit_outcome=outcome)
    connection: Any = stage.connection
    stopped: list[int] = []

    def work() -> None:
        stage.insert("interrupted")
        stopped.append(stage.pid())
        goes_on = threading.Timer(1.0, guard.send, [stopped[0], signal.SIGCONT])
        guard.send(stopped[0], signal.SIGSTOP)
        goes_on.start()

    if not first:  # which asks for more than the others
        with stage.atomic():
            stage.insert("before")
    with (
        pytest.raises(SoftTimeLimit),
        interrupted(lambda: stopped and connection._link.status() == ACTIVE),
    ):
        if outcome:
            with stage.atomic():
                work()
        else:
            retry_atomic.run(work, using=connection.alias)
    stage.insert("autocommit")
    with stage.atomic():
        stage.insert("atomic")
    connection.close()
    assert stage.rows()[-2:] == ["autocommit", "atomic"]
    assert "interrupted" not in stage.rows()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# -- connecting ---------------------------------------------------------------------------------


@contextmanager
def locked(stage: Stage, table: str) -> Iterator[Callable[[], None]]:
    """A catalog that nobody can read; the value lets go of it."""
    driver: Any = importlib.import_module(DRIVER)
    server = stage.server
    link = driver.connect(
        host=server.socket_dir,
        port=server.port,
        dbname=stage.database,
        user=server.superuser,
        password=server.superuser_password,
    )
    try:
        link.cursor().execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield link.rollback
    finally:
        link.close()


@pytest.mark.parametrize("error", [SoftTimeLimit, KeyboardInterrupt])
def test_while_settings_are_made_again(error: type[BaseException], stage_of: Stages) -> None:
    """A session that has not got all of them yet serves nobody: it would be without its tenant."""
    stage = stage_of()
    stage.run("SET default_text_search_config = 'pg_catalog.simple'")
    stage.run("SET app.tenant = '7'")
    stage.kill()
    waits = waiting(stage, "wait_event_type = 'Lock'")
    with locked(stage, "pg_ts_config") as unlock:
        later = threading.Timer(0.5, unlock)

        def stuck() -> bool:
            if not waits():
                return False
            later.start()  # psycopg2 does not come back before it has its answer
            return True

        with pytest.raises(error), interrupted(stuck, error):
            stage.run("SELECT 1")
        later.join()
    for _ in range(2):
        assert stage.run(TENANT) == [("7",)]
