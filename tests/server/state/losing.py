"""Ways to lose a session, as whoever notices it: the driver, the application or the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_resilient_pg.errors import SessionLost
from tests.engines import DRIVER, PATIENCE, until
from tests.server.scenarios import TABLE, Stage

Stages = Callable[..., Stage]
PG3 = DRIVER == "psycopg"
INSERT = f"INSERT INTO {TABLE} (value) VALUES ('%s')"
psycopg3, psycopg2 = pytest.mark.psycopg3, pytest.mark.psycopg2


def driver_of(stage: Stage) -> Any:
    """The driver's connection object, as applications reach for it."""
    return stage.connection.connection


def raw(stage: Stage, sql: str) -> None:
    """Execute on a cursor of the driver's own."""
    with driver_of(stage).cursor() as cursor:
        cursor.execute(sql)


def raw_below(stage: Stage) -> None:
    """Execute on the driver's cursor inside of Django's."""
    with stage.connection.cursor() as cursor:
        cursor.cursor.execute("SELECT 1")


def wait_for_notifications(stage: Stage) -> None:
    for _ in driver_of(stage).notifies(timeout=PATIENCE):
        raise AssertionError("nobody notifies")


def poll(stage: Stage) -> None:
    until(lambda: bool(driver_of(stage).poll()), "the driver does not notice the loss")


def is_usable(stage: Stage) -> None:
    assert not stage.connection.is_usable()


FAILS: dict[str, Callable[[Stage], object]] = {
    "raw cursor": lambda stage: raw(stage, "SELECT 1"),
    "raw cursor below": raw_below,
    "raw notifies": wait_for_notifications,
    "raw poll": poll,
    "raw commit": lambda stage: driver_of(stage).commit(),
    "raw rollback": lambda stage: driver_of(stage).rollback(),
}
ANSWERS: dict[str, Callable[[Stage], object]] = {
    "raw close": lambda stage: driver_of(stage).close(),
    "is_usable": is_usable,
}
# psycopg2 sends neither COMMIT nor ROLLBACK in its autocommit, whatever a text has begun.
MARKS = {
    "raw notifies": [psycopg3],
    "raw poll": [psycopg2],
    "raw commit": [psycopg3],
    "raw rollback": [psycopg3],
}
NOTICED = pytest.mark.parametrize(
    "noticed", [pytest.param(name, marks=MARKS.get(name, [])) for name in [*FAILS, *ANSWERS]]
)
#: One way to each of the states in which the driver's connection is found.
SOME = pytest.mark.parametrize("noticed", ["raw cursor", "raw close", "is_usable"])


def lose(stage: Stage, noticed: str = "raw cursor") -> None:
    """Terminate the session and have the driver notice; the application swallows what it raises."""
    stage.kill()
    if noticed in FAILS:
        with pytest.raises(driver_of(stage).Error):
            FAILS[noticed](stage)
    else:
        ANSWERS[noticed](stage)


def assert_refused(stage: Stage) -> None:
    """The second half of a lost transaction is refused, and nothing of the first one stays."""
    with pytest.raises(SessionLost):
        stage.insert("second")
    assert stage.rows() == []


def assert_works(stage: Stage, *rows: str) -> None:
    """The alias is of use again, in autocommit, and this is all that the database holds."""
    stage.insert("after")
    assert stage.rows() == [*rows, "after"]


def begin(stage: Stage, *texts: str) -> None:
    """The first half of a transaction that a text begins, in autocommit."""
    for text in texts or ["BEGIN"]:
        stage.run(text)
    stage.insert("first")


ENDS: dict[str, Callable[[Stage], object]] = {
    "commit": lambda stage: stage.connection.commit(),
    "rollback": lambda stage: stage.connection.rollback(),
}
TEXTS = ["COMMIT", "end;", "ROLLBACK", "ABORT", "SELECT 1; COMMIT"]


def end(stage: Stage, ended: str) -> None:
    if ended in TEXTS:
        stage.run(ended)
    else:
        ENDS[ended](stage)


# "settings": AUTOCOMMIT is False in DATABASES.
OFF = pytest.mark.parametrize("off", ["set_autocommit", "settings"])
