"""Units of work, each with what the guarantees say of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from django.db import models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.transaction import retry_atomic
from tests.engines import DRIVER

TABLE: Final = "cuts"
SCHEMA: Final = (
    f"""CREATE TABLE {TABLE} (id bigserial PRIMARY KEY, token text NOT NULL, part int NOT NULL)""",
    f"""CREATE FUNCTION leaves(given text) RETURNS int VOLATILE LANGUAGE sql AS
        $$ INSERT INTO {TABLE} (token, part) VALUES (given, 1) RETURNING part $$""",
    """CREATE FUNCTION lies(given text) RETURNS int STABLE LANGUAGE plpgsql AS
        $$ BEGIN RETURN leaves(given); END $$""",
    f"""GRANT ALL ON {TABLE} TO app""",
    f"""GRANT ALL ON SEQUENCE {TABLE}_id_seq TO app""",
)
_INSERT: Final = f"INSERT INTO {TABLE} (token, part) VALUES (%s, %s)"


class Row(models.Model):
    """What units write."""

    token = models.TextField()
    part = models.IntegerField()
    objects: models.Manager[Row] = models.Manager()

    class Meta:
        app_label = "cuts"
        managed = False
        db_table = TABLE

    def __str__(self) -> str:
        return f"{self.token} {self.part}"


@dataclass(slots=True)
class Work:
    """One run of a unit: on this connection, with a token of its own.

    Attributes:
        mark: called when what a loss may not cost the application is over.
        hooks: what ``on_commit`` has run.
    """

    connection: BaseDatabaseWrapper
    token: str
    mark: Callable[[], None]
    hooks: list[str] = field(default_factory=list)

    def run(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def insert(self, part: int) -> None:
        self.run(_INSERT, [self.token, part])

    def atomic(self) -> Any:
        return transaction.atomic(using=self.connection.alias)

    def hook(self) -> None:
        transaction.on_commit(lambda: self.hooks.append("hook"), using=self.connection.alias)


class Kind(Enum):
    """What a single cut may cost."""

    #: Nothing: the application gets its answer, whatever is cut.
    HEALED = "healed"
    #: An error, once its statement is under way: the write may have been applied.
    WRITE = "write"
    #: An error of a transaction that has run something; none of it has taken effect, unless COMMIT
    #: is under way.
    TRANSACTION = "transaction"
    #: The same, and the session cannot be replaced from the mark on until ``close()``.
    PINNED = "pinned"


@dataclass(frozen=True, slots=True)
class UnitOfWork:
    """A unit.

    Attributes:
        answer: what it returns if it is not lost.
        parts: what it writes.
        each: parts are transactions of their own.
        hooks: of ``on_commit``.
        asks: the server is asked what became of a lost COMMIT (``commit_outcome``).
        raw: its errors are the driver's own, as with Django's engine.
    """

    name: str
    run: Callable[[Work], Any]
    kind: Kind
    answer: Any = None
    parts: tuple[int, ...] = ()
    each: bool = False
    hooks: int = 0
    asks: bool = False
    raw: bool = False


UNITS: Final[dict[str, UnitOfWork]] = {}
Run = Callable[[Work], Any]


def unit(kind: Kind, **told: Any) -> Callable[[Run], Run]:
    """Register a unit under its function's name."""

    def register(run: Run) -> Run:
        UNITS[run.__name__] = UnitOfWork(run.__name__, run, kind, **told)
        return run

    return register


# -- autocommit --------------------------------------------------------------------------------


@unit(Kind.HEALED, answer=[(42,)])
def read(work: Work) -> Any:
    return work.run("SELECT 42")


@unit(Kind.HEALED, answer=[(7, "x")])
def read_with_parameters(work: Work) -> Any:
    return work.run("SELECT %s::int, %s::text", [7, "x"])


@unit(Kind.HEALED, answer=0)
def orm_read(work: Work) -> Any:
    return Row.objects.using(work.connection.alias).filter(token="nobody's").count()


@unit(Kind.WRITE, parts=(1,))
def write(work: Work) -> None:
    work.insert(1)


@unit(Kind.WRITE, parts=(1,))
def create(work: Work) -> None:
    Row.objects.using(work.connection.alias).create(token=work.token, part=1)


@unit(Kind.WRITE, parts=(1, 2, 3), each=DRIVER == "psycopg2")
def executemany(work: Work) -> None:
    with work.connection.cursor() as cursor:
        cursor.executemany(_INSERT, [[work.token, part] for part in (1, 2, 3)])


# In a transaction of its own up to Django 6.0.
@unit(Kind.WRITE, parts=(1, 2, 3))
def bulk_create(work: Work) -> None:
    rows = [Row(token=work.token, part=part) for part in (1, 2, 3)]
    Row.objects.using(work.connection.alias).bulk_create(rows)


@unit(Kind.WRITE, parts=(1, 2), raw=True)
def copy(work: Work) -> None:
    sql = f"COPY {TABLE} (token, part) FROM STDIN"
    rows = "".join(f"{work.token}\t{part}\n" for part in (1, 2))
    with work.connection.cursor() as cursor:
        if DRIVER == "psycopg":
            with cursor.copy(sql) as into:
                into.write(rows)
        else:
            cursor.copy_expert(sql, io.StringIO(rows))


@unit(Kind.WRITE, answer=[(1,)], parts=(1,))
def callproc(work: Work) -> Any:
    with work.connection.cursor() as cursor:
        cursor.callproc("leaves", [work.token])
        return [tuple(row) for row in cursor.fetchall()]


@unit(Kind.WRITE, answer=[(1,)], parts=(1,))
def read_that_writes(work: Work) -> Any:
    return work.run("SELECT leaves(%s)", [work.token])


@unit(Kind.WRITE, answer=[(1,)], parts=(1,))
def read_that_lies(work: Work) -> Any:
    """Its function is declared STABLE: BEGIN READ ONLY alone keeps it from being retried."""
    return work.run("SELECT lies(%s)", [work.token])


# -- transactions ------------------------------------------------------------------------------


@unit(Kind.TRANSACTION, parts=(1,))
def atomic_of_one(work: Work) -> None:
    with work.atomic():
        work.insert(1)
        work.mark()


@unit(Kind.TRANSACTION, parts=(1, 2))
def atomic_of_two(work: Work) -> None:
    with work.atomic():
        work.insert(1)
        work.mark()
        work.insert(2)


@unit(Kind.TRANSACTION, parts=(1, 2, 3), hooks=1)
def atomic_of_three_with_hook(work: Work) -> None:
    with work.atomic():
        work.insert(1)
        work.mark()
        work.hook()
        work.insert(2)
        work.insert(3)


@unit(Kind.TRANSACTION, parts=(1, 2, 3), hooks=1)
def nested(work: Work) -> None:
    with work.atomic():
        work.hook()
        with work.atomic():
            work.insert(1)
            work.mark()
        with work.atomic():
            work.insert(2)
        work.insert(3)


@unit(Kind.TRANSACTION, parts=(1, 2), hooks=1, asks=True)
def atomic_that_asks(work: Work) -> None:
    with work.atomic():
        work.hook()
        work.insert(1)
        work.mark()
        work.insert(2)


@unit(Kind.TRANSACTION, answer=[(1,)])
def atomic_read_only(work: Work) -> Any:
    with work.atomic():
        work.run("SELECT 2")
        work.mark()
        return work.run("SELECT 1")


@unit(Kind.TRANSACTION, parts=(1,))
def set_local_first(work: Work) -> None:
    with work.atomic():
        work.run("SET LOCAL statement_timeout = '9s'")
        work.run("SET LOCAL lock_timeout = '8s'")
        work.insert(1)
        work.mark()


@unit(Kind.TRANSACTION, answer=0, parts=(1,))
def select_for_update(work: Work) -> Any:
    with work.atomic():
        rows = Row.objects.using(work.connection.alias).filter(token=work.token)
        found = len(rows.select_for_update())
        work.mark()
        work.insert(1)
        return found


@unit(Kind.TRANSACTION, answer=list(range(5)))
def iterator_in_transaction(work: Work) -> Any:
    with work.atomic():
        return _iterate(work)


@unit(Kind.TRANSACTION, answer=list(range(5)))
def iterator(work: Work) -> Any:
    return _iterate(work)


def _iterate(work: Work) -> list[int]:
    with work.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT n FROM generate_series(0, 4) n")
        found: list[int] = []
        while rows := cursor.fetchmany(2):
            if work.connection.autocommit:
                work.mark()  # in a transaction every loss while rows are fetched is raised
            found += [number for (number,) in rows]
        return found


# -- units that are retried as a whole -----------------------------------------------------------


@unit(Kind.HEALED, answer=2, parts=(1, 2), hooks=1)
def retried(work: Work) -> Any:
    def both() -> int:
        work.insert(1)
        work.hook()
        work.insert(2)
        return 2

    return retry_atomic.run(both, using=work.connection.alias)


@unit(Kind.HEALED, answer=[(5,)])
def retried_read(work: Work) -> Any:
    def reads() -> Any:
        work.run("SELECT 4")
        return work.run("SELECT 5")

    return retry_atomic.run(reads, using=work.connection.alias)


# -- sessions ------------------------------------------------------------------------------------


@unit(Kind.HEALED, answer=[("tenant",)])
def set_and_read(work: Work) -> Any:
    work.run("SET app.tenant = 'tenant'")
    return work.run("SELECT current_setting('app.tenant', true)")


@unit(Kind.PINNED, answer=[(3,)])
def advisory_lock(work: Work) -> Any:
    work.run("SELECT pg_advisory_lock(77)")
    work.mark()
    answer = work.run("SELECT 3")
    work.run("SELECT pg_advisory_unlock(77)")
    return answer
