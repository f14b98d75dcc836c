"""A lost COMMIT whose transaction id belongs to somebody else by the time the server is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_resilient_pg.errors import CommitOutcomeUnknown
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import RESILIENT, Connections, backend_pid, until_waiting, values
from tests.faults.cluster import Replicated

TABLE = "outcomes"
# What a transaction writes is flushed by its COMMIT, and by nothing before that.
UNFLUSHED = {
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_writer_delay": "10s",
    "autovacuum": "off",
}
XID = "SELECT pg_current_xact_id()::text"


def prepare(server: Server) -> None:
    """A table whose COMMIT takes half a second, if its row says so."""
    server.execute(f"CREATE TABLE {TABLE} (value text)", database="app")
    server.execute(f"GRANT ALL ON {TABLE} TO app", database="app")
    server.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$",
        database="app",
    )
    server.execute(
        f"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {TABLE} DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.value = 'mine') EXECUTE FUNCTION slow()",
        database="app",
    )


def rows(server: Server) -> list[str]:
    return values(server, TABLE)


def other_client(server: Server) -> str:
    """Another client is faster; returns its transaction's id."""
    sql = f"INSERT INTO {TABLE} VALUES ('other') RETURNING pg_current_xact_id()::text"
    [(xid,)] = server.execute(sql, database="app")
    return str(xid)


@contextmanager
def in_commit(
    server: Server, connection: BaseDatabaseWrapper, fault: Callable[[], object]
) -> Iterator[None]:
    """Call ``fault`` in the middle of COMMIT; no new connection is used before it has returned."""
    connection.ensure_connection()
    pid, over = backend_pid(connection), threading.Event()
    errors: list[BaseException] = []

    def watch() -> None:
        try:
            until_waiting(server, pid)
            fault()
        except BaseException as error:
            errors.append(error)
        finally:
            over.set()

    def wait(**_: Any) -> None:
        over.wait(20)

    thread = threading.Thread(target=watch, name="in_commit")
    connection_created.connect(wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        connection_created.disconnect(wait)
    assert not errors, errors


class Work:
    """One transaction under ``retry_atomic``, and what became of it."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._db = connection
        self.xids: list[str] = []
        self.hooks: list[int] = []

    def __call__(self) -> None:
        with self._db.cursor() as cursor:
            cursor.execute(f"INSERT INTO {TABLE} VALUES ('mine')")
            cursor.execute(XID)
            [(xid,)] = cursor.fetchall()
            self.xids.append(str(xid))
        transaction.on_commit(lambda: self.hooks.append(1), using=self._db.alias)

    def run(self) -> None:
        retry_atomic.run(self, using=self._db.alias, deadline=30)


@pytest.fixture
def unflushed() -> Iterator[Server]:
    with Server(settings=UNFLUSHED) as server:
        prepare(server)
        yield server


@pytest.fixture
def made(unflushed: Server) -> Iterator[Connections]:
    with closing(Connections(unflushed)) as made:
        yield made


def crash(server: Server) -> None:
    server.stop("immediate")
    server.start()


def test_an_id_that_is_given_out_again_after_a_crash_is_not_ours(
    unflushed: Server, made: Connections
) -> None:
    work = Work(made(RESILIENT))
    others: list[str] = []

    def fault() -> None:
        crash(unflushed)
        others.append(other_client(unflushed))

    with in_commit(unflushed, work._db, fault), pytest.raises(CommitOutcomeUnknown) as caught:
        work.run()
    assert work.xids == others, "the id was not given out again: the test shows nothing"
    assert caught.value.xid == int(others[0])
    assert (rows(unflushed), work.hooks) == (["other"], [])


def test_an_id_that_a_crashed_server_does_not_know_runs_again(
    unflushed: Server, made: Connections
) -> None:
    work = Work(made(RESILIENT))
    with in_commit(unflushed, work._db, lambda: crash(unflushed)):
        work.run()
    assert len(work.xids) == 2
    assert (rows(unflushed), work.hooks) == (["mine"], [1])


def test_an_id_that_another_client_has_rolled_back_after_a_crash_runs_again(
    unflushed: Server, made: Connections
) -> None:
    work = Work(made(RESILIENT))

    def fault() -> None:
        crash(unflushed)
        unflushed.execute(f"BEGIN; {XID}; ROLLBACK")

    with in_commit(unflushed, work._db, fault):
        work.run()
    assert len(work.xids) == 2
    assert (rows(unflushed), work.hooks) == (["mine"], [1])


def test_over_a_clean_restart_the_outcome_is_known() -> None:
    """Ended while it waits for a standby that does not exist: it has committed."""
    with Server() as server:
        prepare(server)
        server.configure(synchronous_standby_names="nobody")
        with closing(Connections(server)) as made:
            work = Work(made(RESILIENT))
            work._db.ensure_connection()
            pid = backend_pid(work._db)

            def restart() -> None:
                until_waiting(server, pid, "SyncRep")
                server.stop("fast")
                server.start()

            with in_commit(server, work._db, restart):
                work.run()
        assert len(work.xids) == 1
        assert (rows(server), work.hooks) == (["mine"], [1])


def test_who_may_not_ask_for_the_timeline_commits_all_the_same(
    unflushed: Server, made: Connections
) -> None:
    """As with managed services; after a loss the outcome is unknown."""
    unflushed.execute(
        "REVOKE EXECUTE ON FUNCTION pg_current_wal_insert_lsn() FROM PUBLIC", database="app"
    )
    work = Work(made(RESILIENT))
    for number in (1, 2):
        work.run()
        assert (rows(unflushed), work.hooks) == (["mine"] * number, [1] * number)
    pid = backend_pid(work._db)
    with (
        in_commit(unflushed, work._db, lambda: unflushed.terminate(pid)),
        pytest.raises(CommitOutcomeUnknown),
    ):
        work.run()
    assert rows(unflushed) == ["mine"] * 2


@pytest.fixture
def lagging() -> Iterator[Replicated]:
    """A standby that has not received the last transaction."""
    with Replicated(synchronous=False) as pair:
        prepare(pair.first)
        # Enough for the checkpoint after the promotion to take its time.
        pair.first.execute(
            "CREATE TABLE much AS SELECT repeat('x', 500) FROM generate_series(1, 20000)",
            database="app",
        )
        pair.wait_replayed()
        yield pair


def test_after_the_promotion_of_a_standby_that_lags_behind_an_id_is_not_ours(
    lagging: Replicated,
) -> None:
    with closing(Connections(lagging.first)) as made:
        work = Work(made.register("lagging", lagging.database()))
        work._db.ensure_connection()
        lagging.second.configure(primary_conninfo="")
        others: list[str] = []

        def fault() -> None:
            lagging.first.stop("immediate")
            lagging.second.execute("SELECT pg_promote(wait => true)")
            others.append(other_client(lagging.second))

        with in_commit(lagging.first, work._db, fault), pytest.raises(CommitOutcomeUnknown):
            work.run()
    assert work.xids == others, "the id was not given out again: the test shows nothing"
    assert (rows(lagging.second), work.hooks) == (["other"], [])
