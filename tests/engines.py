"""Connections of the stock engine and of this one to an embedded server, and their ends."""

from __future__ import annotations

import io
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler

from testproject.postgres import Server

STOCK = "django.db.backends.postgresql"
# Set DATABASE_ENGINE to the stock engine to see every promise fail.
RESILIENT = os.environ.get("DATABASE_ENGINE") or "django_resilient_pg"
OURS = "django_resilient_pg.middleware.RequestRetryMiddleware"
DRIVER = "psycopg" if find_spec("psycopg") else "psycopg2"
PATIENCE = 10.0  # seconds
#: Seconds until a state is not waited for any more: far more than it takes on a busy machine.
LONGEST = 60.0

NUMBERS = itertools.count(1)  # of aliases, in the whole run: ports are used again


class Connections:
    """Makes connections to one server, each under an alias of its own, and closes them in the end.

    The alias is known to ``django.db.connections``, so that
    ``transaction.atomic(using=connection.alias)`` and ``Model.objects.using`` work, until
    :meth:`close`.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._made: list[BaseDatabaseWrapper] = []

    def __call__(
        self,
        engine: str = RESILIENT,
        *,
        alias: str | None = None,
        database: str = "app",
        user: str | None = None,
        options: Mapping[str, object] | None = None,
        **given: object,
    ) -> BaseDatabaseWrapper:
        """Return a fresh connection, not yet opened.

        ``options``: added to OPTIONS. Further arguments in capitals are entries of DATABASES
        (``CONN_MAX_AGE=60``), the others keys of ``OPTIONS["resilience"]`` (``read_retries=0``),
        which the stock engine does not get.
        """
        settings = {key: value for key, value in given.items() if key.isupper()}
        resilience = {key: value for key, value in given.items() if not key.isupper()}
        more = {"resilience": resilience} if resilience and engine != STOCK else {}
        entry = self.server.database(
            database, engine=engine, user=user, options={**(options or {}), **more}, **settings
        )
        return self.register(alias or f"{database}-{next(NUMBERS)}", entry)

    def register(self, alias: str, entry: dict[str, Any]) -> BaseDatabaseWrapper:
        """Return the connection for this entry of DATABASES, which from now on has this alias."""
        if alias in connections.settings:
            raise ValueError(f'the alias "{alias}" is taken')
        databases = ConnectionHandler({DEFAULT_DB_ALIAS: {}, alias: entry}).databases
        connections.settings[alias] = databases[alias]  # with Django's defaults filled in
        with suppress(AttributeError):
            del connections[alias]  # of this thread, made with other settings
        made: BaseDatabaseWrapper = connections[alias]
        self._made.append(made)
        return made

    def close(self) -> None:
        """Close all connections that were made here in this thread, and forget their aliases."""
        while self._made:
            made = self._made.pop()
            with suppress(AttributeError):
                del connections[made.alias]  # unless a test has
            del connections.settings[made.alias]
            made.close()
            # Not in every engine; or there is none, because its settings are refused.
            with suppress(AttributeError, TypeError, ValueError, ImproperlyConfigured):
                made.close_pool()  # type: ignore[attr-defined]


def backend_pid(connection: BaseDatabaseWrapper) -> int:
    """Return the server's process of this connection, without a query that could disturb a test."""
    if connection.connection is None:
        raise ValueError(f'the connection "{connection.alias}" is not open')
    return int(connection.connection.info.backend_pid)


def run(
    connection: BaseDatabaseWrapper, sql: Any = "SELECT 1", params: Any = None
) -> list[tuple[Any, ...]]:
    """Execute a statement on a cursor of Django's, and return its rows, if it has any."""
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


def ask(connection: BaseDatabaseWrapper, sql: str = "SELECT 1") -> Any:
    """The first value that a statement answers."""
    return run(connection, sql)[0][0]


def copy_in(cursor: Any, sql: str, rows: str) -> None:
    """COPY ... FROM STDIN, as each driver has it."""
    if DRIVER == "psycopg":
        with cursor.copy(sql) as copy:
            copy.write(rows)
    else:
        cursor.copy_expert(sql, io.StringIO(rows))


def copy_out(cursor: Any, sql: str) -> str:
    """COPY ... TO STDOUT, as each driver has it."""
    if DRIVER == "psycopg":
        with cursor.copy(sql) as copy:
            return b"".join(bytes(part) for part in copy).decode()
    into = io.StringIO()
    cursor.copy_expert(sql, into)
    return into.getvalue()


@contextmanager
def values_table(server: Server, name: str) -> Iterator[None]:
    """A table of texts in the database "app", dropped in the end; see :func:`values`."""
    server.execute(f"CREATE TABLE {name} (value text); GRANT ALL ON {name} TO app", database="app")
    try:
        yield
    finally:
        server.execute(f"DROP TABLE {name}", database="app")


def values(server: Server, name: str) -> list[str]:
    """What such a table holds, sorted."""
    found = server.execute(f"SELECT value FROM {name} ORDER BY 1", database="app")
    return [value for (value,) in found]


def until(done: Callable[[], bool], otherwise: str) -> None:
    """Wait for something; TimeoutError if it does not come.

    A server notices the end of a session a little later than its client does.
    """
    deadline = time.monotonic() + LONGEST
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} after {LONGEST:g} s")
        time.sleep(0.02)


def at_once(threads: int, work: Callable[[], object]) -> None:
    """Have so many threads do this, and wait until all of them are over."""
    made = [threading.Thread(target=work) for _ in range(threads)]
    for thread in made:
        thread.start()
    for thread in made:
        thread.join()


def until_waiting(server: Server, pid: int, event: str = "PgSleep") -> None:
    """Wait until this session waits for that event: in a ``pg_sleep``, or for a standby."""
    waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = %s"
    with server.session() as execute:
        until(lambda: bool(execute(waits, [pid, event])), f"session {pid} was not in {event}")


@contextmanager
def killed_midway(
    server: Server, connection: BaseDatabaseWrapper, *, timeout: float = LONGEST
) -> Iterator[list[int]]:
    """End the session of this connection as soon as it is in the middle of a ``pg_sleep``.

    The value is a list that gets the process id when that is done. Raises TimeoutError if there was
    no such statement.
    """
    pid = backend_pid(connection)
    done: list[int] = []
    over = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + timeout
        asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        with server.session() as ask:
            while time.monotonic() < deadline and not over.is_set():
                if ask(asleep, [pid]):
                    server.terminate(pid)
                    done.append(pid)
                    return
                time.sleep(0.01)

    thread = threading.Thread(target=watch, name="killed_midway")
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()
    if not done:
        raise TimeoutError(f'"{connection.alias}" was never seen in a pg_sleep')


@contextmanager
def each_asleep(
    server: Server, end: Callable[[int], object], *, after: float = 0.0, most: int = 100
) -> Iterator[list[int]]:
    """Have ``end`` called with the session of each statement that sleeps in the database "app".

    ``after``: seconds that the statement has run; ``most``: so often. The value gets the process
    ids.
    """
    ended: list[int] = []
    over = threading.Event()
    asleep = (
        "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND wait_event = 'PgSleep'"
        " AND backend_type = 'client backend'"
        " AND clock_timestamp() - query_start > %s * interval '1 s'"
    )

    def watch() -> None:
        while not over.is_set() and len(ended) < most:
            # The server may be recovering from the last time.
            with suppress(Exception), server.session() as ask:
                while not over.wait(0.02) and len(ended) < most:
                    # A process that dies slowly is seen more than once.
                    for pid in {pid for (pid,) in ask(asleep, [after])} - set(ended):
                        end(pid)
                        ended.append(pid)
            over.wait(0.02)

    thread = threading.Thread(target=watch, name="each_asleep")
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join()
