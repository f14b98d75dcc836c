"""The error and the log line of a transaction that is not retried once more say why."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.transaction import retry_atomic
from tests.engines import run
from tests.server.replay.once import CONFLICT, Kill

pytestmark = pytest.mark.usefixtures("table")


@pytest.mark.parametrize("fails", ["lost", "in conflict"])
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"retries": 1}, "it was retried 1 time already (retries)"),
        ({"deadline": 0}, "retry_atomic's deadline (0 s) is used up"),
    ],
)
def test_the_error_and_the_log_say_why_there_is_no_further_retry(
    given: dict[str, Any],
    why: str,
    fails: str,
    db: BaseDatabaseWrapper,
    kill: Kill,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def work() -> None:
        run(db, "SELECT 1")
        if fails == "lost":
            kill(db)
        run(db, CONFLICT)

    run(db, "SELECT 1")  # without any time a connection comes about only where that is quick
    with pytest.raises(Error) as caught:
        retry_atomic.run(work, using=db.alias, **given)
    assert caught.value.__notes__[-1] == f"The transaction was not retried: {why}."
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    if fails == "lost":
        assert len(warnings) == 1
        assert warnings[0].endswith(f" Not retried: {why}.")
    else:
        assert not warnings


def test_an_error_that_is_nobodys_to_retry_has_no_note(db: BaseDatabaseWrapper) -> None:
    with pytest.raises(Error) as caught:
        retry_atomic.run(lambda: run(db, "SELECT 1/0"), using=db.alias, retries=0)
    assert not hasattr(caught.value, "__notes__")
