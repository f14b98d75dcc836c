"""What a session was set to is set again in the one that replaces it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from django.db import Error, OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_resilient_pg.errors import SessionLost, TransactionLost
from django_resilient_pg.sql.memory import HARMLESS
from testproject.postgres import Server
from tests.engines import Connections, backend_pid, killed_midway
from tests.server.state.tenants import Run, runner

pytestmark = pytest.mark.once_per_driver


def shown(run: Run, name: str) -> Any:
    [(value,)] = run("SELECT current_setting(%s, true)", [name])
    return value


# -- replayed --------------------------------------------------------------------------------------


MADE: list[tuple[str, Any, str, str]] = [
    ("SET search_path TO t2, public", None, "search_path", "t2, public"),
    ("SET app.tenant = '2'", None, "app.tenant", "2"),
    ("SET app.tenant = %s", ["it's; 2"], "app.tenant", "it's; 2"),
    ("SELECT set_config('app.tenant', %s, false)", ["2"], "app.tenant", "2"),
    ("SELECT set_config(%s, %s, %s)", ["app.tenant", "2", False], "app.tenant", "2"),
    ("SET ROLE clerk", None, "role", "clerk"),
    ("SET TIME ZONE 'Asia/Tokyo'", None, "TimeZone", "Asia/Tokyo"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", None, "transaction_read_only", "on"),
    ("RESET TimeZone", None, "TimeZone", "%server"),
    ("RESET ALL", None, "TimeZone", "%server"),
    ("DISCARD ALL", None, "TimeZone", "%server"),
]


@pytest.mark.parametrize(("sql", "params", "name", "value"), MADE)
def test_a_setting_is_made_again(
    sql: str, params: Any, name: str, value: str, run: Run, kill_session: Any, server: Server
) -> None:
    if value == "%server":
        value = str(server.execute("SHOW TimeZone")[0][0])
        run("SET TIME ZONE 'Asia/Tokyo'")
    run(sql, params)
    assert shown(run, name) == value
    kill_session()
    assert shown(run, name) == value


def test_a_setting_is_made_again_before_a_read_lost_midway(
    run: Run, connection: BaseDatabaseWrapper, server: Server
) -> None:
    run("SET search_path TO t2")
    with killed_midway(server, connection):
        assert run("SELECT tenant FROM thing, pg_sleep(1)") == [("2",)]


def test_the_last_of_several_values_in_order(run: Run, kill_session: Any) -> None:
    for sql in ["SET ROLE auditor", "SET app.tenant = '1'", "RESET ROLE", "SET app.tenant = '3'"]:
        run(sql)
    kill_session()
    assert run("SELECT current_user, current_setting('app.tenant')") == [("app", "3")]


def test_a_setting_survives_a_second_loss(run: Run, kill_session: Any) -> None:
    run("SET app.tenant = '2'")
    for _ in range(3):
        kill_session()
        assert shown(run, "app.tenant") == "2"


def test_a_setting_survives_a_write_that_is_raised(
    run: Run, connection: BaseDatabaseWrapper, server: Server
) -> None:
    run("SET app.tenant = '2'")
    with killed_midway(server, connection), pytest.raises(OperationalError):
        run("INSERT INTO secret (tenant) SELECT '2' FROM pg_sleep(1)")
    assert shown(run, "app.tenant") == "2"


def test_a_setting_survives_a_lost_transaction(
    run: Run, connection: BaseDatabaseWrapper, kill_session: Any
) -> None:
    run("SET search_path TO t2")
    with pytest.raises(OperationalError), transaction.atomic(using=connection.alias):
        run("SELECT 1")
        kill_session()
        run("SELECT 1")
    assert run("SELECT tenant FROM thing") == [("2",)]


def test_a_setting_holds_in_the_first_statement_of_a_transaction(
    run: Run, connection: BaseDatabaseWrapper, server: Server
) -> None:
    run("SET search_path TO t2")
    with killed_midway(server, connection), transaction.atomic(using=connection.alias):
        run("INSERT INTO thing SELECT '2' FROM pg_sleep(1)")
        transaction.set_rollback(True, using=connection.alias)


def test_what_a_committed_transaction_set_is_made_again(
    run: Run, connection: BaseDatabaseWrapper, kill_session: Any
) -> None:
    with transaction.atomic(using=connection.alias):
        run("SET app.tenant = '1'")
        with pytest.raises(KeyError), transaction.atomic(using=connection.alias):
            run("SET app.tenant = '2'")
            raise KeyError
    assert shown(run, "app.tenant") == "1"
    kill_session()
    assert shown(run, "app.tenant") == "1"


BY_HAND = [
    "END",
    " END",
    "END WORK",
    "COMMIT",
    "\tcommit and chain",
    "ABORT",
    "ROLLBACK",
    "\n ROLLBACK",
    "/* x */ ROLLBACK",
    "-- x\nROLLBACK;",
    "ROLLBACK AND CHAIN",
    "ROLLBACK TO own",
    "\nROLLBACK TO SAVEPOINT own",
    "SAVEPOINT other",
    "RELEASE own",
    " RELEASE SAVEPOINT own",
    "SELECT 1; ROLLBACK",
]


@pytest.mark.parametrize("replaced", ["in autocommit", "in the transaction"])
@pytest.mark.parametrize("text", BY_HAND)
def test_a_transaction_ended_by_hand_shows_no_other_tenants_row(
    text: str, replaced: str, run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    run("SET app.tenant = '1'")
    if replaced == "in the transaction":
        HARMLESS.clear()  # or else the texts are known from the first time
    with transaction.atomic(using=connection.alias):
        run("SAVEPOINT own")
        run("SET app.tenant = '2'")
        run(text)
        if replaced == "in the transaction":
            run("SELECT 1")
    [(live,)] = run("SELECT current_setting('app.tenant')")
    kill_session()
    with suppress(SessionLost):
        assert run("SELECT current_setting('app.tenant')") == [(live,)]


@pytest.mark.parametrize("replaced", ["within the block", "after it"])
@pytest.mark.parametrize(
    "change",
    [
        "SET app.tenant = '2'",
        "SELECT set_config('app.tenant', '2', false)",
        "SET ROLE clerk",
        "RESET app.tenant",
    ],
)
@pytest.mark.parametrize("text", ["COMMIT", "END", "ROLLBACK", "SELECT 1; COMMIT"])
def test_what_is_set_after_a_transaction_was_ended_by_hand_is_not_lost_silently(
    text: str,
    change: str,
    replaced: str,
    run: Run,
    kill_session: Any,
    connection: BaseDatabaseWrapper,
) -> None:
    """psycopg2 takes no notice of the end, so that it takes effect at once."""
    ask = "SELECT current_setting('app.tenant'), current_user"
    run("SET app.tenant = '1'")
    with suppress(Error):
        with transaction.atomic(using=connection.alias):
            run("SELECT 1")
            run(text)
            run(change)
            live = run(ask)
            if replaced == "within the block":
                kill_session()
        if replaced == "after it":
            kill_session()
        assert run(ask) == live


@pytest.mark.parametrize("how", ["rolled back", "failed and committed", "SET LOCAL", "lost"])
def test_what_did_not_outlive_its_transaction_is_not_made_again(
    how: str, run: Run, connection: BaseDatabaseWrapper, kill_session: Any
) -> None:
    run("SET app.tenant = '1'")
    try:
        with transaction.atomic(using=connection.alias):
            run("SET LOCAL app.tenant = '2'" if how == "SET LOCAL" else "SET app.tenant = '2'")
            if how == "rolled back":
                transaction.set_rollback(True, using=connection.alias)
            elif how == "failed and committed":
                with pytest.raises(Error):
                    run("SELECT 1 / 0")
            elif how == "lost":
                kill_session()
    except TransactionLost:
        assert how == "lost"
    for _ in range(2):
        assert shown(run, "app.tenant") == "1"
        kill_session()


def test_replay_comes_after_djangos_own_settings_and_receivers(
    tenants: str, make_connection: Connections, server: Server
) -> None:
    connection = make_connection(
        database=tenants,
        CONN_MAX_AGE=None,
        TIME_ZONE="Europe/Paris",
        options={"assume_role": "clerk"},
    )
    run = runner(connection)

    def receive(connection: BaseDatabaseWrapper, **_: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET app.tenant = 'default'")

    connection_created.connect(receive)
    try:
        assert run("SELECT current_user") == [("clerk",)]
        server.terminate(backend_pid(connection))
        assert run("SELECT current_user") == [("clerk",)]
        assert shown(run, "TimeZone") == "Europe/Paris"
        assert shown(run, "app.tenant") == "default"
        run("SET ROLE NONE")
        run("SET app.tenant = 'own'")
        run("SET TIME ZONE 'Asia/Tokyo'")
        server.terminate(backend_pid(connection))
        assert run("SELECT current_user") == [("app",)]
        assert shown(run, "TimeZone") == "Asia/Tokyo"
        assert shown(run, "app.tenant") == "own"
    finally:
        connection_created.disconnect(receive)


@pytest.mark.parametrize("how", ["SET datestyle = %s", "SELECT set_config('datestyle', %s, false)"])
def test_a_setting_that_is_given_in_parts(how: str, run: Run, kill_session: Any) -> None:
    for part in ["DMY", "German", "ISO", "German"]:
        run(how, [part])
    kill_session()
    assert run("SHOW datestyle") == [("German, DMY",)]


def test_session_authorization_is_made_again(
    tenants: str, make_connection: Connections, server: Server
) -> None:
    connection = make_connection(database=tenants, user=server.superuser, CONN_MAX_AGE=None)
    run = runner(connection)
    run("SET SESSION AUTHORIZATION clerk")
    server.terminate(backend_pid(connection))
    assert run("SELECT session_user, current_user") == [("clerk", "clerk")]


def test_composed_sql_is_read_as_it_is_sent(run: Run, kill_session: Any) -> None:
    from django.db.backends.postgresql.psycopg_any import sql

    run(sql.SQL("SET search_path TO {}").format(sql.Identifier("t2")))
    kill_session()
    assert run("SELECT tenant FROM thing") == [("2",)]


# -- raised ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SET default_transaction_read_only = on",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    ],
)
def test_a_session_that_is_read_only_by_its_own_wish_is_not_taken_for_a_standbys(
    sql: str, run: Run, connection: BaseDatabaseWrapper
) -> None:
    run(sql)
    pid = backend_pid(connection)
    with pytest.raises(Error), transaction.atomic(using=connection.alias):
        run("INSERT INTO t1.thing VALUES ('1')")
    assert backend_pid(connection) == pid


def test_a_setting_that_the_server_refuses_is_raised(
    run: Run, kill_session: Any, connection: BaseDatabaseWrapper, server: Server
) -> None:
    run("SET ROLE auditor")
    server.execute("REVOKE auditor FROM app")
    try:
        kill_session()
        for _ in range(2):
            with pytest.raises(SessionLost, match=r"SET role\) \[\w{5}\]\."):
                run("SELECT 1")
        assert connection.connection is None, "given up"
        connection.close()
        assert run("SELECT current_user") == [("app",)]
    finally:
        server.execute("GRANT auditor TO app")


@pytest.mark.parametrize("sql", ["SET app.tenant = '2'", "CREATE TEMP TABLE x ()"])
def test_djangos_boundary_starts_clean(
    sql: str, run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    run(sql)
    kill_session()
    connection.close_if_unusable_or_obsolete()
    assert shown(run, "app.tenant") in (None, "")


def test_djangos_boundary_keeps_what_the_session_still_has(
    run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    run("SET app.tenant = '2'")
    pid = backend_pid(connection)
    connection.close_if_unusable_or_obsolete()
    assert (shown(run, "app.tenant"), backend_pid(connection)) == ("2", pid)
    kill_session()
    assert shown(run, "app.tenant") == "2"
