"""Pools that are open and full, and requests on them."""

from __future__ import annotations

import threading
import time
from typing import Any

from django.db import (
    Error,
    connections,
)
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.engines import PATIENCE, at_once, run


def pool_of(connection: Any) -> Any:
    return connection.pool


def filled(connection: BaseDatabaseWrapper) -> BaseDatabaseWrapper:
    """The pool is open and full, and nobody has a connection of it."""
    run(connection, "SELECT 1")
    connection.close()
    pool_of(connection).wait(PATIENCE)
    return connection


def sized(size: int, **options: Any) -> dict[str, Any]:
    return {"pool": {"min_size": size, "max_size": size, **options}}


def requests(connection: BaseDatabaseWrapper, threads: int) -> list[tuple[Any, float]]:
    """What so many threads get, all at once, and after how many seconds."""
    alias, outcomes = connection.alias, []
    together = threading.Barrier(threads)

    def request() -> None:
        mine = connections[alias]
        together.wait()
        began = time.monotonic()
        try:
            outcome: Any = run(mine, "SELECT 42")
        except Error as error:
            outcome = error
        outcomes.append((outcome, time.monotonic() - began))
        mine.close()

    at_once(threads, request)
    return outcomes
