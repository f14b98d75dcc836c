"""What is ordinary costs little: counted in calls, which no busy machine changes.

``make compare`` measures the same in time, beside the stock engine.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

import django_resilient_pg
from testproject.postgres import Server
from tests.engines import STOCK, Connections, run
from tests.server.test_shortages import alone

pytestmark = pytest.mark.once_per_driver

PACKAGE = str(Path(django_resilient_pg.__file__).parent)


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count calls of the package's functions, by module, and threads that are started."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE):
            found[Path(file).stem] += 1
        if event == "c_call" and "start" in argument.__name__ and "thread" in argument.__name__:
            found["threads"] += 1

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


@pytest.fixture
def table(resilient: BaseDatabaseWrapper) -> str:
    run(resilient, "CREATE TEMPORARY TABLE taken (id integer PRIMARY KEY, value text)")
    run(resilient, "INSERT INTO taken VALUES (1)")
    return "taken"


def fail(connection: BaseDatabaseWrapper) -> None:
    with pytest.raises(IntegrityError):
        run(connection, "INSERT INTO taken (id) VALUES (%s)", [1])


def fail_in_atomic(connection: BaseDatabaseWrapper) -> None:
    with (
        transaction.atomic(using=connection.alias),
        pytest.raises(IntegrityError),
        transaction.atomic(using=connection.alias),
    ):
        run(connection, "INSERT INTO taken (id) VALUES (%s)", [1])


@pytest.mark.parametrize("failing", [fail, fail_in_atomic])
def test_an_error_of_the_statement_is_not_read(
    failing: Callable[[BaseDatabaseWrapper], None], resilient: BaseDatabaseWrapper, table: str
) -> None:
    for _ in range(2):
        failing(resilient)
    with counted() as calls:
        failing(resilient)
    read = {
        "statement",
        "error_table",
        "verdicts",
        "exceptions",
        "statements",
        "session_effects",
        "verify",
    }
    assert calls["cursors"]
    assert not read & set(calls)


def test_the_setting_of_a_tenant_is_read_once(resilient: BaseDatabaseWrapper) -> None:
    def visit() -> None:
        with transaction.atomic(using=resilient.alias):
            run(resilient, "SET search_path = 'one','public'")
            run(resilient, "SELECT 1")

    visit()
    with counted() as calls:
        visit()
    assert calls["statements"] == 0, "the text is not lexed anew"
    assert calls["session_effects"] + calls["memory"] <= 3


LITERAL = "row; temp "


@pytest.mark.parametrize("size", [11_000, 262_000, 1_000_000])
def test_a_long_text_costs_as_few_calls_as_a_short_one(
    size: int, resilient: BaseDatabaseWrapper, table: str
) -> None:
    def insert(number: int) -> None:
        literal = LITERAL * (size // len(LITERAL))
        run(resilient, f"INSERT INTO taken VALUES ({number}, '{literal}')")

    for number in (2, 3):
        insert(number)
    with counted() as calls:
        insert(4)
    assert calls["statements"] + calls["session_effects"] == 0
    assert calls.total() <= 30


def test_a_ping_starts_no_thread(resilient: BaseDatabaseWrapper) -> None:
    with transaction.atomic(using=resilient.alias):
        run(resilient, "SELECT 1")
        with counted() as calls:
            assert resilient.is_usable()
    assert calls["link"] + calls["psycopg3"] + calls["psycopg2"]
    assert calls["threads"] == 0


def pooled_request(connection: BaseDatabaseWrapper) -> None:
    """What Django's signals of a request and its query come to."""
    connection.close_if_unusable_or_obsolete()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]
    connection.close_if_unusable_or_obsolete()


def pooled_atomic_request(connection: BaseDatabaseWrapper) -> None:
    """With ATOMIC_REQUESTS."""
    connection.close_if_unusable_or_obsolete()
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]
    connection.close_if_unusable_or_obsolete()


def fewest_calls(run: Callable[[BaseDatabaseWrapper], None], one: BaseDatabaseWrapper) -> int:
    """Calls of Python functions, whoever's: the fewest of some runs.

    What takes long is looked at once more, and a pool's own threads may be in between.
    """
    for _ in range(5):  # the facts, the first look, what is imported
        run(one)
    counts = []
    for _ in range(20):
        calls = 0

        def note(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(note)
        try:
            run(one)
        finally:
            sys.setprofile(None)
        counts.append(calls)
    return min(counts)


@pytest.mark.psycopg3
@pytest.mark.parametrize("run", [pooled_request, pooled_atomic_request])
def test_a_pooled_request_costs_as_few_calls_as_with_djangos_own_pool(
    run: Callable[[BaseDatabaseWrapper], None], make_connection: Connections
) -> None:
    pool = {"pool": {"min_size": 1, "max_size": 1}}
    stock = fewest_calls(run, make_connection(STOCK, options=pool))
    ours = fewest_calls(run, make_connection(options=pool))
    assert ours <= 1.05 * stock


def test_the_first_query_of_a_process_compiles_no_lexer(server: Server) -> None:
    """Whose patterns take as long as everything else that the engine imports."""
    script = """
        run("SELECT 1")
        lexers = (
            "sql.statements", "sql.session_effects", "recovery.statement", "recovery.commit",
            "pool.pool", "driver.libpq",
        )
        print([one for one in lexers if f"django_resilient_pg.{one}" in sys.modules])
    """
    assert alone(script, server.database()) == "[]"


#: Imports a module of the package costs a third of a millisecond, and compiling a class one.
MOST_MODULES = 70
MOST_CALLS = 25_000
FIRST = """
    calls = [0]

    def count(frame, event, argument):
        calls[0] += event in ("call", "c_call")

    sys.setprofile(count)
    run("SELECT 1")
    sys.setprofile(None)
    print(calls[0], sum(name.startswith("django_resilient_pg") for name in sys.modules))
"""


def test_the_first_query_of_a_process_imports_little(server: Server) -> None:
    """``make benchmark-first`` measures the same in time."""
    stock, _ = map(int, alone(FIRST, server.database(engine=STOCK)).split())
    calls, modules = map(int, alone(FIRST, server.database()).split())
    assert modules <= MOST_MODULES
    assert calls - stock <= MOST_CALLS
