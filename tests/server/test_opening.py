"""Transactions that begin with settings of their own, and are lost before or in their first query.

What is replayed on the new connection, in which order; and what is not, and raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import Error, OperationalError, ProgrammingError, transaction

from django_resilient_pg.state.opening import MOST_SETTINGS
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import DRIVER, STOCK
from tests.faults.proxy import Proxy
from tests.server.scenarios import TABLE, TENANT, Stage

pytestmark = pytest.mark.once_per_driver

Stages = Callable[..., Stage]

SERIALIZABLE = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"
ISOLATION = "SHOW transaction_isolation"
LOCAL = "SET LOCAL app.tenant = '7'"

#: What is sent first (with parameters), a query, and its answer on whatever connection.
OPENINGS: dict[str, tuple[list[Any], str, Any]] = {
    "isolation level": ([SERIALIZABLE], ISOLATION, "serializable"),
    "two modes": (
        ["set transaction /* , */ isolation level repeatable read, read only, deferrable;"],
        "SELECT concat(current_setting('transaction_isolation'),"
        " current_setting('transaction_read_only'))",
        "repeatable readon",
    ),
    "by its setting": (
        ["SET LOCAL transaction_isolation = 'serializable'"],
        ISOLATION,
        "serializable",
    ),
    "set local": ([LOCAL], TENANT, "7"),
    "a parameter": ([("SET LOCAL app.tenant = %s", ["it's %s"])], TENANT, "it's %s"),
    "a named parameter": (
        [("SET LOCAL app.tenant TO %(one)s", {"one": "2026"})],
        TENANT,
        "2026",
    ),
    "a percent sign": (["SET LOCAL app.tenant = '100%'"], TENANT, "100%"),
    "set_config": (
        [("SELECT set_config(%s, %s, true)", ["app.tenant", "8"])],
        TENANT,
        "8",
    ),
    "a role": (["SET LOCAL ROLE clerk"], "SELECT current_user", "clerk"),
    "a timeout": (["SET LOCAL lock_timeout = '5s'"], "SHOW lock_timeout", "5s"),
    "a time zone": (["SET LOCAL TIME ZONE 'Asia/Tokyo'"], "SHOW timezone", "Asia/Tokyo"),
    "constraints": (["SET CONSTRAINTS ALL DEFERRED"], "SELECT 1", 1),
    "several": (
        [SERIALIZABLE, LOCAL, "SET LOCAL app.tenant = '8'", "SET LOCAL lock_timeout = '5s'"],
        f"SELECT ({TENANT}) || current_setting('transaction_isolation')",
        "8serializable",
    ),
}


@pytest.fixture(autouse=True)
def clerk(server: Server) -> Iterator[None]:
    server.execute("CREATE ROLE clerk")
    server.execute("GRANT clerk TO app")
    yield
    server.execute("DROP ROLE clerk")


def send(stage: Stage, opening: list[Any]) -> None:
    for one in opening:
        sql, params = (one, None) if isinstance(one, str) else one
        stage.run(sql, params)


@pytest.mark.parametrize("name", OPENINGS)
def test_it_is_replayed_before_the_first_query(name: str, stage_of: Stages) -> None:
    opening, query, answer = OPENINGS[name]
    stage = stage_of()
    for _ in range(2):  # as a text that is not known yet, and as one that is
        with stage.atomic():
            send(stage, opening)
            pid = stage.pid()
            stage.kill()
            assert stage.run(query) == [(answer,)]
            assert stage.pid() != pid
            assert stage.run(query) == [(answer,)], "it is as it was after that, too"
    assert stage.run(TENANT) == [("",)], "nothing of it outlives the transaction"
    assert stage.run("SELECT current_user") == [("app",)]


def test_the_stock_engine_fails(stage_of: Stages) -> None:
    stage = stage_of(STOCK)
    with pytest.raises(Error), stage.atomic():
        stage.run(LOCAL)
        stage.kill()
        stage.run(TENANT)


@pytest.mark.parametrize("debug", [False, True])
def test_a_first_write_lost_midway_is_retried_with_it(debug: bool, stage_of: Stages) -> None:
    stage = stage_of()
    stage.connection.force_debug_cursor = debug
    with stage.atomic():
        stage.run(SERIALIZABLE)
        stage.run(LOCAL)
        with stage.killed_midway():
            stage.run(f"INSERT INTO {TABLE} (value) SELECT ({TENANT}) FROM pg_sleep(1)")
        assert stage.run(ISOLATION) == [("serializable",)]
    assert stage.rows() == ["7"]


def test_row_level_security_holds_on_the_new_connection(stage_of: Stages, server: Server) -> None:
    stage = stage_of()
    policy = "value = current_setting('app.tenant', true)"
    for statement in (
        f"INSERT INTO {TABLE} (value) VALUES ('7'), ('8')",
        f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY own ON {TABLE} USING ({policy}) WITH CHECK ({policy})",
    ):
        server.execute(statement, database=stage.database)
    with stage.atomic():
        stage.run(LOCAL)
        stage.kill()
        stage.insert("7")
        assert stage.run(f"SELECT value FROM {TABLE}") == [("7",), ("7",)]


@pytest.mark.parametrize("known", [False, True], ids=["found by the statement", "known before"])
def test_savepoints_and_settings_keep_their_order(known: bool, stage_of: Stages) -> None:
    stage = stage_of()
    with stage.atomic():
        stage.run(LOCAL)
        with stage.atomic():
            stage.run("SET LOCAL app.tenant = '8'")
            with stage.atomic():
                stage.run("SET LOCAL app.tenant = '9'")
            sid = str(stage.connection.savepoint())
            stage.run("SET LOCAL app.tenant = '10'")
            transaction.savepoint_rollback(sid, using=stage.connection.alias)
            stage.kill()
            if known:
                assert not stage.connection.is_usable()
            assert stage.run(TENANT) == [("9",)]
            transaction.set_rollback(True, using=stage.connection.alias)
        assert stage.run(TENANT) == [("7",)], "the savepoint is there, with what was set before it"


def test_a_savepoint_that_is_lost_comes_after_it(stage_of: Stages) -> None:
    stage = stage_of()
    with stage.atomic():
        stage.run(SERIALIZABLE)
        stage.kill()
        with stage.atomic():
            assert stage.run(ISOLATION) == [("serializable",)]


def test_one_that_is_lost_itself_comes_after_those_before_it(stage_of: Stages) -> None:
    stage = stage_of()
    with stage.atomic():
        stage.run(SERIALIZABLE)
        stage.kill()
        stage.run(LOCAL)
        stage.kill()
        assert stage.run(f"SELECT ({TENANT})") == [("7",)]
        assert stage.run(ISOLATION) == [("serializable",)]


def test_a_transaction_of_nothing_else_is_committed(stage_of: Stages) -> None:
    stage, hooks = stage_of(), list[int]()
    with stage.atomic():
        stage.run(LOCAL)
        transaction.on_commit(lambda: hooks.append(1), using=stage.connection.alias)
        stage.kill()
    assert hooks == [1]
    assert stage.run(TENANT) == [("",)]


def test_a_second_loss_while_it_is_replayed(stage_of: Stages, proxy: Proxy) -> None:
    stage = stage_of(PORT=proxy.port)
    with stage.atomic():
        stage.run(SERIALIZABLE)
        stage.run(LOCAL)
        answered: list[bool] = []

        def cut_again(*_: object, **__: object) -> None:
            if not answered:
                answered.append(True)
                proxy.cut_at(4 if DRIVER == "psycopg" else 3, "before")

        proxy.cut()
        cut_again()
        stage.insert("x")
        assert stage.run(TENANT) == [("7",)]
        assert stage.run(ISOLATION) == [("serializable",)]
    assert stage.rows() == ["x"]


def test_autocommit_off(stage_of: Stages) -> None:
    stage = stage_of()
    stage.connection.set_autocommit(False)
    stage.run(LOCAL)
    stage.kill()
    assert stage.run(TENANT) == [("7",)]
    stage.connection.rollback()
    assert stage.run(TENANT) == [("",)]
    stage.connection.rollback()
    stage.connection.set_autocommit(True)


@pytest.mark.psycopg3
def test_with_a_pool(stage_of: Stages) -> None:
    stage = stage_of(options={"pool": {"min_size": 1, "max_size": 2}}, CONN_MAX_AGE=0)
    with stage.atomic():
        stage.run(SERIALIZABLE)
        stage.run(LOCAL)
        stage.kill()
        stage.insert("x")
        assert stage.run(TENANT) == [("7",)]
    assert stage.rows() == ["x"]


def test_what_the_new_connection_refuses_is_named_without_its_value(
    stage_of: Stages, server: Server
) -> None:
    stage = stage_of()
    with pytest.raises(ProgrammingError) as caught, stage.atomic():
        stage.run("SET LOCAL ROLE clerk")
        server.execute("REVOKE clerk FROM app")
        stage.kill()
        stage.insert("x")
    assert "the server refused SET LOCAL role" in "\n".join(caught.value.__notes__)
    assert stage.rows() == []


# -- what is not replayed ---------------------------------------------------------------------


def past_django(sql: str, *, saves: bool = False) -> Callable[[Stage], None]:
    """Something is run past Django's cursors, where nobody counts."""

    def run(stage: Stage) -> None:
        stage.run(LOCAL)
        with stage.connection.connection.cursor() as cursor:
            cursor.execute(sql)
        if saves:
            stage.connection.savepoint()

    return run


def many(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        cursor.executemany("SET LOCAL app.tenant = %s", [["7"], ["8"]])


def below_a_savepoint(stage: Stage) -> None:
    with stage.atomic():
        stage.run("SET TRANSACTION READ ONLY")  # which ends with the savepoint


class Mutable(str):
    """What a driver makes of it need not be its text."""


def texts(*sent: Any) -> Callable[[Stage], None]:
    return lambda stage: send(stage, list(sent))


UNPROVABLE: dict[str, Callable[[Stage], None]] = {
    "a query before": texts(LOCAL, "SELECT 1"),
    "a query between": texts("SELECT 1", LOCAL),
    "a setting of the session": texts("SET app.tenant = '7'"),
    "reset": texts("RESET app.tenant"),
    "several statements": texts("SET LOCAL app.tenant = '7'; SELECT 1"),
    "two in one string": texts("SET LOCAL app.tenant = '7'; SET LOCAL app.other = '8'"),
    "a backslash": texts("SET LOCAL app.tenant = E'7\\''"),
    "a unicode name": texts('SET LOCAL U&"search_path" = public'),
    "a subclass of str": texts(("SET LOCAL app.tenant = %s", [Mutable("7")])),
    "a long text": texts(f"SET LOCAL app.tenant = '{'7' * 10_000}'"),
    "a long parameter": texts(("SET LOCAL app.tenant = %s", ["7" * 10_000])),
    "too many": texts(*[f"SET LOCAL app.tenant = '{n}'" for n in range(MOST_SETTINGS + 1)]),
    "temporary tables": texts("SET LOCAL search_path = public, pg_temp"),
    "a seed": texts("SET LOCAL seed = 0.5"),
    "the reading of strings": texts("SET LOCAL standard_conforming_strings = off"),
    "set_config of the session": texts("SELECT set_config('app.tenant', '7', false)"),
    "set_config with more": texts("SELECT set_config('app.tenant', '7', true), now()"),
    "set_config from a table": texts(
        f"SELECT set_config('app.tenant', count(*)::text, true) FROM {TABLE}"
    ),
    "a constraint by name": texts("SET CONSTRAINTS own DEFERRED"),
    "a raw write after": past_django(f"INSERT INTO {TABLE} (value) VALUES ('raw')"),
    "a raw read after": past_django("SELECT 1"),
    "a raw write before a savepoint": past_django(
        f"INSERT INTO {TABLE} (value) VALUES ('raw')", saves=True
    ),
    "many": many,
    "within a savepoint": below_a_savepoint,
}


@pytest.mark.parametrize("name", UNPROVABLE)
def test_it_is_raised_where_it_cannot_be_proved(
    name: str, stage_of: Stages, server: Server
) -> None:
    stage = stage_of()
    own = f"ALTER TABLE {TABLE} ADD CONSTRAINT own UNIQUE (value) DEFERRABLE"
    server.execute(own, database=stage.database)
    with pytest.raises(Error) as caught, stage.atomic():
        UNPROVABLE[name](stage)
        stage.kill()
        stage.insert("x")
    assert "was not retried" in "\n".join(caught.value.__notes__)
    stage.connection.close()
    assert stage.rows() == []


def test_what_goes_past_django_after_it_was_replayed_is_noticed_too(stage_of: Stages) -> None:
    stage = stage_of()
    with pytest.raises(Error), stage.atomic():
        stage.run(LOCAL)
        stage.kill()
        assert not stage.connection.is_usable()
        with stage.connection.cursor():
            pass  # replaces the connection
        with stage.connection.connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {TABLE} (value) VALUES ('raw')")
        stage.kill()
        stage.insert("x")
    stage.connection.close()
    assert stage.rows() == []


def test_an_exported_snapshot_is_not_taken_over(stage_of: Stages) -> None:
    stage, other = stage_of(), stage_of()
    with other.atomic():
        other.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        [(snapshot,)] = other.run("SELECT pg_export_snapshot()")
        with pytest.raises(OperationalError), stage.atomic():
            stage.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            stage.run(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            stage.kill()
            stage.run("SELECT 1")


def test_retry_atomic_runs_all_of_it_again_where_it_cannot_be_replayed(stage_of: Stages) -> None:
    stage, runs = stage_of(), list[int]()

    def work() -> None:
        stage.run(LOCAL)
        stage.run("SELECT 1")
        if not runs:
            stage.kill()
        runs.append(1)
        stage.run(f"INSERT INTO {TABLE} (value) SELECT ({TENANT})")

    retry_atomic.run(work, using=stage.connection.alias)
    assert stage.rows() == ["7"]
