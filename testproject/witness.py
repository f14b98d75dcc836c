"""Counts what a load left in the database, over a connection that is no part of the load."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db import connections

from testproject.ledger import Found

Ask = Callable[[str, Sequence[str]], Sequence[Sequence[Any]]]

WITNESS = "witness"  # its application_name: sessions called so are left alone by the faults
TABLES = {"movements": "shop_movement", "orders": "shop_order", "lines": "shop_orderline"}


def count(ask: Ask, prefix: str) -> Found:
    """Rows per token in each table, of the tokens that begin with ``prefix``."""
    sql = "SELECT token, count(*) FROM {} WHERE starts_with(token, %s) GROUP BY token"
    rows = {name: ask(sql.format(table), (prefix,)) for name, table in TABLES.items()}
    return Found(**{name: {row[0]: row[1] for row in rows[name]} for name in rows})


@contextlib.contextmanager
def independent(using: str) -> Iterator[Ask]:
    """Open a connection of the stock engine to the database of ``using``, shared with nobody."""
    # Imported late: the stock engine asks for a driver, which not everything that counts needs.
    from django.db.backends.postgresql.base import DatabaseWrapper

    settings = dict(connections[using].settings_dict)
    own = {
        key: value
        for key, value in settings["OPTIONS"].items()
        if key not in ("resilience", "pool")
    }
    settings["OPTIONS"] = {**own, "application_name": WITNESS}
    wrapper = DatabaseWrapper(settings, using)

    def ask(sql: str, params: Sequence[str]) -> Sequence[Sequence[Any]]:
        with wrapper.cursor() as cursor:
            cursor.execute(sql, params)
            rows: Sequence[Sequence[Any]] = cursor.fetchall()
        return rows

    try:
        yield ask
    finally:
        wrapper.close()
