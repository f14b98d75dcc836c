"""``pool_leak_after``: who holds a pool's connections for too long is named once, and where."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, ProgrammingError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Server
from testproject.shop.models import Product
from tests.engines import PATIENCE, Connections
from tests.server.test_cost import pooled_request

pytestmark = [pytest.mark.psycopg3, pytest.mark.once_per_driver]

AFTER = 0.05
SECRET = "s3cr3t-of-a-customer"


def pooled(make: Connections, size: int = 1, **given: Any) -> BaseDatabaseWrapper:
    pool = {"min_size": 1, "max_size": size}
    made = make(options={"pool": pool}, **{"pool_leak_after": AFTER, **given})
    # Connecting may take longer on a busy machine than a test has statements wait for.
    made.pool.open(wait=True, timeout=PATIENCE)  # type: ignore[attr-defined]
    return made


def run(connection: BaseDatabaseWrapper, text: Any, params: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(text, params)


def forget_to_close(connection: BaseDatabaseWrapper) -> None:
    """What the tests look for: the place that a connection was borrowed at."""
    run(connection, "SELECT %s, 'in the text', 7 -- a comment", [SECRET])


@contextmanager
def held(alias: str, borrow: Callable[[BaseDatabaseWrapper], None]) -> Iterator[None]:
    """Within it a thread "holder" has a connection, for longer than the option allows."""
    has, done = threading.Event(), threading.Event()

    def hold() -> None:
        mine = connections[alias]
        borrow(mine)
        has.set()
        done.wait(PATIENCE)
        mine.close()

    thread = threading.Thread(target=hold, name="holder")
    thread.start()
    try:
        assert has.wait(PATIENCE)
        time.sleep(2 * AFTER)
        yield
    finally:
        done.set()
        thread.join()


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Of the holder: on a busy machine a test's own connection may be held for as long."""
    return [r for r in caplog.records if 'by thread "holder"' in r.getMessage()]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in told(caplog)]


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "django_resilient_pg")


def test_a_hold_is_logged_once_with_holder_place_and_statement(
    make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    connection = pooled(make_connection, 2)
    with held(connection.alias, forget_to_close):
        for _ in range(3):
            run(connection, "SELECT 1")
            connection.close()
    (line,) = said(caplog)
    assert line.startswith(f'Pooled connection "{connection.alias}" held for ')
    assert 'by thread "holder"' in line
    assert __file__ in line
    assert "in forget_to_close" not in line, "the innermost caller is what borrows"
    assert " in run; last statement: SELECT %s, '' , 7" in line
    assert SECRET not in caplog.text
    assert "in the text" not in line
    (record,) = told(caplog)
    assert record.levelno == logging.WARNING
    assert vars(record)["alias"] == connection.alias
    assert vars(record)["took"] > AFTER


def test_one_that_nobody_else_asked_about_is_logged_when_it_is_given_back(
    make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    connection = pooled(make_connection)
    with held(connection.alias, forget_to_close):
        assert said(caplog) == []
    assert len(said(caplog)) == 1


def test_a_second_hold_is_logged_again(
    make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    connection = pooled(make_connection)
    for _ in range(2):
        with held(connection.alias, forget_to_close):
            pass
    assert len(said(caplog)) == 2


def test_the_error_of_an_exhausted_pool_names_who_holds_its_connections(
    make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    connection = pooled(make_connection, retry_deadline=0.3)
    with (
        held(connection.alias, forget_to_close),
        pytest.raises(OperationalError, match="1 of at most 1 are in use") as caught,
    ):
        run(connection, "SELECT 1")
    note = str(caught.value)
    assert "held for longer than pool_leak_after (0.05 s)" in note
    assert 'by thread "holder"' in note
    assert __file__ in note
    assert SECRET not in note
    assert len(said(caplog)) == 1


def test_whoever_is_turned_away_from_the_queue_reads_it_too(make_connection: Connections) -> None:
    pool = {"min_size": 1, "max_size": 1, "max_waiting": 1}
    connection = make_connection(options={"pool": pool}, pool_leak_after=AFTER, retry_deadline=3)
    waiting = threading.Event()

    def wait_in_vain() -> None:
        mine = connections[connection.alias]
        waiting.set()
        run(mine, "SELECT 1")
        mine.close()

    with held(connection.alias, forget_to_close):
        thread = threading.Thread(target=wait_in_vain)
        thread.start()
        assert waiting.wait(PATIENCE)
        while not connection.pool.get_stats().get("requests_waiting"):  # type: ignore[attr-defined]
            time.sleep(0.01)
        with pytest.raises(OperationalError) as caught:
            run(connection, "SELECT 1")
    thread.join()
    assert "held for longer" in str(caught.value)


def test_a_hold_that_is_short_is_not_named(
    make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    connection = pooled(make_connection, pool_leak_after=60, retry_deadline=0.2)
    with held(connection.alias, forget_to_close), pytest.raises(OperationalError) as caught:
        run(connection, "SELECT 1")
    assert "held for longer" not in str(caught.value)
    assert said(caplog) == []


def test_without_the_option_nobody_is_named_and_nothing_is_imported(
    make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    connection = pooled(make_connection, pool_leak_after=None, retry_deadline=0.2)
    with held(connection.alias, forget_to_close), pytest.raises(OperationalError) as caught:
        run(connection, "SELECT 1")
    assert "held for longer" not in str(caught.value)
    assert said(caplog) == []
    assert connection.pool.holds() == ()  # type: ignore[attr-defined]


def test_a_task_is_named(make_connection: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody has allowed Django's synchronous methods in a running loop."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    connection = pooled(make_connection)

    async def borrow() -> None:
        asyncio.current_task().set_name("checkout")  # type: ignore[union-attr]
        run(connection, "SELECT 1")

    asyncio.run(borrow())
    time.sleep(2 * AFTER)
    (hold,) = connection.pool.holds()  # type: ignore[attr-defined]
    assert hold.holder == 'task "checkout"'
    connection.close()
    assert connection.pool.holds() == []  # type: ignore[attr-defined]


def test_without_a_caller_of_ones_own_it_is_the_method_of_django(
    make_connection: Connections,
) -> None:
    alias = pooled(make_connection).alias

    async def places() -> list[str]:
        with pytest.raises(ProgrammingError):  # there is no such table
            await Product.objects.using(alias).acount()
        await asyncio.sleep(2 * AFTER)
        found = [one.place for one in connections[alias].pool.holds()]  # type: ignore[attr-defined]
        await sync_to_async(lambda: connections[alias].close())()
        return found

    (place,) = asyncio.run(places())
    assert re.search(r"django/db/models/query\.py:\d+ in QuerySet.count$", place)


def composed() -> Any:
    from psycopg import sql

    return sql.SQL("SELECT {}").format(sql.Literal(SECRET))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"SELECT '{SECRET}'", "SELECT ''"),
        (f"SELECT $$ {SECRET} $$ /* {SECRET} */", "SELECT ''"),
        (rf"SELECT E'\'{SECRET}'", "SELECT E"),
        (None, "SELECT ''"),
        ("SELECT 1 " + "+ 1" * 200, "SELECT 1 + 1"),
    ],
    ids=["string", "dollar, comment", "backslash", "composed", "long"],
)
def test_a_statement_is_shown_without_strings(
    text: Any, shown: str, make_connection: Connections
) -> None:
    connection = pooled(make_connection)
    run(connection, text or composed())
    time.sleep(2 * AFTER)
    (hold,) = connection.pool.holds()  # type: ignore[attr-defined]
    assert hold.statement.startswith(shown)
    assert SECRET not in str(hold)
    assert len(hold.statement) < 250


def test_server_side_cursors_and_many_rows_are_noted(make_connection: Connections) -> None:
    connection = pooled(make_connection)
    with transaction.atomic(using=connection.alias):
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE held (id integer) ON COMMIT DROP")
            cursor.executemany("INSERT INTO held VALUES (%s)", [[1], [2]])
        time.sleep(2 * AFTER)
        (hold,) = connection.pool.holds()  # type: ignore[attr-defined]
        assert hold.statement == "INSERT INTO held VALUES (%s)"
        with connection.chunked_cursor() as chunks:
            chunks.execute("SELECT id FROM held WHERE id > %s", [0])
            (hold,) = connection.pool.holds()  # type: ignore[attr-defined]
            assert hold.statement == "SELECT id FROM held WHERE id > %s"


def test_a_loss_is_healed_as_ever(make_connection: Connections, server: Server) -> None:
    connection = pooled(make_connection)
    run(connection, "SELECT 1")
    server.terminate_all()
    run(connection, "SELECT 2")
    time.sleep(2 * AFTER)
    (hold,) = connection.pool.holds()  # type: ignore[attr-defined]
    assert hold.statement == "SELECT 2"


def test_it_costs_a_bounded_number_of_calls(make_connection: Connections) -> None:
    """For each connection that is borrowed, and for each statement."""
    from tests.server.test_cost import fewest_calls

    off = fewest_calls(pooled_request, pooled(make_connection, pool_leak_after=None))
    on = fewest_calls(pooled_request, pooled(make_connection, pool_leak_after=60))
    assert 0 < on - off <= 30
