"""What the drill does while it loses its session: four rows of the table of guarantees."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from django.db import DataError, transaction

from .terminator import PATIENCE

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_TABLE: Final = "pg_temp.django_resilient_pg_drill"

#: Loses the session; returns its process id, 0 where there is nothing to lose.
Loss = Callable[[], int]
#: In the text of the read that is lost while it runs.
NAP: Final = "django_resilient_pg_nap"


def _read(db: BaseDatabaseWrapper, lose: Loss) -> None:
    lose()
    _value(db, "SELECT 1")


def _long_read(db: BaseDatabaseWrapper, lose: Loss) -> None:
    # The session that is to be lost waits for it, the one that takes over does not.
    lost = lose()
    mine = f"pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {lost}"
    nap = f"CASE WHEN {mine} THEN pg_catalog.pg_sleep({PATIENCE}) END"
    _value(db, f"SELECT 1 FROM (SELECT {nap}) AS {NAP}")


def _write(db: BaseDatabaseWrapper, lose: Loss) -> None:
    """A temporary table ends with its transaction: it leaves nothing, and ties no session."""
    lose()
    with transaction.atomic(using=db.alias):
        _fill(db)


def _transaction(db: BaseDatabaseWrapper, lose: Loss) -> None:
    with transaction.atomic(using=db.alias):
        lose()
        _value(db, "SELECT 1")
        _fill(db)


def _fill(db: BaseDatabaseWrapper) -> None:
    with db.cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE {_TABLE} (number integer) ON COMMIT DROP")
        cursor.execute(f"INSERT INTO {_TABLE} VALUES (1)")
    _value(db, f"SELECT pg_catalog.count(*) FROM {_TABLE}")


def _value(db: BaseDatabaseWrapper, sql: str) -> None:
    with db.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    if row is None or tuple(row) != (1,):
        raise DataError("the server's answer is wrong")


class Case(NamedTuple):
    """One thing to do, and when its session is lost.

    Attributes:
        name: what is done.
        row: of the table of guarantees: when the session is lost.
        run: does it.
        midway: whether the session is lost while a statement with the mark :data:`NAP` runs.
    """

    name: str
    row: str
    run: Callable[[BaseDatabaseWrapper, Loss], None]
    midway: bool = False


#: All of them, in order.
CASES: Final = (
    Case("read", "while idle", _read),
    Case("read", "while it runs", _long_read, midway=True),
    Case("write into a temporary table", "while idle", _write),
    Case("transaction", "before its first statement", _transaction),
)
