"""What is measured: operations on one connection, each with the highest ratio allowed to stock."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from benchmarks.healthy import orm_query, query, request, transaction

TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS taken (id integer PRIMARY KEY); INSERT INTO taken VALUES (1)"
    " ON CONFLICT DO NOTHING;"
    "CREATE TABLE IF NOT EXISTS long (id integer, value text);"
    f"CREATE TABLE IF NOT EXISTS wide ({', '.join(f'c{n} integer' for n in range(10))});"
    "GRANT ALL ON taken, long, wide TO app"
)
_KB: Final = 1024
_number = itertools.count()


def integrity_error(connection: Any) -> None:
    """An IntegrityError in atomic(): a second row of the same key."""
    from django.db import IntegrityError
    from django.db.transaction import atomic

    try:
        with atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute("INSERT INTO taken (id) VALUES (%s)", [1])
    except IntegrityError:
        return
    raise SystemExit("no IntegrityError came")


def tenant(connection: Any) -> None:
    """What django-tenants sends in a transaction: SET search_path before the statements."""
    from django.db.transaction import atomic

    with atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("SET search_path = 'one','public'")
        cursor.execute("SELECT 1")
        cursor.fetchall()


def local_setting(connection: Any) -> None:
    """What row-level security sends in a transaction: SET LOCAL before the statements."""
    from django.db.transaction import atomic

    with atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("SET LOCAL app.tenant = '7'")
        cursor.execute("SELECT 1")
        cursor.fetchall()


def bulk_create(connection: Any) -> None:
    """1,000 rows of 10 columns, as ``bulk_create`` sends them."""
    from django.db.transaction import atomic

    row = f"({', '.join(['%s'] * 10)})"
    sql = f"INSERT INTO wide VALUES {', '.join([row] * 1000)}"
    with atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(sql, list(range(10_000)))
        cursor.execute("TRUNCATE wide")


def long_text(size: int) -> Callable[[Any], None]:
    """A raw INSERT of so many bytes, another one each time, with semicolons in its literal."""
    words = "lorem ipsum; dolor temp "

    def insert(connection: Any) -> None:
        literal = f"{next(_number)} {words * (size // len(words))}"
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO long (value) VALUES ('{literal}')")

    return insert


def long_rows(size: int) -> Callable[[Any], None]:
    """A raw INSERT of so many bytes, of many short rows, each with a semicolon in its literal."""

    def insert(connection: Any) -> None:
        first = next(_number)
        rows = (f"({first + n}, 'row; temp')" for n in range(size // 22))
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO long VALUES {', '.join(rows)}")

    return insert


def usable(connection: Any) -> None:
    """The health check in a transaction, where it is a round trip."""
    from django.db.transaction import atomic

    with atomic(using=connection.alias):
        query(connection)
        for _ in range(10):
            if not connection.is_usable():
                raise SystemExit("a connection is not usable")


def pooled(alias: str) -> str:
    """The alias of the same engine with a pool (psycopg 3)."""
    return f"{alias} pooled"


def pooled_request(connection: Any) -> None:
    """A request that takes its connection from the pool and gives it back."""
    from django.db import connections

    connection = connections[pooled(connection.alias)]
    connection.close_if_unusable_or_obsolete()
    query(connection)
    connection.close_if_unusable_or_obsolete()


def pooled_atomic_request(connection: Any) -> None:
    """The same with ATOMIC_REQUESTS."""
    from django.db import connections
    from django.db.transaction import atomic

    connection = connections[pooled(connection.alias)]
    connection.close_if_unusable_or_obsolete()
    with atomic(using=connection.alias):
        query(connection)
    connection.close_if_unusable_or_obsolete()


class Job(NamedTuple):
    """One operation.

    Attributes:
        run: carries it out.
        bound: the highest ratio allowed (new : stock).
        pause: seconds before it; after a millisecond the engine looks at its connection.
        weight: how many times as long as a statement it takes, to be run less often.
        pool: whether it needs a pool (psycopg 3).
    """

    run: Callable[[Any], None]
    bound: float
    pause: float = 0.0
    weight: int = 1
    pool: bool = False


JOBS: Final[dict[str, Job]] = {
    "query": Job(query, 1.02),
    "orm query": Job(orm_query, 1.02),
    "transaction": Job(transaction, 1.03),
    "request": Job(request, 0.85),
    "query later": Job(query, 1.05, pause=0.001),
    "integrity error": Job(integrity_error, 1.2, weight=2),
    "tenant": Job(tenant, 1.2, weight=2),
    "local setting": Job(local_setting, 1.2, weight=2),
    "bulk create": Job(bulk_create, 1.02, weight=10),
    "11 kB": Job(long_text(11 * _KB), 1.05, weight=2),
    "262 kB": Job(long_text(262 * _KB), 1.10, weight=10),
    "1 MB": Job(long_text(_KB * _KB), 1.10, weight=10),
    "1 MB of rows": Job(long_rows(_KB * _KB), 1.10, weight=10),
    "usable": Job(usable, 2.0, weight=5),
    "pooled request": Job(pooled_request, 1.05, weight=2, pool=True),
    "pooled atomic": Job(pooled_atomic_request, 1.05, weight=2, pool=True),
}
