"""A wrapper leaves nothing for the garbage collector, as Django's own test of it wants."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from django.db import transaction

from tests.engines import RESILIENT, STOCK, Connections

pytestmark = pytest.mark.once_per_driver


def left_by(original: Any) -> list[str]:
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        wrapper = original.copy()
        with wrapper.wrap_database_errors:
            assert wrapper.queries == []
        wrapper.close()
        del wrapper
        gc.collect()
        return [type(one).__name__ for one in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_a_wrapper_that_is_gone_leaves_no_garbage(make_connection: Connections) -> None:
    """Where Django's own leaves none: on 5.2 it does, on 6.1 not."""
    if not left_by(make_connection(STOCK)):
        assert left_by(make_connection(RESILIENT)) == []


def test_a_transaction_that_was_split_is_still_noticed(make_connection: Connections) -> None:
    """By the wrapper, which its transaction does not keep."""
    connection: Any = make_connection(RESILIENT)
    with transaction.atomic(connection.alias), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("COMMIT")
        cursor.execute("SELECT 1")
        assert connection._transaction.was_split
