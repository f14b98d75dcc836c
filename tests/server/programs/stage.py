"""The server that programs run on, with a table whose rows may end the session that writes them."""

from __future__ import annotations

import copy
import importlib
import os
import select
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import Any, Final, Self

from django.db.backends.base.base import BaseDatabaseWrapper

from testproject import guard
from testproject.postgres import Server
from tests.engines import DRIVER, PATIENCE

from .texts import TENANT, Control, Fail, Read, Set, Text, Value, Way, Write, literal

# A commit waits for the standby "nobody" only where a row's fate asks for it.
SETTINGS: Final = {
    "synchronous_standby_names": "nobody",
    "synchronous_commit": "local",
    "autovacuum": "off",
}
# Logging in is most of the time that a replaced connection takes.
_TRUST: Final = "local all all trust\nhost all,replication all all trust\n"
SCHEMA: Final = """
CREATE TABLE effects (id bigint, program int, victim int, fate text, note text);
CREATE INDEX ON effects (program);
GRANT ALL ON effects TO app;
-- Dies once: where a statement is run again, it is by another process.
CREATE FUNCTION is_victim(victim int) RETURNS bool LANGUAGE sql AS 'SELECT $1 = pg_backend_pid()';
CREATE FUNCTION die(victim int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN
    IF is_victim(victim) THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
    RETURN 1;
END $$;
CREATE FUNCTION die_early() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM die(NEW.victim);
    RETURN NEW;
END $$;
-- The signal is acted on at the next statement of PL/pgSQL, if there is one: else the wait for
-- the standby finds it, after the transaction has been committed, or the wait for the next query.
CREATE FUNCTION die_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NOT is_victim(NEW.victim) THEN RETURN NULL; END IF;
    IF NEW.fate = 'commit' THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
        PERFORM 1;
    END IF;
    IF NEW.fate = 'answer' THEN PERFORM set_config('synchronous_commit', 'on', true); END IF;
    RETURN CASE WHEN pg_terminate_backend(pg_backend_pid()) THEN NEW ELSE NEW END;
END $$;
-- Reads that write, see language.Way.
CREATE FUNCTION put_row(effects) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO effects SELECT ($1).*;
    RETURN true;
END $$;
CREATE FUNCTION put(effects) RETURNS bool LANGUAGE sql AS 'SELECT put_row($1)';
CREATE DOMAIN put_domain AS effects CHECK (put(VALUE));
CREATE TYPE put_type AS (done bool);
CREATE FUNCTION put_cast(effects) RETURNS put_type LANGUAGE sql AS 'SELECT row(put($1))::put_type';
CREATE CAST (effects AS put_type) WITH FUNCTION put_cast(effects);
CREATE FUNCTION put_next(bool, effects) RETURNS bool LANGUAGE sql AS 'SELECT put($2)';
CREATE AGGREGATE keep(effects) (SFUNC = put_next, STYPE = bool);
CREATE TRIGGER early BEFORE INSERT ON effects FOR EACH ROW
    WHEN (NEW.fate = 'early') EXECUTE FUNCTION die_early();
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.fate <> 'early') EXECUTE FUNCTION die_late();
"""
_WRITES: Final = {
    Way.INSERT: "INSERT INTO effects VALUES (%s, %s, %s, %s, %s)",
    Way.FUNCTION: "SELECT put(row(%s, %s, %s, %s, %s)::effects)",
    Way.DOMAIN: "SELECT row(%s, %s, %s, %s, %s)::put_domain",
    Way.CAST: "SELECT row(%s, %s, %s, %s, %s)::effects::put_type",
    Way.AGGREGATE: "SELECT keep(row(%s, %s, %s, %s, %s)::effects)",
}
_ROWS: Final = "coalesce(string_agg(id::text, ',' ORDER BY id), '')"
#: Keys per program: a row's id is the program's number times this, plus the key.
_KEYS: Final = 1000


class Clerk:
    """A superuser's session that stays open, in autocommit."""

    def __init__(self, server: Server, database: str) -> None:
        self._database = database
        self._links: list[Any] = []
        self.connect(server)

    def connect(self, server: Server) -> None:
        """Have a session of this server; none is closed before all are, a parent's may be one."""
        driver: Any = importlib.import_module(DRIVER)
        link = driver.connect(
            host=server.socket_dir,
            port=server.port,
            dbname=self._database,
            user=server.superuser,
            password=server.superuser_password,
        )
        link.autocommit = True
        self._links.append(link)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self._links[-1].cursor()) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def close(self) -> None:
        while self._links:
            self._links.pop().close()


class Stage:
    """A database of a server of its own, and a superuser's session that stays open.

    Attributes:
        other: another database, for programs that use two.
    """

    def __init__(self, server: Server, database: str = "app", other: Stage | None = None) -> None:
        self.server, self.database, self.other = server, database, other
        (server.data / "pg_hba.conf").write_text(_TRUST)
        server.execute("SELECT pg_reload_conf()")
        server.execute(SCHEMA, database=database)
        self._clerk = Clerk(server, database)
        self._program = 0
        self._numbers = count(1)
        self._notes: dict[int, str] = {}

    def beside(self) -> Self:
        """The same for a program that runs at the same time: its rows are its own."""
        twin = copy.copy(self)
        twin._notes = {}
        twin.other = None if self.other is None else self.other.beside()
        return twin

    def close(self) -> None:
        self._clerk.close()
        if self.other is not None:
            self.other.close()

    def move(self, server: Server) -> None:
        """The rows are on this server from now on, or this is another process."""
        self._clerk.connect(server)
        if self.other is not None:
            self.other.move(server)

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self._clerk.ask(sql)

    def next_program(self) -> None:
        """Rows are those of another program from now on."""
        self._program = next(self._numbers)
        self._notes.clear()
        if self.other is not None:
            self.other.next_program()

    def rows(self) -> Counter[int]:
        """How often each row of the program is in the table, as another session sees it."""
        found = self._ask(f"SELECT id, count(*) FROM effects WHERE {self._mine} GROUP BY id")
        return Counter({number - self._program * _KEYS: count for number, count in found})

    def altered(self) -> list[int]:
        """Rows whose note is not what was given."""
        found = self._ask(f"SELECT id, note FROM effects WHERE {self._mine}")
        first = self._program * _KEYS
        return [number - first for number, note in found if self._notes[number - first] != note]

    @property
    def _mine(self) -> str:
        return f"program = {self._program}"

    def declare(self, volatility: str) -> None:
        """Declare the functions of reads that write to be VOLATILE, as they are, or STABLE."""
        for function in ("put(effects)", "put_cast(effects)", "put_next(bool, effects)"):
            self.server.execute(f"ALTER FUNCTION {function} {volatility}", database=self.database)
        if self.other is not None:
            self.other.declare(volatility)

    # -- ends --------------------------------------------------------------------------------------

    def victim(self, connection: BaseDatabaseWrapper) -> int:
        """Which session dies of a statement, as :func:`is_victim` of the schema knows it."""
        return backend_pid(connection)

    def kill(self, pid: int) -> bool:
        """End a session and wait until its process is gone; False if it was not there."""
        return self._end(pid)

    def _end(self, pid: int) -> bool:
        with watched(pid) as is_gone:
            [(done,)] = self._ask(f"SELECT pg_terminate_backend({pid})")
            if not is_gone(PATIENCE):
                raise TimeoutError(f"session {pid} is still there after {PATIENCE:g} s")
        return bool(done)

    def kill_all(self) -> bool:
        """End all sessions of the application; False if there was none."""
        found = self._ask(
            "SELECT pid FROM pg_stat_activity"
            f" WHERE datname = '{self.database}' AND usename = '{self.server.user}'"
        )
        ended = [self._end(pid) for (pid,) in found]
        return any(ended)

    # -- texts -------------------------------------------------------------------------------------

    def sql(self, text: Text, victim: int) -> tuple[str, list[Value]]:
        """A text as it is sent, with its parameters; ``victim`` dies if that is its fate."""
        match text:
            case Write(key, fate, way, note):
                self._notes[key] = note
                row = [self._program * _KEYS + key, self._program]
                how = [None, None] if fate is None else [victim, fate.value]
                return _WRITES[way], [*row, *how, note]
            case Read(dies, note):
                tenant = f"coalesce(current_setting('{TENANT}', true), '')"
                rows = f"effects WHERE {self._mine}"
                if dies:
                    rows = f"die({victim}) AS died LEFT JOIN effects ON {self._mine}"
                return f"SELECT {tenant}, {_ROWS}, %s::text FROM {rows}", [note]
            case Set(None):
                return f"RESET {TENANT}", []
            case Set(value, local, True):
                return "SELECT set_config(%s, %s, %s)", [TENANT, value, local]
            case Control() | Fail() | Set():
                return str(text), []

    def string(self, texts: tuple[Text, ...], victim: int) -> str:
        """Several texts in one string, their values written out."""
        return "; ".join(_written_out(*self.sql(text, victim)) for text in texts)

    def seen(self, row: tuple[str, str, str]) -> tuple[str, frozenset[int], str]:
        """What a read has returned: the tenant, rows by their keys, and its note."""
        tenant, numbers, note = row
        first = self._program * _KEYS
        return tenant, frozenset(int(one) - first for one in numbers.split(",") if one), note


def backend_pid(connection: BaseDatabaseWrapper) -> int:
    """The server's process of this connection; 0 if there is none or it is known to be dead."""
    driver = connection.connection
    if driver is None or driver.closed:
        return 0
    return int(driver.info.backend_pid)


@contextmanager
def watched(pid: int) -> Iterator[Callable[[float], bool]]:
    """A way to wait for the end of a process, so many seconds at most.

    By a descriptor of the process, where there are such: to ask again and again costs more than all
    else that a program does.
    """
    if not hasattr(os, "pidfd_open"):
        yield lambda timeout: guard.wait_gone([pid], timeout)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield lambda timeout: True
        return
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        yield lambda timeout: bool(poller.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def _written_out(sql: str, parameters: list[Value]) -> str:
    return sql % tuple(map(literal, parameters)) if parameters else sql
