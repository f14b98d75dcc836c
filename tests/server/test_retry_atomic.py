"""What ``retry_atomic`` and ``atomic()`` must not do again, and must not lose silently."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg.decorators import replayable
from django_resilient_pg.errors import CommitOutcomeUnknown, TransactionLost
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections, backend_pid

Kill = Callable[[BaseDatabaseWrapper], int]
TABLE = "once"
ALIASES = ("first", "second")
OURS = "django_resilient_pg.middleware.RequestRetryMiddleware"
CONFLICT = "DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$"


@pytest.fixture(autouse=True)
def table(server: Server) -> Iterator[None]:
    server.execute(f"CREATE TABLE {TABLE} (value text)", database="app")
    server.execute(f"GRANT ALL ON {TABLE} TO app", database="app")
    yield
    server.execute(f"DROP TABLE {TABLE}", database="app")


@pytest.fixture
def db(make_connection: Connections) -> BaseDatabaseWrapper:
    return make_connection(RESILIENT, alias="first", CONN_MAX_AGE=60)


@pytest.fixture
def other(make_connection: Connections) -> BaseDatabaseWrapper:
    return make_connection(RESILIENT, alias="second", CONN_MAX_AGE=60)


def rows(server: Server) -> list[str]:
    return [v for (v,) in server.execute(f"SELECT value FROM {TABLE} ORDER BY 1", database="app")]


def run(connection: BaseDatabaseWrapper, sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def insert(connection: BaseDatabaseWrapper, value: str) -> None:
    run(connection, f"INSERT INTO {TABLE} VALUES ('{value}')")


def insert_raw(connection: BaseDatabaseWrapper, value: str) -> None:
    """Past Django's cursors."""
    connection.connection.cursor().execute(f"INSERT INTO {TABLE} VALUES ('{value}')")


def lose(connection: BaseDatabaseWrapper, kill: Kill) -> None:
    """Lose a transaction in its middle."""
    with transaction.atomic(using=connection.alias):
        run(connection, "SELECT 1")
        kill(connection)
        run(connection, "SELECT 1")


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


# -- the end of its retries ------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["lost", "in conflict"])
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"retries": 1}, "it was retried 1 time already (retries)"),
        ({"deadline": 0}, "retry_atomic's deadline (0 s) is used up"),
    ],
)
def test_the_error_and_the_log_say_why_there_is_no_further_retry(
    given: dict[str, Any],
    why: str,
    fails: str,
    db: BaseDatabaseWrapper,
    kill: Kill,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def work() -> None:
        run(db, "SELECT 1")
        if fails == "lost":
            kill(db)
        run(db, CONFLICT)

    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=db.alias, **given)
    assert caught.value.__notes__[-1] == f"The transaction was not retried: {why}."
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    if fails == "lost":
        assert len(warnings) == 1
        assert warnings[0].endswith(f" Not retried: {why}.")
    else:
        assert not warnings


def test_an_error_that_is_nobodys_to_retry_has_no_note(db: BaseDatabaseWrapper) -> None:
    with pytest.raises(Error) as caught:
        retry_atomic.run(lambda: run(db, "SELECT 1/0"), using=db.alias, retries=0)
    assert not hasattr(caught.value, "__notes__")


# -- requests --------------------------------------------------------------------------------------

actions: dict[str, Callable[[], None]] = {}


@replayable
def act(request: HttpRequest) -> HttpResponse:
    actions["do"]()
    return HttpResponse("done")


urlpatterns = [path("act/", act)]


def post(do: Callable[[], None]) -> int:
    actions["do"] = do
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[OURS], ALLOWED_HOSTS=["*"]):
        return Client(raise_request_exception=False).post("/act/").status_code


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


# -- other aliases ---------------------------------------------------------------------------------


def write(other: BaseDatabaseWrapper) -> None:
    insert(other, "elsewhere")


def write_in_transaction(other: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=other.alias):
        insert(other, "elsewhere")


def write_with_retry(other: BaseDatabaseWrapper) -> None:
    retry_atomic.run(lambda: insert(other, "elsewhere"), using=other.alias)


def write_in_hook(other: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=other.alias):
        transaction.on_commit(lambda: insert(other, "elsewhere"), using=other.alias)


def write_in_a_function(other: BaseDatabaseWrapper) -> None:
    run(other, "SELECT insert_once('elsewhere')")


@pytest.fixture
def function(server: Server) -> Iterator[None]:
    server.execute(
        "CREATE FUNCTION insert_once(text) RETURNS void LANGUAGE sql"
        f" AS $$ INSERT INTO {TABLE} VALUES ($1) $$",
        database="app",
    )
    yield
    server.execute("DROP FUNCTION insert_once", database="app")


@pytest.mark.parametrize(
    "effect",
    [write, write_in_transaction, write_with_retry, write_in_hook, write_in_a_function],
)
@pytest.mark.parametrize("lost", ALIASES)
def test_what_took_effect_elsewhere_is_not_done_twice(
    effect: Callable[[BaseDatabaseWrapper], None],
    lost: str,
    function: None,
    db: BaseDatabaseWrapper,
    other: BaseDatabaseWrapper,
    server: Server,
    kill: Kill,
) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(db, "own")
        effect(other)
        if lost == db.alias:
            kill(db)
            run(db, "SELECT 1")
        else:
            lose(other, kill)

    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=db.alias)
    assert (len(runs), rows(server)) == (1, ["elsewhere"])
    assert "The transaction was not retried: " in caught.value.__notes__[-1]


@pytest.mark.parametrize("lost", ALIASES)
def test_reads_elsewhere_do_not_keep_it_from_running_again(
    lost: str, db: BaseDatabaseWrapper, other: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        insert(db, "own")
        run(other, f"SELECT lower(value) FROM {TABLE}")
        if len(runs) == 1:
            lose(connections[lost], kill) if lost != db.alias else kill(db)
        run(db, "SELECT 1")

    retry_atomic.run(work, using=db.alias)
    assert (len(runs), rows(server)) == (2, ["own"])


def test_a_database_of_another_engine_counts_as_written(
    db: BaseDatabaseWrapper, make_connection: Connections, server: Server, kill: Kill
) -> None:
    foreign = make_connection(STOCK, alias="second")

    def work() -> None:
        insert(db, "own")
        insert(foreign, "elsewhere")
        kill(db)
        run(db, "SELECT 1")

    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=db.alias)
    assert rows(server) == ["elsewhere"]
    assert '"second", whose engine does not count' in caught.value.__notes__[-1]


# -- while connecting -----------------------------------------------------------------------------


def test_what_a_receiver_commits_on_a_new_connection_is_not_the_functions(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[int] = []

    def set_up(connection: BaseDatabaseWrapper, **_: object) -> None:
        with transaction.atomic(using=connection.alias):
            run(connection, "SET app.tenant = '7'")

    def work() -> None:
        runs.append(1)
        insert(db, "a")
        if len(runs) == 1:
            kill(db)
        insert(db, "b")

    connection_created.connect(set_up)
    try:
        retry_atomic.run(work, using=db.alias)
    finally:
        connection_created.disconnect(set_up)
    assert rows(server) == ["a", "b"]
    assert len(runs) == 2


# -- transactions ended as text --------------------------------------------------------------------

ENDS = {
    "commit": ["COMMIT"],
    "end": ["/* by hand */ END"],
    "chain": ["COMMIT AND CHAIN"],
    "several": ["COMMIT; BEGIN"],
    "prepare": ["PREPARE TRANSACTION 'by hand'"],
}


@pytest.fixture(params=[pytest.param(sql, id=name) for name, sql in ENDS.items()])
def ends(request: pytest.FixtureRequest) -> list[str]:
    sql: list[str] = request.param
    return sql


@pytest.fixture(scope="module")
def two_phase_server() -> Iterator[Server]:
    """A server that allows PREPARE TRANSACTION, with the table."""
    with Server(settings={"max_prepared_transactions": "5"}) as running:
        running.execute(f"CREATE TABLE {TABLE} (value text)", database="app")
        running.execute(f"GRANT ALL ON {TABLE} TO app", database="app")
        yield running


@pytest.fixture
def two_phases(two_phase_server: Server) -> Iterator[BaseDatabaseWrapper]:
    """A connection to that server."""
    made = Connections(two_phase_server)
    yield made(RESILIENT, alias="first", CONN_MAX_AGE=60)
    made.close()


@pytest.mark.parametrize("via", ["retry_atomic", "request"])
def test_what_was_committed_as_text_is_not_done_twice(
    via: str, ends: list[str], two_phases: BaseDatabaseWrapper, two_phase_server: Server
) -> None:
    db, runs = two_phases, []

    def work() -> None:
        runs.append(1)
        insert(db, "x")
        for sql in ends:
            run(db, sql)
        if two_phase_server.execute("SELECT 1 FROM pg_prepared_xacts"):
            two_phase_server.execute("COMMIT PREPARED 'by hand'", database="app")
        run(db, "SELECT 1")
        if len(runs) == 1:
            two_phase_server.terminate(backend_pid(db))
            run(db, "SELECT 1")
            insert(db, "y")
            two_phase_server.terminate(backend_pid(db))
            run(db, "SELECT 1")

    # More than once: what is known of a text is remembered.
    for _ in range(2):
        runs.clear()
        two_phase_server.execute(f"TRUNCATE {TABLE}", database="app")
        if via == "request":

            def do() -> None:
                with transaction.atomic(using=db.alias):
                    work()

            assert post(do) == 500
        else:
            with pytest.raises(Error) as caught:
                retry_atomic.run(work, using=db.alias)
            assert not getattr(caught.value, "transaction_lost", False)
        assert len(runs) == 1
        assert rows(two_phase_server).count("x") == 1
        assert rows(two_phase_server).count("y") <= 1
        db.close()


# -- statements past Django's cursors --------------------------------------------------------------


def test_a_raw_statement_before_the_first_one_is_not_lost_silently(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    with pytest.raises(Error), transaction.atomic(using=db.alias):
        db.ensure_connection()
        insert_raw(db, "raw")
        kill(db)
        insert(db, "second")
    assert rows(server) == []


def test_a_transaction_of_nothing_but_raw_statements_is_not_lost_silently(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    hooks: list[int] = []
    with pytest.raises(TransactionLost), transaction.atomic(using=db.alias):
        db.ensure_connection()
        insert_raw(db, "raw")
        transaction.on_commit(lambda: hooks.append(1), using=db.alias)
        kill(db)
    assert (rows(server), hooks) == ([], [])


def test_a_nested_block_in_which_nothing_ran_is_no_raw_statement(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    """It has opened the transaction, and left it untouched."""
    with transaction.atomic(using=db.alias):
        with transaction.atomic(using=db.alias):
            pass
        kill(db)
        insert(db, "first")
    assert rows(server) == ["first"]


def test_a_raw_commit_counts_in_a_unit_of_work(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    def do() -> None:
        with transaction.atomic(using=db.alias):
            db.ensure_connection()
            insert_raw(db, "raw")
        lose(db, kill)

    assert post(do) == 500
    assert rows(server) == ["raw"]


# -- autocommit off --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["set_autocommit", "settings"])
def test_it_refuses_while_autocommit_is_off(
    how: str, make_connection: Connections, server: Server
) -> None:
    if how == "settings":
        db = make_connection(RESILIENT, AUTOCOMMIT=False)
    else:
        db = make_connection(RESILIENT)
        transaction.set_autocommit(False, using=db.alias)
    with pytest.raises(RuntimeError, match="while autocommit is off"):
        retry_atomic.run(lambda: insert(db, "x"), using=db.alias)
    assert not db.in_atomic_block
    assert rows(server) == []


# -- transactions of others, and of the driver -----------------------------------------------------


def test_what_is_written_in_a_transaction_that_is_open_elsewhere_is_not_written_twice(
    db: BaseDatabaseWrapper, other: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        insert(other, "elsewhere")
        insert(db, "here")
        if len(runs) == 1:
            lose_now(db, kill)

    with transaction.atomic(using=other.alias):
        insert(other, "elsewhere")  # the same text before does not hide it
        with pytest.raises(Error) as caught:
            retry_atomic.run(work, using=db.alias)
    assert rows(server) == ["elsewhere", "elsewhere"]
    assert 'the transaction that is open on "second"' in caught.value.__notes__[-1]


def test_what_is_read_in_a_transaction_that_is_open_elsewhere_is_read_again(
    db: BaseDatabaseWrapper, other: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        run(other, f"SELECT value FROM {TABLE}")
        insert(db, "here")
        if len(runs) == 1:
            lose_now(db, kill)

    with transaction.atomic(using=other.alias):
        insert(other, "elsewhere")
        retry_atomic.run(work, using=db.alias)
    assert rows(server) == ["elsewhere", "here"]


def lose_now(connection: BaseDatabaseWrapper, kill: Kill) -> None:
    """Lose the transaction under way."""
    kill(connection)
    run(connection, "SELECT 1")


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_the_driver_itself_has_committed_is_not_done_again(
    db: BaseDatabaseWrapper, server: Server, kill: Kill, goes_on: bool
) -> None:
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        insert(db, "committed by the driver")
        db.connection.commit()
        run(db, "SELECT 1")
        if goes_on:
            run(db, f"SELECT value FROM {TABLE}")
        if len(runs) == 1:
            lose_now(db, kill)

    with pytest.raises(Error):
        retry_atomic.run(work, using=db.alias)
    assert (rows(server), runs) == (["committed by the driver"], ["work"])


@pytest.mark.psycopg3
def test_what_the_drivers_own_transaction_has_committed_is_not_done_again(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        with db.connection.transaction():
            insert(db, "committed by the driver")
        run(db, "SELECT 1")
        if len(runs) == 1:
            lose_now(db, kill)

    with pytest.raises(Error):
        retry_atomic.run(work, using=db.alias)
    assert (rows(server), runs) == (["committed by the driver"], ["work"])


def test_a_first_statement_that_the_driver_refuses_leaves_the_transaction_as_it_was(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        with db.cursor() as cursor, pytest.raises((Error, TypeError, IndexError)):
            cursor.execute("SELECT %s, %s", [1])
        with transaction.atomic(using=db.alias):
            insert(db, "once")
        if len(runs) == 1:
            lose_now(db, kill)

    retry_atomic.run(work, using=db.alias)
    assert (rows(server), runs) == (["once"], ["work", "work"])


def test_both_lost_runs_again(
    db: BaseDatabaseWrapper, other: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    """As at a restart of the server: what was read elsewhere is asked on a new connection."""
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        run(other, f"SELECT lower(value) FROM {TABLE}")
        insert(db, "once")
        if len(runs) == 1:
            kill(other)
            lose_now(db, kill)

    retry_atomic.run(work, using=db.alias)
    assert (rows(server), runs) == (["once"], ["work", "work"])


def test_a_connection_of_another_engine_that_was_only_looked_at_was_not_used(
    db: BaseDatabaseWrapper, make_connection: Connections, server: Server, kill: Kill
) -> None:
    alias = make_connection(STOCK).alias
    del connections[alias]
    runs: list[str] = []

    def work() -> None:
        runs.append(connections[alias].vendor)
        insert(db, "once")
        if len(runs) == 1:
            lose_now(db, kill)

    retry_atomic.run(work, using=db.alias)
    assert (rows(server), len(runs)) == (["once"], 2)


def test_a_hook_registered_in_a_transaction_that_stays_open_runs_once(
    db: BaseDatabaseWrapper, other: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    ran: list[str] = []

    def work() -> None:
        transaction.on_commit(lambda: ran.append("mine"), using=other.alias)
        insert(db, "here")
        lose_now(db, kill)

    with transaction.atomic(using=other.alias):
        run(other, "SELECT 1")
        transaction.on_commit(lambda: ran.append("before"), using=other.alias)
        with pytest.raises(Error) as caught:
            retry_atomic.run(work, using=db.alias)
    assert ran == ["before", "mine"]
    assert "it has registered on_commit hooks" in caught.value.__notes__[-1]


def test_an_error_that_was_there_before_is_none_of_its_own(
    db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    """As in an except block that makes good for a loss."""
    runs: list[str] = []

    def work() -> None:
        runs.append("work")
        raise ValueError

    try:
        lose(db, kill)
    except Error:
        with pytest.raises(ValueError):  # noqa: PT011
            retry_atomic.run(work, using=db.alias)
    assert runs == ["work"]


@pytest.mark.parametrize("inside", [True, False])
def test_an_unknown_outcome_that_was_there_before_forbids_nothing(
    inside: bool, db: BaseDatabaseWrapper, server: Server, kill: Kill
) -> None:
    def work() -> None:
        insert(db, "redone")
        if not gone:
            gone.append(kill(db))
            insert(db, "never")

    gone: list[int] = []
    try:
        raise CommitOutcomeUnknown("unknown", alias=db.alias)
    except CommitOutcomeUnknown:
        if inside:
            retry_atomic.run(work, using=db.alias)
    if not inside:
        retry_atomic.run(work, using=db.alias)
    assert (rows(server), len(gone)) == (["redone"], 1)
