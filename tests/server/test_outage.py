"""``django_resilient_pg.testing``: each fault happens where it is asked for, on either engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TestCase, TransactionTestCase

from django_resilient_pg.errors import CommitOutcomeUnknown
from django_resilient_pg.testing import FaultNotReached, Outage, OutageError, OutageMixin
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import DRIVER, RESILIENT, STOCK, Connections, backend_pid
from tests.faults.pgbouncer import PgBouncer

pytestmark = pytest.mark.once_per_driver

LOST = (OperationalError, InterfaceError)
INSERT = "INSERT INTO entry (value) VALUES (%s)"


@pytest.fixture(scope="module")
def table(server: Server) -> Iterator[None]:
    made = "CREATE TABLE entry (value text); CREATE SEQUENCE numbers"
    server.execute(f"{made}; GRANT ALL ON entry, numbers TO app", database="app")
    yield
    server.execute("DROP TABLE entry; DROP SEQUENCE numbers", database="app")


@pytest.fixture
def rows(server: Server, table: None) -> Callable[[], list[str]]:
    """What has been committed."""
    server.execute("TRUNCATE entry", database="app")

    def read() -> list[str]:
        found = server.execute("SELECT value FROM entry ORDER BY value", database="app")
        return [value for (value,) in found]

    return read


Rows = Callable[[], list[str]]


def insert(connection: BaseDatabaseWrapper, *values: str) -> None:
    with connection.cursor() as cursor:
        for value in values:
            cursor.execute(INSERT, [value])


def insert_atomically(connection: BaseDatabaseWrapper, *values: str) -> None:
    with transaction.atomic(using=connection.alias):
        insert(connection, *values)


def fault(connection: BaseDatabaseWrapper, point: str, *of: Any) -> AbstractContextManager[None]:
    made: AbstractContextManager[None] = getattr(Outage(connection.alias), point)(*of)
    return made


# -- each point ---------------------------------------------------------------------------------

AUTOCOMMIT = [("before", []), ("during", []), ("after", ["a"])]
WAYS: dict[str, Callable[[Server], dict[str, Any]]] = {
    "tls": lambda server: {},
    "name": lambda server: {"HOST": "localhost", "options": {"hostaddr": "127.0.0.1"}},
    "plain": lambda server: {"options": {"sslmode": "disable"}},
    "unix": lambda server: {"HOST": server.socket_dir, "options": {"sslmode": "require"}},
}


@pytest.mark.parametrize(
    ("point", "there", "way"),
    [*((*each, "tls") for each in AUTOCOMMIT), *(("after", ["a"], way) for way in list(WAYS)[1:])],
)
def test_stock_raises_and_the_effect_is_exact(
    server: Server, make_connection: Connections, rows: Rows, point: str, there: list[str], way: str
) -> None:
    connection = make_connection(STOCK, **WAYS[way](server))
    settings = {**connection.settings_dict}
    with fault(connection, point, "insert into"), pytest.raises(LOST):
        insert(connection, "a")
    assert rows() == there
    assert connection.settings_dict == settings
    insert(connection, "b")  # the next one goes directly
    assert rows() == [*there, "b"]


@pytest.mark.parametrize(("point", "there"), AUTOCOMMIT)
def test_this_engine_does_what_is_safe_in_autocommit(
    make_connection: Connections, rows: Rows, point: str, there: list[str]
) -> None:
    connection = make_connection(RESILIENT)
    with fault(connection, point, "insert into"):
        if point == "before":
            insert(connection, "a")
        else:
            with pytest.raises(OperationalError):
                insert(connection, "a")
    assert rows() == (["a"] if point == "before" else there)


@pytest.mark.parametrize("of", ["BEGIN", "INSERT"])
@pytest.mark.parametrize("point", ["before", "during", "after"])
def test_the_first_statement_of_a_transaction(
    make_connection: Connections, rows: Rows, point: str, of: str
) -> None:
    stock, resilient = make_connection(STOCK), make_connection(RESILIENT)
    with fault(stock, point, of), pytest.raises(LOST):
        insert_atomically(stock, "of stock")
    with fault(resilient, point, of):
        insert_atomically(resilient, "a", "b")
    assert rows() == ["a", "b"]


@pytest.mark.parametrize(("point", "called"), [("before", 0), ("during", 0), ("after", 1)])
def test_the_first_statement_is_not_confused_with_its_begin(
    server: Server, make_connection: Connections, rows: Rows, point: str, called: int
) -> None:
    """A sequence is not rolled back."""
    server.execute("ALTER SEQUENCE numbers RESTART", database="app")
    connection = make_connection(STOCK)
    with (
        fault(connection, point, "nextval"),
        pytest.raises(LOST),
        transaction.atomic(using=connection.alias),
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT nextval('numbers')")
    [(is_called,)] = server.execute("SELECT is_called FROM numbers", database="app")
    assert is_called == bool(called)


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
@pytest.mark.parametrize("point", ["before", "during", "after"])
def test_a_later_statement_is_lost_with_its_transaction(
    make_connection: Connections, rows: Rows, point: str, engine: str
) -> None:
    connection = make_connection(engine)
    outage = Outage(connection.alias)
    with getattr(outage, point)("INSERT", nth=2), pytest.raises(LOST):
        insert_atomically(connection, "a", "b", "c")
    assert rows() == []


@pytest.mark.parametrize(("point", "there"), AUTOCOMMIT)
def test_commit(make_connection: Connections, rows: Rows, point: str, there: list[str]) -> None:
    stock = make_connection(STOCK)
    with fault(stock, point, "COMMIT"), pytest.raises(LOST):
        insert_atomically(stock, "a")
    assert rows() == there


@pytest.mark.parametrize("point", ["before", "during", "after"])
@pytest.mark.parametrize("outcome", [True, False], ids=["asked", "not asked"])
def test_a_lost_commit_under_this_engine(
    make_connection: Connections, rows: Rows, point: str, outcome: bool
) -> None:
    """The question for the transaction's id, which comes before COMMIT, is not what is lost."""
    connection = make_connection(RESILIENT, commit_outcome=outcome)
    with fault(connection, point, "COMMIT"):
        if outcome and point == "after":
            insert_atomically(connection, "a")
        else:
            with pytest.raises(OperationalError) as caught:
                insert_atomically(connection, "a")
            unknown = point != "before" and not outcome
            assert isinstance(caught.value, CommitOutcomeUnknown) == unknown
    assert rows() == (["a"] if point == "after" else [])
    with fault(connection, point, "COMMIT"):
        retry_atomic.run(lambda: insert(connection, "b"), using=connection.alias)
    assert rows()[-1:] == ["b"]
    assert rows().count("b") == 1


@pytest.mark.parametrize("point", ["before", "during"])
@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_the_server_terminates_the_session(
    make_connection: Connections, rows: Rows, point: str, engine: str
) -> None:
    connection = make_connection(engine)
    outage = Outage(connection.alias)
    with getattr(outage, point)("INSERT", nth=2, by="server"), pytest.raises(LOST) as caught:
        insert_atomically(connection, "a", "b")
    text = str(caught.value) + str(caught.value.__cause__)
    # psycopg2 with libpq 17 does not tell what the server has said.
    said = DRIVER == "psycopg2" or "terminating connection due to administrator command" in text
    assert said, text
    assert rows() == []


def test_a_session_that_cannot_be_terminated_hangs_nobody(
    server: Server, make_connection: Connections, rows: Rows
) -> None:
    connection = make_connection(STOCK)
    server.execute(f"ALTER ROLE {server.user} CONNECTION LIMIT 1")
    try:
        with (
            pytest.raises((OperationalError, OutageError), match="too many connections"),
            Outage(connection.alias).during("INSERT", by="server"),
            suppress(*LOST),
        ):
            insert(connection, "a")
    finally:
        server.execute(f"ALTER ROLE {server.user} CONNECTION LIMIT -1")
    assert rows() == []


# -- what comes in several requests, or in many packets ------------------------------------------


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
@pytest.mark.parametrize(("point", "there"), AUTOCOMMIT)
def test_what_does_not_fit_into_a_packet(
    make_connection: Connections, rows: Rows, point: str, there: list[str], engine: str
) -> None:
    connection = make_connection(engine)
    long = "x" * 3_000_000
    sql = f"{INSERT} RETURNING value || value"
    with fault(connection, point, "INSERT"), connection.cursor() as cursor:
        if point == "before" and engine == RESILIENT:
            cursor.execute(sql, [long])
        else:
            with pytest.raises(LOST):
                cursor.execute(sql, [long])
    assert len(rows()) == (len(there) if engine == STOCK or point != "before" else 1)


@pytest.mark.psycopg3
@pytest.mark.parametrize(("point", "there"), AUTOCOMMIT)
def test_what_the_driver_would_prepare(
    make_connection: Connections, rows: Rows, point: str, there: list[str]
) -> None:
    options = {"server_side_binding": True, "prepare_threshold": 0}
    connection = make_connection(STOCK, options=options)
    with fault(connection, point, "INSERT"), pytest.raises(LOST):
        insert(connection, "a")
    assert rows() == there


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_a_server_side_cursor(make_connection: Connections, rows: Rows, engine: str) -> None:
    connection = make_connection(engine)
    insert(connection, "a", "b")
    with fault(connection, "before", "SELECT value"):
        read = connection.chunked_cursor()
        if engine == STOCK:
            with pytest.raises(LOST):
                read.execute("SELECT value FROM entry")
        else:
            read.execute("SELECT value FROM entry")
            assert [value for (value,) in read.fetchall()] == ["a", "b"]


def test_an_answer_to_many_cannot_be_lost(make_connection: Connections, rows: Rows) -> None:
    connection = make_connection(STOCK)
    with (
        pytest.raises(OutageError, match="executemany"),
        fault(connection, "after", "INSERT"),
        connection.cursor() as cursor,
    ):
        cursor.executemany(INSERT, [["a"], ["b"]])
    assert rows() == ["a", "b"]
    with fault(connection, "during", "INSERT"), connection.cursor() as cursor, pytest.raises(LOST):
        cursor.executemany(INSERT, [["c"], ["d"]])
    assert rows() == ["a", "b"]


# -- away and silent -----------------------------------------------------------------------------


def test_away(make_connection: Connections, rows: Rows) -> None:
    stock, resilient = make_connection(STOCK), make_connection(RESILIENT)
    with Outage(stock.alias).away(), pytest.raises(LOST):
        insert(stock, "of stock")
    with Outage(resilient.alias).away(0.3):
        insert(resilient, "a")
    assert rows() == ["a"]
    impatient = make_connection(RESILIENT, retry_deadline=0.2)
    with Outage(impatient.alias).away(), pytest.raises(OperationalError):
        insert(impatient, "b")
    insert(impatient, "c")  # nothing is remembered against the server
    assert rows() == ["a", "c"]


def test_dropped(make_connection: Connections, rows: Rows) -> None:
    stock, resilient = make_connection(STOCK), make_connection(RESILIENT)
    with Outage(stock.alias).dropped(0.2), pytest.raises(LOST):
        insert(stock, "of stock")
    with Outage(resilient.alias).dropped(0.2):
        insert_atomically(resilient, "a")
    assert rows() == ["a"]


# -- who else has a connection -------------------------------------------------------------------


def test_a_thread_of_the_application_meets_it_too(make_connection: Connections, rows: Rows) -> None:
    alias = make_connection(STOCK).alias
    raised: list[Exception] = []

    def work() -> None:
        try:
            insert(connections[alias], "a")
        except LOST as error:
            raised.append(error)
        connections[alias].close()

    with Outage(alias).after("INSERT"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(raised) == 1
    assert rows() == ["a"]


def test_a_connection_that_stays_open_goes_on(make_connection: Connections, rows: Rows) -> None:
    alias = make_connection(STOCK).alias
    opened, over = threading.Event(), threading.Event()
    pids: list[int] = []

    def work() -> None:
        connection = connections[alias]
        insert(connection, "a")
        pids.append(backend_pid(connection))
        opened.set()
        over.wait(10)
        insert(connection, "b")
        pids.append(backend_pid(connection))
        connection.close()

    thread = threading.Thread(target=work)
    with Outage(alias).during("SELECT"):
        thread.start()
        assert opened.wait(10)
        with pytest.raises(LOST), connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1")
    over.set()
    thread.join()
    assert rows() == ["a", "b"]
    assert pids[0] == pids[1]


@pytest.mark.psycopg3
@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_a_pool(make_connection: Connections, rows: Rows, engine: str) -> None:
    connection = make_connection(engine, options={"pool": {"min_size": 2, "max_size": 2}})
    insert(connection, "a")
    with fault(connection, "during", "INSERT"), pytest.raises(LOST):
        insert_atomically(connection, "b", "b") if engine == STOCK else insert(connection, "b")
    connection.close()
    insert(connection, "c")
    assert rows() == ["a", "c"]
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]


@pytest.mark.needs("pgbouncer")
def test_a_pooler(server: Server, make_connection: Connections, rows: Rows) -> None:
    with PgBouncer(server, pool_mode="transaction") as pooler:
        connection = make_connection(STOCK, PORT=str(pooler.port))
        with fault(connection, "during", "INSERT"), pytest.raises(LOST):
            insert(connection, "a")
        with fault(connection, "after", "COMMIT"), pytest.raises(LOST):
            insert_atomically(connection, "b")
        assert rows() == ["b"]
        refused = pytest.raises(OutageError, match="connected to a pooler")
        with refused, Outage(connection.alias).during(by="server"):
            pass
        connection.close()


def test_a_password_file(
    server: Server, make_connection: Connections, rows: Rows, tmp_path: Path
) -> None:
    file = tmp_path / "pgpass"
    file.write_text(f"{server.host}:{server.port}:*:{server.user}:{server.password}\n")
    file.chmod(0o600)
    connection = make_connection(STOCK, PASSWORD="", options={"passfile": str(file)})
    with fault(connection, "after", "INSERT"), pytest.raises(LOST):
        insert(connection, "a")
    assert rows() == ["a"]
    assert connection.settings_dict["PASSWORD"] == ""


def test_a_service_file(
    server: Server,
    make_connection: Connections,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "services"
    where = f"host={server.host}\nport={server.port}\npassword={server.password}"
    file.write_text(f"[of_the_test]\n{where}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    entry = {"HOST": "", "PORT": "", "PASSWORD": ""}
    connection = make_connection(STOCK, **entry, options={"service": "of_the_test"})
    with fault(connection, "after", "INSERT"), pytest.raises(LOST):
        insert(connection, "a")
    assert rows() == ["a"]
    assert connection.settings_dict.items() >= entry.items()


# -- what is wrong -------------------------------------------------------------------------------


def test_a_fault_that_nothing_meets_fails_the_test(make_connection: Connections) -> None:
    connection = make_connection(STOCK)
    told = 'nothing with "delete" was sent'
    with pytest.raises(FaultNotReached, match=told), fault(connection, "during", "DELETE"):
        pass
    with pytest.raises(KeyError) as caught, fault(connection, "during", "DELETE"):
        raise KeyError
    assert told in caught.value.__notes__[0]


def test_blocks_within_one_another(make_connection: Connections, rows: Rows) -> None:
    connection = make_connection(STOCK)
    outage = Outage(connection.alias)
    with outage.during("SELECT"), outage.after("INSERT"):
        with pytest.raises(LOST):
            insert(connection, "a")
        connection.close()
        with pytest.raises(LOST), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    assert rows() == ["a"]
    left = [one for one in threading.enumerate() if one.name.startswith("outage")]
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


def test_not_inside_atomic(make_connection: Connections) -> None:
    connection = make_connection(STOCK)
    with (
        transaction.atomic(using=connection.alias),
        pytest.raises(OutageError, match=r"inside atomic\(\)"),
        Outage(connection.alias).away(),
    ):
        pass


def test_not_in_a_testcase(make_connection: Connections) -> None:
    connection = make_connection(STOCK)

    class Case(OutageMixin, TestCase):
        outage_alias = connection.alias

    with pytest.raises(OutageError, match="Case is a TestCase"):
        Case.setUpClass()
    connection.ensure_connection()
    with transaction.atomic(using=connection.alias):
        # As TestCase marks its own.
        connection.atomic_blocks[-1]._from_testcase = True  # type: ignore[attr-defined]
        with pytest.raises(OutageError, match="Use TransactionTestCase"):
            Case().outage.away().__enter__()


def test_the_mixin(make_connection: Connections, rows: Rows) -> None:
    connection = make_connection(RESILIENT)

    class Case(OutageMixin, TransactionTestCase):
        outage_alias = connection.alias

    with Case().outage.during("INSERT"):
        insert_atomically(connection, "a")
    assert rows() == ["a"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"statement": " "}, "statement must be"),
        ({"nth": 0}, "nth must be at least 1, not 0"),
        ({"by": "hand"}, 'by must be "path" or "server", not \'hand\''),
    ],
)
def test_arguments_are_checked(given: dict[str, Any], told: str) -> None:
    with pytest.raises(OutageError, match=told):
        Outage().during(**given)


def test_only_postgresql(settings_of_sqlite: str) -> None:
    with (
        pytest.raises(OutageError, match="is not PostgreSQL but sqlite"),
        Outage(settings_of_sqlite).away(),
    ):
        pass


@pytest.fixture
def settings_of_sqlite() -> Iterator[str]:
    connections.settings["lite"] = {
        **connections.settings["default"],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": ":memory:",
        "OPTIONS": {},
    }
    yield "lite"
    del connections["lite"]
    del connections.settings["lite"]
