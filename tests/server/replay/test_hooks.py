"""Hooks of ``on_commit`` and requests: what has committed is not run again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import RESILIENT, Connections, run
from tests.server.replay.once import ALIASES, CONFLICT, Kill, insert, lose, post, rows

pytestmark = pytest.mark.usefixtures("table")


def conflict(connection: BaseDatabaseWrapper, kill: Kill) -> None:
    with transaction.atomic(using=connection.alias):
        run(connection, CONFLICT)


# -- hooks: the transaction has committed ----------------------------------------------------------


@pytest.mark.parametrize("fails", [lose, conflict])
@pytest.mark.parametrize("where", ALIASES)
def test_a_hook_that_fails_does_not_run_the_committed_function_again(
    fails: Callable[[BaseDatabaseWrapper, Kill], None],
    where: str,
    db: BaseDatabaseWrapper,
    other: BaseDatabaseWrapper,
    server: Server,
    kill: Kill,
) -> None:
    runs: list[str] = []

    def hook() -> None:
        runs.append("hook")
        fails(connections[where], kill)

    def work() -> None:
        runs.append("work")
        insert(db, "work")
        transaction.on_commit(hook, using=db.alias)

    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=db.alias)
    assert rows(server) == ["work"]
    assert runs == ["work", "hook"]
    assert "not retried: its transaction had been committed" in caught.value.__notes__[-1]


def test_a_hook_that_uses_retry_atomic_itself_changes_nothing(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[str] = []

    def lost() -> None:
        runs.append("lost")
        insert(db, "inner")
        kill(db)
        insert(db, "inner")

    def work() -> None:
        runs.append("work")
        insert(db, "work")
        hook = lambda: retry_atomic.run(lost, using=db.alias, retries=1)  # noqa: E731
        transaction.on_commit(hook, using=db.alias)

    with pytest.raises(Error):
        retry_atomic.run(work, using=db.alias)
    assert rows(server) == ["work"]
    assert runs == ["work", "lost", "lost"]


# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("writes", [True, False])
def test_a_hook_of_a_request_that_fails_does_not_run_the_request_again(
    writes: bool,
    make_connection: Connections,
    server: Server,
    kill: Kill,
) -> None:
    db = make_connection(RESILIENT, alias="first", CONN_MAX_AGE=60, ATOMIC_REQUESTS=True)
    runs: list[str] = []

    def hook() -> None:
        runs.append("hook")
        lose(db, kill)

    def do() -> None:
        runs.append("view")
        if writes:
            insert(db, "view")
        transaction.on_commit(hook, using=db.alias)

    assert post(do) == 500
    assert rows(server) == ["view"] * writes
    assert runs == ["view", "hook"]


def test_a_request_learns_what_retry_atomic_committed_in_it(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    def do() -> None:
        retry_atomic.run(lambda: insert(db, "kept"), using=db.alias)
        lose(db, kill)

    assert post(do) == 500
    assert rows(server) == ["kept"]
