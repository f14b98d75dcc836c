"""The table of the tests of COMMIT, and what happens in the middle of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Server
from tests.engines import run, until_waiting, values

TABLE = "commits"


def rows(server: Server) -> list[str]:
    return values(server, TABLE)


def insert(connection: BaseDatabaseWrapper, value: str) -> None:
    run(connection, f"INSERT INTO {TABLE} (value) VALUES (%s)", [value])


def slow_commit(server: Server) -> None:
    """Make COMMIT take long enough to be cut in the middle."""
    server.execute(
        "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$;"
        f" CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {TABLE}"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
        database="app",
    )


@contextmanager
def in_commit(server: Server, pid: int, fault: Callable[[], object]) -> Iterator[None]:
    """Call ``fault`` in the middle of the COMMIT of this session, which the block runs."""

    def watch() -> None:
        until_waiting(server, pid)
        fault()

    thread = Thread(target=watch, name="in_commit")
    thread.start()
    yield
    thread.join()
