"""Errors cross processes: queues and parallel test runners pickle them."""

from __future__ import annotations

import pickle

import pytest
from django.db import OperationalError

from django_resilient_pg.errors import (
    CommitOutcomeUnknown,
    ServerDown,
    SessionLost,
    TransactionLost,
)


@pytest.mark.parametrize(
    "error",
    [
        CommitOutcomeUnknown("lost", alias="default", xid=7),
        ServerDown("down", due=0.5),
        SessionLost("lost"),
        TransactionLost("lost"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickling(error: OperationalError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
