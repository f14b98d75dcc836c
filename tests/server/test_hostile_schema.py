"""A schema before ``pg_catalog`` that has traps for all that the engine and its command name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

import django_resilient_pg
from django_resilient_pg.driver.choose import link_to
from django_resilient_pg.recovery import catalogue
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Run, Server
from tests.engines import Connections, backend_pid
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.once_per_driver

DATABASE = "hostile"
HOME = Path(str(django_resilient_pg.__file__)).parent
# What a trap writes, with the query that has sprung it.
MARK = "SPRUNG"
# Django's own, when it connects.
DJANGO = "set_config('TimeZone'"
SPRUNG = f"""CREATE FUNCTION hostile.sprung(what text) RETURNS bool VOLATILE LANGUAGE plpgsql
    SET search_path = pg_catalog AS $$ BEGIN
    IF position($q${DJANGO}$q$ IN current_query()) = 0 THEN
        RAISE LOG '{MARK} % by %', what, current_query();
    END IF;
    RETURN true; END $$"""
# Of each name, what pg_catalog has by it: a better match is not to be had.
FUNCTIONS = """SELECT p.proname, pg_get_function_identity_arguments(p.oid),
        pg_get_function_result(p.oid)
    FROM pg_proc AS p WHERE p.pronamespace = 'pg_catalog'::regnamespace
      AND p.proname = ANY (%s) AND NOT 2281 = ANY (p.proargtypes)"""
OPERATORS = """SELECT o.oprname, format_type(o.oprleft, NULL), format_type(o.oprright, NULL),
        format_type(o.oprresult, NULL)
    FROM pg_operator AS o WHERE o.oprname = ANY (%s) AND o.oprleft <> 0 AND o.oprright <> 0
      AND o.oprleft::regtype::text = ANY (%s) AND o.oprright::regtype::text = ANY (%s)"""
COLUMNS = """SELECT string_agg(quote_ident(a.attname), ', ') FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass('pg_catalog.' || %s) AND a.atttypid <> 'anyarray'::regtype
      AND NOT a.attisdropped"""
OPERANDS = ["name", "text", "oid", "integer", "bigint", "boolean", '"char"', "numeric", "smallint"]
TYPES = ["text", "name", "oid", "xid8", "float8", '"char"']


def named(pattern: str) -> list[str]:
    """What the package names in this way."""
    texts = (path.read_text(encoding="utf-8") for path in HOME.rglob("*.py"))
    return sorted({name for text in texts for name in re.findall(pattern, text)})


@pytest.fixture(scope="module")
def traps(server: Server) -> Iterator[int]:
    """Set the traps; returns how many there are."""
    server.create_database(DATABASE)
    with server.session(DATABASE) as run:
        made = set_traps(run)
    yield made
    server.terminate_all(DATABASE)
    server.drop_database(DATABASE)


def set_traps(run: Run) -> int:
    """Set the traps by a function that runs statements; returns how many there are."""
    run("CREATE SCHEMA hostile")
    run("GRANT USAGE ON SCHEMA hostile TO PUBLIC")
    run(SPRUNG)
    run("CREATE TABLE plain (id int, value text); GRANT ALL ON plain TO PUBLIC")
    made = 0
    for name, arguments, result in run(FUNCTIONS, [named(r"pg_catalog\.(\w+)\(")]):
        with suppress(Exception):  # aggregates over "any", what only C can return
            run(
                f'CREATE FUNCTION hostile."{name}"({arguments}) RETURNS {result} VOLATILE'
                f" LANGUAGE plpgsql AS $$ BEGIN PERFORM hostile.sprung('{name}()');"
                f" RETURN{'' if 'SETOF' in result or 'TABLE' in result else ' NULL'}; END $$"
            )
            made += 1
    written = named(r"OPERATOR\(pg_catalog\.([-+*/<>=~!@#%^&|`?]+)\)")
    operators = [*written, "=", "<>", "<", "<=", ">", ">="]
    for name, left, right, result in run(OPERATORS, [operators, OPERANDS, OPERANDS]):
        function = f"trap_{made}"
        run(
            f"CREATE FUNCTION hostile.{function}({left}, {right}) RETURNS {result} VOLATILE"
            f" LANGUAGE plpgsql AS $$ BEGIN PERFORM hostile.sprung('{left} {name} {right}');"
            " RETURN NULL; END $$"
        )
        run(
            f"CREATE OPERATOR hostile.{name} (leftarg = {left}, rightarg = {right},"
            f" function = hostile.{function})"
        )
        made += 1
    for name in named(r"pg_catalog\.(pg_\w+)\b(?!\()"):
        ((columns,),) = run(COLUMNS, [name])
        run(
            f"CREATE VIEW hostile.{name} AS SELECT {columns} FROM pg_catalog.{name}"
            f" WHERE hostile.sprung('{name}')"
        )
        made += 1
    for name in TYPES:
        run(
            f"CREATE DOMAIN hostile.{name} AS pg_catalog.{name}"
            f" CHECK (hostile.sprung('{name.strip(chr(34))}'))"
        )
        made += 1
    run("GRANT ALL ON ALL TABLES IN SCHEMA hostile TO PUBLIC")
    run(f"ALTER DATABASE {DATABASE} SET search_path = hostile, public, pg_catalog, pg_temp")
    return made


@pytest.fixture
def unsprung(server: Server, traps: int) -> Iterator[None]:
    """Nothing that runs in the test may spring one."""
    assert traps > 60
    before = server.log_text().count(MARK)
    yield
    assert server.log_text().count(MARK) == before, server.log_text().rpartition(MARK)[2][:300]


@pytest.fixture
def connection(unsprung: None, make_connection: Connections, proxy: Proxy) -> BaseDatabaseWrapper:
    return make_connection(database=DATABASE, PORT=proxy.port, CONN_MAX_AGE=None)


def run(connection: BaseDatabaseWrapper, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else None


def test_the_traps_work(server: Server, traps: int, make_connection: Connections) -> None:
    connection = make_connection(database=DATABASE)
    for sql in (
        "SELECT pg_backend_pid()",
        "SELECT 'a'::pg_catalog.text = 'a'::pg_catalog.text",
        "SELECT 1 FROM pg_proc LIMIT 1",
        "SELECT 'a'::text",
    ):
        before = server.log_text().count(MARK)
        with suppress(Error):
            run(connection, sql)
        assert server.log_text().count(MARK) > before, sql


def test_connecting(connection: BaseDatabaseWrapper) -> None:
    connection.ensure_connection()
    facts = connection.resilience.facts  # type: ignore[attr-defined]
    assert (facts.refusal, facts.in_recovery) == ("", False)


def test_a_read_that_is_read_again(connection: BaseDatabaseWrapper, proxy: Proxy) -> None:
    run(connection, "SELECT id FROM plain")
    proxy.cut_at(1, "answer")
    assert run(connection, "SELECT id FROM plain") == []


@pytest.mark.parametrize("point", ["before", "after"])
def test_the_outcome_of_a_commit(connection: BaseDatabaseWrapper, proxy: Proxy, point: Any) -> None:
    run(connection, "TRUNCATE plain")
    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        run(connection, "INSERT INTO plain VALUES (1)")
        if len(attempts) == 1:
            proxy.cut_at(2, point)  # 1 asks for the transaction's id

    retry_atomic.run(work, using=connection.alias)
    assert run(connection, "SELECT id FROM plain") == [(1,)]


def test_a_lost_transaction_that_only_read(connection: BaseDatabaseWrapper, proxy: Proxy) -> None:
    with transaction.atomic(using=connection.alias):
        run(connection, "SELECT id FROM plain")
        proxy.cut_at(1, "before")


def test_session_state(connection: BaseDatabaseWrapper, proxy: Proxy) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.set_config('app.tenant', %s, false)", ["7"])
    proxy.cut()
    told = "SELECT pg_catalog.current_setting('app.tenant', true)"
    assert run(connection, told) == [("7",)]


def test_what_became_of_a_lost_session(connection: Any) -> None:
    """The same session asks and is asked for: it has not ended."""
    from django_resilient_pg.driver.lost_sessions import LostSession
    from django_resilient_pg.policy.verdicts import Reason

    connection.ensure_connection()
    link = link_to(connection.connection)
    link.port = 1  # another one
    lost = LostSession(link, Reason.UNKNOWN, None, monotonic(), holds=True, first=True, direct=True)
    lost.settle(link, 1.0)
    assert "does not look like it" in lost.why


def test_who_is_a_standby(connection: Any) -> None:
    from django_resilient_pg.connecting import primary

    connection.ensure_connection()
    primary.why_refused(connection, connection._link, untouched=True)
    connection._link.ask(primary._FENCED)
    assert primary.better_is_found(connection)


def test_what_is_asked_of_the_catalogues(
    connection: BaseDatabaseWrapper, server: Server, traps: int
) -> None:
    """Each part of the question meets with something to ask about."""
    connection.ensure_connection()
    link = link_to(connection.connection)
    for sql in (
        "SELECT a.b, count(*) OVER (), 'x'::public.checked, 1 + 2 FROM plain a",
        "SELECT * FROM public.seen WHERE value IN ('a')",
    ):
        with suppress(Error):
            catalogue.why_may_write(link, [sql])


@pytest.mark.parametrize("options", [{}, {"drill": True}, {"verbosity": 2}])
def test_the_command(connection: BaseDatabaseWrapper, options: dict[str, Any]) -> None:
    out = StringIO()
    # The drill may fail: the read in it compares, and there is an operator that writes.
    with suppress(CommandError):
        call_command(
            "checkdbconn", database=connection.alias, stdout=out, stderr=StringIO(), **options
        )
    assert out.getvalue()


def test_ending_a_session(connection: BaseDatabaseWrapper, server: Server) -> None:
    from django_resilient_pg.driver import lost_sessions
    from django_resilient_pg.recovery import outcome

    with transaction.atomic(using=connection.alias):
        link = link_to(connection.connection)
        made = outcome.mark(link)
        assert made is not None
        assert made.backend_start is not None
        lost_sessions.end(link, 0, made.backend_start)
        assert backend_pid(connection) == made.pid
