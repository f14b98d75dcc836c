"""``OPTIONS["pool"]``: every promise with a pooled connection, and pools whose sessions died."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import (
    DatabaseError,
    Error,
    OperationalError,
    ProgrammingError,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_resilient_pg.errors import ServerDown, SessionLost
from testproject.faults import Faults
from testproject.load import run as load
from testproject.postgres import Server
from tests.engines import PATIENCE, RESILIENT, STOCK, Connections, backend_pid, until
from tests.faults.proxy import Proxy
from tests.server.scenarios import SURVIVED, TABLE, Stage, differs
from tests.server.test_connecting import answers

pytestmark = pytest.mark.psycopg3


def run(connection: BaseDatabaseWrapper, sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


def pool_of(connection: Any) -> Any:
    return connection.pool


def filled(connection: BaseDatabaseWrapper) -> BaseDatabaseWrapper:
    """The pool is open and full, and nobody has a connection of it."""
    run(connection, "SELECT 1")
    connection.close()
    pool_of(connection).wait(PATIENCE)
    return connection


def sized(size: int, **options: Any) -> dict[str, Any]:
    return {"pool": {"min_size": size, "max_size": size, **options}}


def requests(connection: BaseDatabaseWrapper, threads: int) -> list[tuple[Any, float]]:
    """What so many threads get, all at once, and after how many seconds."""
    alias, outcomes = connection.alias, []
    together = threading.Barrier(threads)

    def request() -> None:
        mine = connections[alias]
        together.wait()
        began = time.monotonic()
        try:
            outcome: Any = run(mine, "SELECT 42")
        except Error as error:
            outcome = error
        outcomes.append((outcome, time.monotonic() - began))
        mine.close()

    workers = [threading.Thread(target=request) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return outcomes


# -- pools whose sessions have all been ended ---------------------------------------------------


@pytest.mark.parametrize("size", [4, 8, 20])
def test_a_pool_whose_sessions_were_all_ended_is_right_at_once(
    size: int, make_connection: Connections, server: Server
) -> None:
    connection = filled(make_connection(options=sized(size)))

    def first_query() -> float:
        server.terminate_all()
        began = time.monotonic()
        assert run(connection, "SELECT 1") == [(1,)]
        took = time.monotonic() - began
        connection.close()
        pool_of(connection).wait(PATIENCE)
        return took

    # Once is enough: the machine may be busy with something else.
    assert any(first_query() < 0.2 for _ in range(10))
    server.terminate_all()
    outcomes = requests(connection, size)
    assert [outcome for outcome, _ in outcomes] == [[(42,)]] * size
    assert max(seconds for _, seconds in outcomes) < PATIENCE / 2


@pytest.mark.parametrize("size", [4, 8, 20])
def test_the_stock_engines_pool_is_not(
    size: int, make_connection: Connections, server: Server
) -> None:
    """With health checks it sleeps 0, 1, 2, 4 ... s after each dead connection that it meets.

    So a pool of 4 takes 7 s, and one of 8 fails after the default timeout of 30 s; here after 3.
    """
    connection = make_connection(STOCK, options=sized(size, timeout=3.0), CONN_HEALTH_CHECKS=True)
    filled(connection)
    server.terminate_all()
    with pytest.raises(OperationalError, match=r"couldn.t get a connection after 3\.00 sec"):
        run(connection, "SELECT 1")


def test_dead_connections_are_counted_announced_once_and_put_away_without_a_warning(
    make_connection: Connections, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    connection: Any = filled(make_connection(options=sized(4)))
    server.terminate_all()
    with caplog.at_level(logging.INFO):
        run(connection, "SELECT 1")
    assert connection.resilience.stats.lost == {"ADMINISTRATOR": 4}
    (line,) = caplog.records
    assert (line.name, line.levelno) == ("django_resilient_pg", logging.INFO)


def test_looking_takes_no_round_trip(make_connection: Connections, server: Server) -> None:
    connection = filled(make_connection(options=sized(1)))
    asked = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'app'"
    run(connection, "SELECT 1")
    pid = backend_pid(connection)
    # The session reports to the statistics when it has been idle for a moment.
    before = _settled(server, asked)
    for _ in range(20):
        connection.close()
        connection.ensure_connection()
    assert backend_pid(connection) == pid
    # One for each would be 20. Some are not ours: autovacuum's transactions count as well.
    assert _settled(server, asked) - before < 15


def _settled(server: Server, sql: str) -> int:
    time.sleep(1.2)
    server.execute("SELECT pg_stat_clear_snapshot()")
    return int(server.execute(sql)[0][0])


# -- the promise --------------------------------------------------------------------------------


@pytest.fixture
def stage_of(stage_of: Callable[..., Stage]) -> Callable[..., Stage]:
    """As everywhere, with a connection of a pool that is full."""

    def make(engine: str = RESILIENT, **given: Any) -> Stage:
        stage = stage_of(engine, CONN_MAX_AGE=0, options=sized(2, timeout=5.0), **given)
        stats = pool_of(stage.connection).get_stats  # this one has the other connection
        until(lambda: stats()["pool_available"] == 1, "the pool is not full")
        return stage

    return make


@pytest.mark.parametrize("name", SURVIVED)
def test_the_application_does_not_notice(name: str, stage_of: Callable[..., Stage]) -> None:
    scenario, result, rows = SURVIVED[name]
    stage = stage_of()
    assert scenario(stage) == result
    assert stage.rows() == rows
    assert stage.run("SELECT 5") == [(5,)]
    stage.connection.close()
    statistics = pool_of(stage.connection).get_stats()
    assert statistics["pool_size"] == 2, "no place of the pool has leaked"
    assert len(requests(stage.connection, 2)) == 2


@pytest.mark.parametrize("name", SURVIVED)
def test_the_stock_engine_fails_under_the_same_fault(
    name: str, stage_of: Callable[..., Stage]
) -> None:
    assert differs(name, stage_of(STOCK))


def test_a_write_lost_midway_is_raised_and_the_next_statement_works(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    with pytest.raises(OperationalError) as caught, stage.killed_midway():
        stage.run(f"INSERT INTO {TABLE} (value) SELECT 'x' FROM pg_sleep(1)")
    assert "may already have been applied" in " ".join(caught.value.__notes__)
    assert len(stage.rows()) <= 1
    assert stage.run("SELECT 5") == [(5,)]


def test_a_transaction_lost_later_is_rolled_back_as_a_whole(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    with pytest.raises(OperationalError), transaction.atomic(using=stage.connection.alias):
        stage.insert("a")
        stage.kill()
        stage.insert("b")
    assert stage.rows() == []
    assert stage.run("SELECT 5") == [(5,)]


def test_what_cannot_be_replayed_pins_a_pooled_connection_too(
    stage_of: Callable[..., Stage],
) -> None:
    stage = stage_of()
    stage.run("SELECT pg_advisory_lock(1)")
    stage.kill()
    with pytest.raises(SessionLost, match="pg_advisory_lock"):
        stage.run("SELECT 1")
    stage.connection.close()
    assert stage.run("SELECT 1") == [(1,)]


def test_what_was_set_is_set_again_on_another_of_the_pool(stage_of: Callable[..., Stage]) -> None:
    stage = stage_of()
    stage.run("SET search_path TO pg_catalog")
    stage.kill()
    assert stage.run("SHOW search_path") == [("pg_catalog",)]


# -- nothing of another request's ----------------------------------------------------------------

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

    workers = [threading.Thread(target=request) for _ in range(others)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


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


@pytest.mark.slow
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


# -- assume_role ---------------------------------------------------------------------------------


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


# -- waiting ------------------------------------------------------------------------------------


def test_a_pool_that_is_used_up_is_waited_for_no_longer_than_the_budget(
    make_connection: Connections,
) -> None:
    connection = make_connection(options=sized(1), retry_deadline=1.0)
    run(connection, "SELECT 1")
    began = time.monotonic()
    ((outcome, seconds),) = requests(connection, 1)
    assert isinstance(outcome, OperationalError)
    assert "1 of at most 1 are in use" in str(outcome)
    assert "max_size" in str(outcome)
    assert 0.9 < seconds < PATIENCE / 2
    assert time.monotonic() - began < PATIENCE / 2


def test_a_timeout_the_user_has_set_is_his(make_connection: Connections) -> None:
    connection = make_connection(options=sized(1, timeout=0.3))
    run(connection, "SELECT 1")
    ((outcome, seconds),) = requests(connection, 1)
    assert isinstance(outcome, OperationalError)
    assert 0.2 < seconds < 5.0


def test_what_max_waiting_turns_away_is_not_tried_again(make_connection: Connections) -> None:
    connection = make_connection(options=sized(1, max_waiting=1), retry_deadline=2.0)
    run(connection, "SELECT 1")
    outcomes = requests(connection, 3)
    *turned_away, waited = sorted(outcomes, key=lambda outcome: outcome[1])
    assert ["requests waiting" in str(outcome) for outcome, _ in turned_away] == [True, True]
    assert "requests waiting" not in str(waited[0])


def test_a_connection_given_back_serves_who_waits(make_connection: Connections) -> None:
    connection = filled(make_connection(options=sized(1)))
    assert [outcome for outcome, _ in requests(connection, 10)] == [[(42,)]] * 10


def test_a_connection_closed_within_a_block_is_no_outage(make_connection: Connections) -> None:
    connection = filled(make_connection(options=sized(2), retry_deadline=60.0))
    began = time.monotonic()
    with (
        pytest.raises(ProgrammingError, match="in an atomic block"),
        transaction.atomic(using=connection.alias),
    ):
        connection.close()
        run(connection, "SELECT 1")
    assert time.monotonic() - began < PATIENCE


def test_a_wrong_password_is_said_at_once(make_connection: Connections) -> None:
    """The stock engine says "couldn't get a connection after 30.00 sec"."""
    connection = make_connection(options=sized(2))
    connection.settings_dict["PASSWORD"] = "a-wrong-secret"
    began = time.monotonic()
    with pytest.raises(OperationalError, match="password authentication failed"):
        run(connection, "SELECT 1")
    assert time.monotonic() - began < PATIENCE / 2


def test_a_server_that_is_down_is_given_up_in_time_and_recovers_by_itself(
    own_connections: Connections, own_server: Server
) -> None:
    connection = filled(own_connections(options=sized(2), retry_deadline=2.0))
    own_server.stop("fast")
    began = time.monotonic()
    with pytest.raises(OperationalError, match="refused") as caught:
        run(connection, "SELECT 1")
    assert time.monotonic() - began < 2.0 + PATIENCE / 2
    assert "retry_deadline (2 s) is used up" in " ".join(caught.value.__notes__)
    own_server.start()
    until(lambda: answers(connection), "it does not recover")


def test_in_a_long_outage_a_pool_keeps_nobody(
    own_connections: Connections, own_server: Server
) -> None:
    """Neither those who wait for their turn, nor the one who asks."""
    connection = filled(own_connections(options=sized(2), retry_deadline=1.0))
    own_server.stop("fast")
    with pytest.raises(OperationalError):
        run(connection, "SELECT 1")
    took: list[float] = []
    asked = 0
    while asked < 3:
        began = time.monotonic()
        with pytest.raises(OperationalError) as caught:
            run(connection, "SELECT 1")
        if not isinstance(caught.value, ServerDown):
            asked += 1
            took.append(time.monotonic() - began)
        assert "has been down since" in " ".join(caught.value.__notes__)
        time.sleep(0.05)
    assert min(took) < 0.1


def test_a_restart_is_waited_out_by_all_threads(
    own_connections: Connections, own_server: Server
) -> None:
    connection = filled(own_connections(options=sized(4)))
    own_server.stop("immediate")
    starter = threading.Timer(1.5, own_server.start)
    starter.start()
    outcomes = requests(connection, 8)
    starter.join()
    assert [outcome for outcome, _ in outcomes] == [[(42,)]] * 8


def test_connections_that_fell_silent_are_pinged_once_and_not_one_after_the_other(
    own_connections: Connections, own_server: Server
) -> None:
    """Eight connections into a path that forwards nothing any more: one ping of 1 s, not eight."""
    with Proxy(own_server.port) as proxy:
        connection = own_connections(
            options={**sized(8), "sslmode": "require", "hostaddr": "127.0.0.1"},
            PORT=str(proxy.port),
            ping_after=0.5,
            ping_timeout=1.0,
        )
        filled(connection)
        time.sleep(0.7)
        proxy.set_mode("deaf")
        threading.Timer(1.5, proxy.set_mode, ["pass"]).start()
        began = time.monotonic()
        assert run(connection, "SELECT 1") == [(1,)]
        assert time.monotonic() - began < 6.0


# -- limits -------------------------------------------------------------------------------------


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


# -- closed -------------------------------------------------------------------------------------


def test_a_pool_that_was_closed_is_made_anew(make_connection: Connections) -> None:
    """On the stock engine it can never be used again; nor after a ``wait()`` that was too short."""
    connection: Any = filled(make_connection(options=sized(2)))
    first = pool_of(connection)
    first.close()
    began = time.monotonic()
    assert run(connection, "SELECT 1") == [(1,)]
    assert time.monotonic() - began < PATIENCE / 2
    assert pool_of(connection) is not first
    connection.close()
    for _ in range(2):
        connection.close_pool()
        assert connection.alias not in connection._connection_pools
    assert run(connection, "SELECT 1") == [(1,)]


def test_a_pool_closed_under_those_who_wait_is_made_anew_for_them(
    make_connection: Connections,
) -> None:
    connection: Any = make_connection(options=sized(1))
    run(connection, "SELECT 1")
    closer = threading.Timer(0.3, pool_of(connection).close)
    closer.start()
    assert [outcome for outcome, _ in requests(connection, 1)] == [[(42,)]]
    closer.join()
    assert run(connection, "SELECT 1") == [(1,)]
    connection.close()


def test_tracers_tell_a_pooled_connection_by_its_drivers_module(
    make_connection: Connections,
) -> None:
    """As ddtrace does: the first part of the module is the name of its spans ("psycopg.commit")."""
    pooled, alone = filled(make_connection(options=sized(1))), make_connection()
    for connection in (pooled, alone):
        connection.ensure_connection()
        assert type(connection.connection).__module__.partition(".")[0] == "psycopg"
