"""Failover: a primary and a standby that change their roles, under both engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import InternalError

from django_resilient_pg.errors import CommitOutcomeUnknown, TransactionLost
from testproject.cluster import free_port
from tests.engines import NUMBERS, RESILIENT, STOCK, Connections, backend_pid, run, until
from tests.faults.cluster import Replicated
from tests.faults.pgbouncer import PgBouncer
from tests.faults.proxy import Proxy

BOTH = {"target_session_attrs": "read-write"}

Connect = Callable[..., BaseDatabaseWrapper]


@pytest.fixture
def connect(pair: Replicated) -> Iterator[Connect]:
    """Make a connection that knows both hosts; keyword arguments are resilience options."""
    made = Connections(pair.first)

    def make(
        engine: str = RESILIENT, libpq: dict[str, str] = BOTH, entry: Any = (), **given: Any
    ) -> BaseDatabaseWrapper:
        more = {"resilience": given} if given and engine != STOCK else {}
        database = pair.database(
            engine=engine, options={**libpq, **more}, CONN_MAX_AGE=None, **dict(entry)
        )
        return made.register(f"failover-{next(NUMBERS)}", database)

    yield make
    made.close()


def insert(connection: BaseDatabaseWrapper, value: str) -> None:
    run(connection, "INSERT INTO entry (value) VALUES (%s)", [value])


def insert_atomically(connection: BaseDatabaseWrapper, value: str) -> None:
    with transaction.atomic(using=connection.alias):
        insert(connection, value)
        insert(connection, value)


def read(connection: BaseDatabaseWrapper, value: str) -> None:
    assert run(connection, "SELECT pg_is_in_recovery() FROM pg_sleep(0)") == [(False,)]


DOES = {"read": read, "write": insert, "transaction": insert_atomically}
WAYS: dict[str, Callable[[Replicated], float]] = {
    "crash": Replicated.crash_and_promote,
    "switch-over": Replicated.switch_over,
}


def values(pair: Replicated) -> list[str]:
    rows = pair.second.execute("SELECT value FROM entry ORDER BY id", database="app")
    return [value for (value,) in rows]


# -- a crash, or a switch-over, of a primary with a standby ----------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("does", DOES)
def test_what_comes_after_the_failover_finds_the_new_primary(
    pair: Replicated, connect: Connect, way: str, does: str
) -> None:
    """The stock engine fails under the same fault."""
    connection, stock = connect(), connect(STOCK)
    for each in (connection, stock):
        run(each, "SELECT 1")
    WAYS[way](pair)
    DOES[does](connection, "x")
    assert connection.settings_dict["PORT"].split(",")[1] == str(server_port(connection))
    assert values(pair) == {"read": [], "write": ["x"], "transaction": ["x", "x"]}[does]
    with pytest.raises(Error):
        DOES[does](stock, "stock")


@pytest.mark.campaign
@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
@pytest.mark.parametrize("way", WAYS)
def test_reads_and_transactions_go_on_and_acknowledged_writes_are_there(
    pair: Replicated, connect: Connect, way: str, engine: str
) -> None:
    workers = [Worker(connect(engine).alias, name) for name in ("read", "write", "transaction")]
    for worker in workers:
        worker.start()
    time.sleep(0.3)
    pair.first.stop("immediate" if way == "crash" else "fast")
    # Long enough for waits that doubled on and on to be far too long now.
    time.sleep(3.0)
    accepted = pair.promote()
    if way == "switch-over":
        pair.demote_first()
    for worker in workers:
        until(partial(worker.goes_on, accepted, engine), f"{worker.name} waits")
        worker.stop.set()
        worker.join()
    failed = {worker.name: worker.failed for worker in workers}
    found = values(pair)
    for worker in workers[1:]:
        for value, rows in worker.acknowledged.items():
            assert found.count(value) == rows, "an acknowledged write is there, and once"
    if engine == STOCK:
        assert failed["read"]
        return
    assert not failed["read"]
    # What was under way when the primary ended: not known, so never done again.
    assert len(failed["write"]) <= 1
    assert len(failed["transaction"]) <= 1
    for error in failed["transaction"]:
        later = "not the first statement" in "".join(getattr(error, "__notes__", []))
        assert later or isinstance(error, (CommitOutcomeUnknown, TransactionLost))
    for worker in workers:
        first = min(ended for ended in worker.ended if ended > accepted)
        assert first - accepted < 2.5, "it waits for half a second at most"


class Worker(threading.Thread):
    """Does one thing over and over on a connection of its own."""

    def __init__(self, alias: str, name: str) -> None:
        super().__init__(name=name)
        self.alias = alias
        self.stop = threading.Event()
        self.acknowledged: dict[str, int] = {}
        self.failed: list[BaseException] = []
        self.ended: list[float] = []

    def goes_on(self, after: float, engine: str) -> bool:
        """The stock engine does not, where it has lost its transaction."""
        return engine == STOCK or (bool(self.ended) and self.ended[-1] > after)

    def run(self) -> None:
        connection = connections[self.alias]
        number = 0
        while not self.stop.wait(0.005):
            number += 1
            value = f"{self.name}-{number}"
            try:
                DOES[self.name](connection, value)
            except Error as error:
                self.failed.append(error)
                continue
            self.ended.append(time.monotonic())
            self.acknowledged[value] = 2 if self.name == "transaction" else 1
        connection.close()


# -- a standby that still answers ------------------------------------------------------------------


@pytest.fixture
def address(pair: Replicated) -> Iterator[Proxy]:
    """One address before the pair, as a virtual IP or a DNS name: it leads to the first."""
    with Proxy(pair.first.port) as made:
        yield made


@pytest.fixture
def stale(pair: Replicated, address: Proxy, connect: Connect) -> Connect:
    """Connections by that address, which still leads to the first after it has become a standby."""

    def make(engine: str = RESILIENT, **given: Any) -> BaseDatabaseWrapper:
        single = {"HOST": "localhost", "PORT": str(address.port)}
        return connect(engine, libpq={}, entry=single, **given)

    return make


def move(address: Proxy, pair: Replicated, after: float) -> threading.Timer:
    """Let the address lead to the second; what is connected stays where it is."""
    timer = threading.Timer(
        after, lambda: setattr(address, "target", (address.address, pair.second.port))
    )
    timer.start()
    return timer


def server_port(connection: BaseDatabaseWrapper) -> int:
    [(port,)] = run(connection, "SELECT inet_server_port()")
    return int(port)


@pytest.mark.parametrize("does", ["write", "transaction"])
def test_a_standby_that_refuses_a_write_is_left_for_the_new_primary(
    pair: Replicated, address: Proxy, stale: Connect, does: str
) -> None:
    connection, stock = stale(), stale(STOCK)
    for each in (connection, stock):
        run(each, "SELECT 1")
    pair.switch_over()
    stock.close()
    for each in (connection, stock):
        assert run(each, "SELECT pg_is_in_recovery()") == [(True,)], "it still answers"
    with pytest.raises(InternalError, match="read-only"):
        DOES[does](stock, "stock")
    moved = move(address, pair, 0.7)
    DOES[does](connection, "x")
    moved.join()
    assert values(pair) == ["x"] * (2 if does == "transaction" else 1)
    assert server_port(connection) == pair.second.port
    stats = connection.resilience.stats  # type: ignore[attr-defined]
    assert stats.lost["FAILOVER"] == 1
    assert stats.statement_retries["refused by a standby"] == 1
    with pytest.raises(InternalError, match="read-only"):
        DOES[does](stock, "stock")


def test_later_in_a_transaction_the_refusal_is_raised_and_the_next_one_finds_the_primary(
    pair: Replicated, address: Proxy, stale: Connect
) -> None:
    connection = stale()
    run(connection, "SELECT 1")
    pair.switch_over()
    run(connection, "SELECT 1")
    move(address, pair, 0.0).join()
    with pytest.raises(InternalError, match="read-only") as caught:  # noqa: SIM117
        with transaction.atomic(using=connection.alias):
            run(connection, "SELECT 1")
            insert(connection, "x")
    assert "retry the whole transaction" in caught.value.__notes__[-1]
    insert_atomically(connection, "y")
    assert values(pair) == ["y", "y"]


def test_no_read_comes_from_a_standby_where_the_primary_is_demanded(
    pair: Replicated, address: Proxy, stale: Connect
) -> None:
    demanding, other = stale(primary=True, retry_deadline=1.0), stale()
    for each in (demanding, other):
        run(each, "SELECT 1")
    pair.switch_over()
    assert run(other, "SELECT pg_is_in_recovery()") == [(True,)]
    with pytest.raises(OperationalError, match="hot standby mode"):
        run(demanding, "SELECT 1")
    move(address, pair, 0.3)
    # Who comes meanwhile fails fast: the outage is older than the deadline.
    until(lambda: leads_to_primary(demanding), "no primary")


def leads_to_primary(connection: BaseDatabaseWrapper) -> bool:
    try:
        return run(connection, "SELECT pg_is_in_recovery()") == [(False,)]
    except OperationalError:
        return False


def test_no_standby_is_kept_where_libpq_was_told_that_any_will_do(
    pair: Replicated, connect: Connect
) -> None:
    second = {"PORT": str(pair.second.port), "HOST": "localhost"}
    settings = {"target_session_attrs": "any"}
    connection = connect(libpq=settings, entry=second, primary=True, retry_deadline=0.5)
    with pytest.raises(OperationalError, match="led to a standby"):
        run(connection, "SELECT 1")
    assert connection.connection is None
    either = connect(libpq=settings, entry=second)
    assert run(either, "SELECT pg_is_in_recovery()") == [(True,)]


@pytest.mark.needs("pgbouncer")
def test_a_pooler_does_not_hide_that_its_server_is_a_standby_now(
    pair: Replicated, connect: Connect
) -> None:
    """PgBouncer repeats to new clients what the server had said of itself as a primary."""
    with PgBouncer(
        pair.first, console=True, pool_mode="transaction", server_login_retry=1
    ) as bouncer:
        entry = {"HOST": "localhost", "PORT": str(bouncer.port)}
        demanding, other = (
            connect(libpq={}, entry=entry, retry_deadline=1.0, **option)
            for option in ({"primary": True}, {})
        )
        for each in (demanding, other):
            run(each, "SELECT 1")
        pair.switch_over()
        until(lambda: run(other, "SELECT pg_is_in_recovery()") == [(True,)], "not a standby")
        demanding.close()
        with pytest.raises(OperationalError, match="hot standby mode"):
            run(demanding, "SELECT 1")
        with pytest.raises(InternalError, match="read-only") as caught:
            insert(other, "x")
        assert "Could not reconnect" in caught.value.__notes__[-1]
    assert values(pair) == []


def test_primary_goes_through_all_hosts_by_itself(pair: Replicated, connect: Connect) -> None:
    backwards = f"{pair.second.port},{pair.first.port}"
    connection = connect(libpq={}, entry={"PORT": backwards}, primary=True)
    assert run(connection, "SELECT pg_is_in_recovery()") == [(False,)]
    assert connect(libpq={}, entry={"PORT": backwards}, primary=False).connection is None
    contradicting = connect(libpq={"target_session_attrs": "standby"}, primary=True)
    with pytest.raises(ImproperlyConfigured, match='target_session_attrs is "standby"'):
        run(contradicting, "SELECT 1")


def test_a_primary_that_was_fenced_off_is_left_for_the_new_one(
    pair: Replicated, connect: Connect
) -> None:
    """By default_transaction_read_only on a server that keeps its sessions."""
    connections_of = {does: connect() for does in ("write", "transaction")}
    stock = connect(STOCK)
    for each in (*connections_of.values(), stock):
        run(each, "SELECT 1")
    pair.first.configure(synchronous_standby_names="", default_transaction_read_only="on")
    pair.promote()
    with pytest.raises(InternalError, match="read-only"):
        insert(stock, "stock")
    for does, connection in connections_of.items():
        DOES[does](connection, does)
    assert values(pair) == ["write", "transaction", "transaction"]


def test_what_the_application_made_read_only_itself_is_not_a_failover(
    pair: Replicated, connect: Connect
) -> None:
    connection = connect()
    run(connection, "SELECT 1")
    pid = backend_pid(connection)
    with pytest.raises(InternalError, match="read-only"):  # noqa: SIM117
        with transaction.atomic(using=connection.alias):
            run(connection, "SET TRANSACTION READ ONLY")
            insert(connection, "x")
    run(connection, "SET default_transaction_read_only = on")
    for does in ("write", "transaction"):
        with pytest.raises(InternalError, match="read-only") as caught:
            DOES[does](connection, "x")
        assert not getattr(caught.value, "__notes__", [])
    assert backend_pid(connection) == pid


# -- a name that leads elsewhere -------------------------------------------------------------------

ASK = """
import json, os, sys
import django
from django.conf import settings

settings.configure(DATABASES={"default": json.loads(os.environ["ENTRY"])}, USE_TZ=True)
django.setup()
from django.db import Error, connection


def ask():
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT host(inet_server_addr())")
            return cursor.fetchone()[0]
    except Error as error:
        return type(error).__name__


print(ask(), flush=True)
sys.stdin.readline()
print(ask(), flush=True)
"""


@pytest.mark.needs("CAP_SYS_ADMIN")
@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_name_is_resolved_anew(engine: str, tmp_path: Path) -> None:
    """In a mount namespace of its own, with an own /etc/hosts that changes with the failover."""
    with Replicated(addresses=("127.0.0.21", "127.0.0.22"), port=free_port()) as pair:
        entry = pair.database(engine=engine, HOST="db.internal", PORT=str(pair.first.port))
        entry["OPTIONS"]["sslmode"] = "verify-ca"
        hosts = tmp_path / "hosts"
        hosts.write_text("127.0.0.21 db.internal\n")
        inside = f'mount --bind {hosts} /etc/hosts && exec "$0" -c "$1"'
        asker = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", inside, sys.executable, ASK],
            env={**os.environ, "ENTRY": json.dumps(entry), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert asker.stdout is not None
        assert asker.stdout.readline().strip() == "127.0.0.21"
        pair.first.stop("immediate")
        with hosts.open("r+") as file:  # in place: it is this file that is mounted there
            file.write("127.0.0.22 db.internal\n")
        pair.promote()
        answer, _ = asker.communicate("now\n", timeout=30)
    assert answer.strip() == ("127.0.0.22" if engine == RESILIENT else "OperationalError")


# -- replicas --------------------------------------------------------------------------------------

REPLICA = {"target_session_attrs": "prefer-standby", "load_balance_hosts": "random"}


def test_a_replica_alias_reads_from_a_standby_and_from_the_primary_if_there_is_none(
    pair: Replicated, connect: Connect
) -> None:
    replica, stock = connect(libpq=REPLICA), connect(STOCK, libpq=REPLICA)
    for each in (replica, stock):
        assert run(each, "SELECT pg_is_in_recovery()") == [(True,)]
    pid = backend_pid(replica)
    with pytest.raises(InternalError, match="read-only") as caught:
        insert(replica, "x")
    assert not getattr(caught.value, "__notes__", [])
    assert backend_pid(replica) == pid, "a write here is a mistake, and stays one"
    pair.second.stop("fast")
    assert run(replica, "SELECT pg_is_in_recovery()") == [(False,)]
    with pytest.raises(Error):
        run(stock, "SELECT 1")


def test_load_is_spread_over_the_standbys(pair: Replicated, connect: Connect) -> None:
    """Here both hosts will do."""
    settings = {**REPLICA, "target_session_attrs": "any"}
    found = set()
    for _ in range(40):
        connection = connect(libpq=settings)
        found.add(server_port(connection))
        connection.close()
        if len(found) == 2:
            break
    assert found == {pair.first.port, pair.second.port}


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_read_cancelled_for_the_standbys_wal_is_run_again(
    pair: Replicated, connect: Connect, engine: str
) -> None:
    first, second = pair.first, pair.second
    first.configure(synchronous_standby_names="", autovacuum="off")
    second.configure(max_standby_streaming_delay="0", hot_standby_feedback="off")
    insert_rows = "INSERT INTO entry (value) SELECT 'x' FROM generate_series(1, 1000)"
    first.execute(insert_rows, database="app")
    pair.wait_replayed()
    replica = connect(engine, libpq=REPLICA)
    run(replica, "SELECT 1")

    def remove_rows() -> None:
        first.execute("DELETE FROM entry", database="app")
        first.execute("VACUUM entry", database="app")

    timer = threading.Timer(0.5, remove_rows)
    timer.start()
    sql = "SELECT count(*) FROM entry, pg_sleep(2)"
    if engine == STOCK:
        with pytest.raises(OperationalError, match="conflict with recovery"):
            run(replica, sql)
    else:
        pid = backend_pid(replica)
        assert run(replica, sql) == [(0,)], "the rows as they are when it is run again"
        assert backend_pid(replica) == pid, "the connection was intact"
    timer.join()
