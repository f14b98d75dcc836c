"""PgBouncer and HAProxy in between: what they do to connections, under both engines."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

import pytest
from django.core.management import call_command
from django.db import Error, OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.faults import Faults
from testproject.load import run as load
from testproject.postgres import Mode, Server
from tests.engines import DRIVER, NUMBERS, PATIENCE, RESILIENT, STOCK, Connections, run, until
from tests.faults.daemons import Daemon
from tests.faults.haproxy import HAProxy
from tests.faults.pgbouncer import PgBouncer
from tests.faults.pgpool import Pgpool

MODES = ("session", "transaction")
IDLE = 1.0  # seconds: client_idle_timeout of PgBouncer, timeout client of HAProxy


@pytest.fixture(scope="module")
def behind() -> Iterator[Server]:
    """The server behind all of them, with an empty table that tests fill and empty."""
    with Server() as made:
        made.execute("CREATE TABLE entry (id bigserial PRIMARY KEY, value text)", database="app")
        made.execute("CREATE SEQUENCE executions", database="app")
        made.execute("CREATE TABLE nap (seconds float); INSERT INTO nap VALUES (0)", database="app")
        made.execute("GRANT ALL ON entry, entry_id_seq, executions, nap TO app", database="app")
        yield made


@pytest.fixture(params=MODES)
def bouncer(request: pytest.FixtureRequest, behind: Server) -> Iterator[PgBouncer]:
    """PgBouncer in either mode."""
    # By default PgBouncer waits 15 s after a failed login: longer than we do.
    settings: dict[str, Any] = {"client_idle_timeout": IDLE, "server_login_retry": 1}
    with PgBouncer(behind, console=True, pool_mode=request.param, **settings) as made:
        yield made


@pytest.fixture
def connect(behind: Server) -> Iterator[Callable[..., BaseDatabaseWrapper]]:
    """Make a connection that leads through a daemon, and open it."""
    made = Connections(behind)

    def make(through: Daemon, engine: str = RESILIENT, **given: Any) -> BaseDatabaseWrapper:
        behind.execute("TRUNCATE entry", database="app")
        more = {"resilience": given} if given and engine != STOCK else {}
        entry = through.database(
            engine=engine, options=more, CONN_MAX_AGE=None, DISABLE_SERVER_SIDE_CURSORS=True
        )
        connection = made.register(f"through-{next(NUMBERS)}", entry)
        run(connection, "SELECT 1")
        return connection

    yield make
    made.close()


def read(connection: BaseDatabaseWrapper) -> None:
    assert run(connection, "SELECT 1") == [(1,)]


def write(connection: BaseDatabaseWrapper) -> None:
    run(connection, "INSERT INTO entry (value) VALUES ('x')")


def write_atomically(connection: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=connection.alias):
        write(connection)


DOES = {"read": read, "write": write, "transaction": write_atomically}
ROWS = {"read": 0, "write": 1, "transaction": 1}


# PgBouncer says why it ends a client that waits, and that a write of it was not passed on. psycopg2
# (libpq 17) hides these words: there a write is raised, its outcome unknown.
QUEUED = "write" if DRIVER == "psycopg" else "read"


REFUSED_LOGIN = "password authentication failed"
NO_TRANSACTIONS = "not allowed in statement pooling mode"


def rows(server: Server) -> int:
    return int(server.execute("SELECT count(*) FROM entry", database="app")[0][0])


# -- PgBouncer -------------------------------------------------------------------------------------


def restart(bouncer: PgBouncer) -> None:
    bouncer.restart()


def stop_for_half_a_second(bouncer: PgBouncer) -> None:
    bouncer.stop()
    threading.Timer(0.5, bouncer.start).start()


def kill(bouncer: PgBouncer) -> None:
    bouncer.console("KILL app")
    bouncer.console("RESUME app")


def reconnect(bouncer: PgBouncer) -> None:
    bouncer.console("RECONNECT app")


def idle(bouncer: PgBouncer) -> None:
    """In session mode PgBouncer 1.18 ends only clients to which no server belongs."""
    time.sleep(IDLE + 1.0)


def end_server_connections(bouncer: PgBouncer) -> None:
    bouncer.server.terminate_all("app")
    time.sleep(0.1)  # until PgBouncer has noticed


# What happens, and in which modes it costs a client its connection: the others PgBouncer heals.
FAULTS: dict[str, tuple[Callable[[PgBouncer], None], tuple[str, ...], str | None]] = {
    "restart": (restart, MODES, None),
    "kill": (kill, MODES, "ADMINISTRATOR"),
    "reconnect": (reconnect, (), None),
    "idle": (idle, ("transaction",), "PATH_IDLE_TIMEOUT"),
    "server": (end_server_connections, ("session",), "ADMINISTRATOR"),
}


@pytest.mark.parametrize("does", DOES)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_comes_after_is_done(
    bouncer: PgBouncer,
    behind: Server,
    connect: Callable[..., BaseDatabaseWrapper],
    fault: str,
    does: str,
    request: pytest.FixtureRequest,
) -> None:
    happen, modes, reason = FAULTS[fault]
    costs = request.node.callspec.params["bouncer"] in modes
    connection, stock = connect(bouncer), connect(bouncer, STOCK)
    happen(bouncer)
    DOES[does](connection)
    assert rows(behind) == ROWS[does]
    stats = connection.resilience.stats  # type: ignore[attr-defined]
    assert bool(stats.lost) == costs
    if costs and reason:
        assert dict(stats.lost) == {reason: 1}
    if costs:
        with pytest.raises(Error):
            DOES[does](stock)
    assert rows(behind) == ROWS[does]


def test_a_pooler_that_is_down_for_a_while_is_waited_for(
    bouncer: PgBouncer, connect: Callable[..., BaseDatabaseWrapper]
) -> None:
    connection, stock = connect(bouncer), connect(bouncer, STOCK)
    stop_for_half_a_second(bouncer)
    with pytest.raises(OperationalError):
        read(stock)
    read(connection)


# They sleep when they run first, see ``in_the_middle``, and not when they run again.
NAP = "(SELECT seconds FROM nap)"
SLOW_READ = f"SELECT count(*) FROM pg_sleep({NAP})"
# Counted before it sleeps: no rollback takes a sequence's number back.
SLOW_WRITE = (
    f"INSERT INTO entry (value) SELECT 'x' FROM pg_sleep({NAP} + 0 * nextval('executions'))"
)


def executions(server: Server) -> int:
    return int(server.execute("SELECT nextval('executions') - 1", database="app")[0][0])


def in_the_middle(server: Server, happen: Callable[[], Any]) -> threading.Thread:
    """Do something as soon as a statement of the application is in the middle of a pg_sleep."""
    sleeping = (
        "SELECT pid, query_start FROM pg_stat_activity"
        " WHERE usename = 'app' AND wait_event = 'PgSleep'"
    )
    before = set(server.execute(sleeping))  # of clients that are gone; their server has not noticed
    server.execute("UPDATE nap SET seconds = 1.5", database="app")

    def watch() -> None:
        with server.session("app") as ask:  # a login for each look could take longer than the nap
            until(lambda: bool(set(ask(sleeping)) - before), "nobody sleeps")
            ask("UPDATE nap SET seconds = 0")
        happen()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize("fault", ["restart", "kill", "server"])
def test_in_the_middle_a_read_is_run_again_and_a_write_is_not(
    bouncer: PgBouncer,
    behind: Server,
    connect: Callable[..., BaseDatabaseWrapper],
    fault: str,
) -> None:
    connection, stock = connect(bouncer), connect(bouncer, STOCK)

    def happen() -> None:
        FAULTS[fault][0](bouncer)

    thread = in_the_middle(behind, happen)
    assert run(connection, SLOW_READ) == [(1,)]
    thread.join()
    stock.close()  # what has happened was not spared it
    thread = in_the_middle(behind, happen)
    with pytest.raises(Error):
        run(stock, SLOW_READ)
    thread.join()

    behind.execute("ALTER SEQUENCE executions RESTART", database="app")
    thread = in_the_middle(behind, happen)
    with pytest.raises(OperationalError) as caught:
        run(connection, SLOW_WRITE)
    thread.join()
    assert "may already have been applied" in caught.value.__notes__[-1]
    behind.terminate_all("app")  # the restarted PgBouncer left it there; it may have written
    assert rows(behind) <= 1
    assert executions(behind) == 1

    behind.execute("TRUNCATE entry", database="app")
    behind.execute("ALTER SEQUENCE executions RESTART", database="app")
    thread = in_the_middle(behind, happen)
    with transaction.atomic(using=connection.alias):
        run(connection, SLOW_WRITE)
    thread.join()
    behind.terminate_all("app")
    assert (rows(behind), executions(behind)) == (1, 2)


@pytest.mark.needs("pgbouncer")
def test_a_server_that_is_down_behind_the_pooler_is_waited_for(
    connect: Callable[..., BaseDatabaseWrapper], behind: Server
) -> None:
    """PgBouncer tells it in its own words, as 08P01: nothing of the client's was passed on."""
    settings: dict[str, Any] = {"server_login_retry": 1, "query_wait_timeout": 1}
    with PgBouncer(behind, console=True, pool_mode="transaction", **settings) as bouncer:
        connection, stock = connect(bouncer), connect(bouncer, STOCK)
        behind.stop("fast")
        time.sleep(0.1)
        with pytest.raises(Error):
            read(stock)
        back = threading.Timer(1.0, behind.start)
        back.start()
        try:
            DOES[QUEUED](connection)
        finally:
            back.join()
        assert rows(behind) == ROWS[QUEUED]
        # PgBouncer goes on accepting, and ends what it has accepted: no reason to rush it.
        assert connection.resilience.stats.replaced < 30  # type: ignore[attr-defined]


@pytest.mark.needs("pgbouncer")
def test_a_query_timeout_of_the_pooler_is_raised(
    connect: Callable[..., BaseDatabaseWrapper], behind: Server
) -> None:
    with PgBouncer(behind, console=True, pool_mode="transaction", query_timeout=1) as bouncer:
        connection = connect(bouncer)
        with pytest.raises(OperationalError, match=r"query.timeout|closed") as caught:
            run(connection, "SELECT pg_sleep(3)")
        if DRIVER == "psycopg":  # psycopg2 does not pass on why it ended
            assert "into the same timeout" in caught.value.__notes__[-1]
            assert connection.resilience.stats.replaced == 0  # type: ignore[attr-defined]


def told(error: BaseException) -> str:
    """What a person reads; psycopg2 hides the words of who ends a session."""
    return " ".join([str(error), *getattr(error, "__notes__", [])])


@pytest.mark.needs("pgbouncer")
def test_a_pooler_with_an_old_password_is_one_attempt(
    connect: Callable[..., BaseDatabaseWrapper], behind: Server
) -> None:
    with PgBouncer(behind, pool_mode="transaction", server_login_retry=1) as bouncer:
        connection, stock = connect(bouncer), connect(bouncer, STOCK)
        behind.execute("ALTER ROLE app PASSWORD 'another'")
        try:
            bouncer.restart()
            stock.close()
            with pytest.raises(OperationalError, match=REFUSED_LOGIN):
                read(stock)
            before, began = behind.log_text().count(REFUSED_LOGIN), time.monotonic()
            with pytest.raises(OperationalError, match=REFUSED_LOGIN):
                read(connection)
            assert time.monotonic() - began < PATIENCE / 2
        finally:
            behind.execute(f"ALTER ROLE app PASSWORD '{behind.password}'")
        assert behind.log_text().count(REFUSED_LOGIN) <= before + 1
        assert connection.resilience.stats.connect_retries == 0  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.once_per_driver
@pytest.mark.needs("pgbouncer")
def test_a_pooler_with_an_old_password_that_lets_clients_log_in(
    behind: Server, connect: Callable[..., BaseDatabaseWrapper]
) -> None:
    """It has reached the server before, and holds a first statement until query_wait_timeout.

    psycopg2 does not show those words; those at the next login are the pooler's for any server that
    is down.
    """
    settings: dict[str, Any] = {"server_login_retry": 1, "query_wait_timeout": 2}
    with PgBouncer(behind, **settings) as bouncer:
        connection = connect(bouncer, retry_deadline=3.0)
        behind.execute("ALTER ROLE app PASSWORD 'another'")
        try:
            connection.close()
            behind.terminate_all()
            began = time.monotonic()
            with pytest.raises(OperationalError) as caught:
                run(connection, "SELECT 1")
            assert time.monotonic() - began < PATIENCE
        finally:
            behind.execute(f"ALTER ROLE app PASSWORD '{behind.password}'")
        held = "query_wait_timeout" if DRIVER == "psycopg" else "server login has been failing"
        assert held in told(caught.value)
        until(partial(answers, connection), "the right password is refused")


def answers(connection: BaseDatabaseWrapper) -> bool:
    with suppress(OperationalError):
        return run(connection, "SELECT 1") == [(1,)]
    return False


@pytest.mark.needs("pgbouncer")
def test_a_pooler_that_allows_no_transactions(
    connect: Callable[..., BaseDatabaseWrapper], behind: Server
) -> None:
    """A lost read cannot be guarded: its own error is raised. BEGIN is refused as on stock."""
    with PgBouncer(behind, pool_mode="statement") as bouncer:
        connection, stock = connect(bouncer), connect(bouncer, STOCK)
        with pytest.raises(Error), transaction.atomic(using=stock.alias):
            read(stock)
        began = time.monotonic()
        with pytest.raises(Error) as caught, transaction.atomic(using=connection.alias):
            read(connection)
        if DRIVER == "psycopg":
            assert re.search(NO_TRANSACTIONS, str(caught.value))
            assert connection.resilience.stats.replaced == 0  # type: ignore[attr-defined]
        read(connection)
        replaced = connection.resilience.stats.replaced  # type: ignore[attr-defined]
        thread = in_the_middle(behind, lambda: end_server_connections(bouncer))
        with pytest.raises(Error) as caught:
            run(connection, SLOW_READ)
        thread.join()
        assert time.monotonic() - began < PATIENCE
        assert not re.search(NO_TRANSACTIONS, str(caught.value))
        if DRIVER == "psycopg":
            stats = connection.resilience.stats  # type: ignore[attr-defined]
            assert stats.replaced == replaced + 1
            assert "pool_mode=statement" in told(caught.value)


@pytest.mark.needs("pgbouncer")
def test_a_full_pool_is_not_waited_for_twice(
    connect: Callable[..., BaseDatabaseWrapper], behind: Server
) -> None:
    settings: dict[str, Any] = {"query_wait_timeout": 1, "default_pool_size": 1}
    with PgBouncer(behind, pool_mode="transaction", **settings) as bouncer:
        connection, other = connect(bouncer), connect(bouncer, STOCK)
        with transaction.atomic(using=other.alias):
            run(other, "SELECT 1")  # takes the only server connection
            began = time.monotonic()
            with pytest.raises(OperationalError) as caught:
                read(connection)
            assert time.monotonic() - began < PATIENCE
        assert "query_wait_timeout" in told(caught.value)
        if DRIVER == "psycopg":
            stats = connection.resilience.stats  # type: ignore[attr-defined]
            assert (stats.replaced, stats.connect_retries) == (0, 0)
            assert dict(stats.lost) == {"QUEUE_TIMEOUT": 1}


class Through:
    """What faults need of a server: sessions end on the server, restarts are the pooler's."""

    def __init__(self, bouncer: PgBouncer) -> None:
        self.user, self.execute = bouncer.server.user, bouncer.server.execute
        self._bouncer = bouncer

    def stop(self, mode: Mode) -> None:
        self._bouncer.stop()

    def start(self) -> None:
        self._bouncer.start()


@pytest.mark.needs("pgbouncer")
@pytest.mark.campaign
def test_a_load_through_a_transaction_pooler_fails_no_read_and_doubles_no_write(
    connect: Callable[..., BaseDatabaseWrapper],
    behind: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """PgBouncer restarted twice, a server connection of it killed after every forty operations.

    There are as many of them as threads. PgBouncer makes do with two or three, and one of these
    would be killed three times within one read now and then, which no ``read_retries`` of 2 bears.
    """
    settings: dict[str, Any] = {
        "min_pool_size": 6,
        "server_round_robin": 1,
        "server_login_retry": 1,
    }
    with PgBouncer(behind, console=True, pool_mode="transaction", **settings) as bouncer:
        connection = connect(bouncer)
        call_command("migrate", database=connection.alias, verbosity=0)
        restarts: list[tuple[float, Mode]] = [(2000, "fast"), (4000, "fast")]
        through: Any = Through(bouncer)
        faults = Faults(through, "app", kill_every=40, restarts=restarts, down=0.3)
        result = load(
            connection.alias,
            threads=6,
            operations=6000,
            faults=faults,
            ask=lambda sql, params: behind.execute(sql, params, database="app"),
        )
    with capsys.disabled():
        sys.stdout.write(f"\n{faults.kills} kills, {faults.restarts} restarts: {result}\n")
    assert (faults.kills > 60, faults.restarts) == (True, 2)
    assert result.failed_reads == 0, result.errors
    assert (result.lost, result.doubled, result.half_committed, result.hung) == (0, 0, 0, 0)


# -- pgpool-II -------------------------------------------------------------------------------------


@pytest.mark.needs("pgpool")
@pytest.mark.parametrize("connected", [True, False])
def test_a_server_that_is_down_behind_pgpool_is_waited_for(connected: bool) -> None:
    with Server(tls=False) as server, Pgpool(server) as pool, closing(Connections(server)) as made:

        def make(engine: str) -> BaseDatabaseWrapper:
            return made.register(f"through-{next(NUMBERS)}", pool.database(engine=engine))

        connection, stock = make(RESILIENT), make(STOCK)
        if connected:
            read(connection)
        read(stock)
        server.stop("fast")
        stock.close()
        with pytest.raises(OperationalError):
            read(stock)
        back = threading.Timer(1.0, server.start)
        back.start()
        try:
            read(connection)
        finally:
            back.join()


# -- HAProxy ---------------------------------------------------------------------------------------


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("does", DOES)
@pytest.mark.parametrize("fault", ["idle", "restart", "reload", "backend down"])
def test_what_comes_after_haproxy_did_its_worst_is_done(
    behind: Server, connect: Callable[..., BaseDatabaseWrapper], fault: str, does: str
) -> None:
    timeouts = {"client": f"{IDLE:g}s"} if fault == "idle" else {}
    with HAProxy(behind, **timeouts) as proxy:
        connection, stock = connect(proxy), connect(proxy, STOCK)
        if fault == "idle":
            time.sleep(IDLE + 0.5)
        elif fault == "restart":
            proxy.restart()
        elif fault == "reload":
            proxy.reload(at_once=True)
        else:
            behind.stop("fast")
            back = threading.Timer(1.0, behind.start)
            back.start()
        with pytest.raises(Error):
            DOES[does](stock)
        try:
            DOES[does](connection)
        finally:
            if fault == "backend down":
                back.join()
        assert rows(behind) == ROWS[does]


@pytest.mark.needs("haproxy")
def test_a_gentle_reload_of_haproxy_is_not_noticed(
    behind: Server, connect: Callable[..., BaseDatabaseWrapper]
) -> None:
    with HAProxy(behind) as proxy:
        connection = connect(proxy)
        proxy.reload(at_once=False)
        write(connection)
        assert not connection.resilience.stats.lost  # type: ignore[attr-defined]
        proxy.signal(signal.SIGTERM)
        assert rows(behind) == 1
