"""Counts what a load left in the database, over a connection that is no part of the load."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db import OperationalError, connections

from testproject.ledger import Found

Ask = Callable[[str, Sequence[str]], Sequence[Sequence[Any]]]

PATIENCE = 30.0  # seconds for a server that is down at the moment
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
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with wrapper.cursor() as cursor:
                    cursor.execute(sql, params)
                    rows: Sequence[Sequence[Any]] = cursor.fetchall()
                return rows
            except OperationalError:
                # The faults of the demo go on until it hears of the result: a restart may be one.
                if time.monotonic() > deadline:
                    raise
                wrapper.close()
                time.sleep(0.1)

    try:
        yield ask
    finally:
        wrapper.close()
