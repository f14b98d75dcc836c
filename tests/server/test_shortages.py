"""Where something is missing that the engine could use, it works on as the stock engine does."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.errors import CommitOutcomeUnknown
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.children import python
from tests.engines import RESILIENT, STOCK, Connections

pytestmark = pytest.mark.once_per_driver

PRELUDE = """
    import json, sys
    from django.conf import settings
    entry, *given = json.loads(sys.argv[1])
    settings.configure(DATABASES={"default": entry}, USE_TZ=True)
    import django
    django.setup()
    from django.db import connection, transaction

    def run(sql, params=None):
        with connection.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchall() if cursor.description else []
"""


def alone(
    script: str,
    entry: dict[str, Any],
    *given: object,
    flags: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
) -> str:
    """Run a script in a process of its own, with "default" on this entry; what it printed."""
    program = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    told = json.dumps([entry, *given])
    done = python(*flags, "-c", program, told, environ=environ or {})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip()


# -- a function of the server that the role may not call -------------------------------------------


@pytest.fixture
def closed(server: Server) -> Iterator[str]:
    """A database that tells its users no transaction's id."""
    server.create_database("closed_ids")
    function = "pg_catalog.pg_current_xact_id_if_assigned()"
    server.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC", database="closed_ids")
    server.execute("CREATE TABLE done (value text)", database="closed_ids")
    server.execute("GRANT ALL ON done TO app", database="closed_ids")
    yield "closed_ids"
    server.drop_database("closed_ids")


def write(connection: BaseDatabaseWrapper, value: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO done VALUES (%s)", [value])


def test_a_transaction_whose_id_is_not_told_is_committed_all_the_same(
    make_connection: Connections, server: Server, closed: str
) -> None:
    connection = make_connection(RESILIENT, database=closed, commit_outcome=True)
    retry_atomic.run(lambda: write(connection, "first"), using=connection.alias)
    with transaction.atomic(using=connection.alias):
        write(connection, "second")
    found = server.execute("SELECT value FROM done ORDER BY 1", database=closed)
    assert found == [("first",), ("second",)]


def test_its_outcome_is_unknown_when_its_commit_is_lost(
    make_connection: Connections, server: Server, closed: str
) -> None:
    server.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;"
        " CREATE CONSTRAINT TRIGGER late AFTER INSERT ON done INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION die()",
        database=closed,
    )
    connection = make_connection(RESILIENT, database=closed)
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        write(connection, "lost")

    with pytest.raises(CommitOutcomeUnknown):
        retry_atomic.run(work, using=connection.alias)
    assert runs == [1]


# -- file descriptors ------------------------------------------------------------------------------

EXHAUSTED = """
    import os, resource, time
    from django.db import DataError
    from django_resilient_pg.transaction import retry_atomic
    run("SELECT 1")
    if given[0]:  # what a process has loaded that has looked at a connection before
        time.sleep(0.1)
        run("SELECT 1")
    time.sleep(0.1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    found = [run("SELECT 2"), run("SELECT 3")]
    try:
        run("SELECT 1 / 0")
    except DataError:
        found.append("refused")
    with transaction.atomic():
        run("CREATE TEMPORARY TABLE t (i int) ON COMMIT DROP")
        try:
            with transaction.atomic():
                run("SELECT 1 / 0")
        except DataError:
            found.append(run("SELECT 4"))
    found.append(retry_atomic.run(lambda: run("CREATE TEMPORARY TABLE t (i int)")))
    for fd in held:
        os.close(fd)
    print(json.dumps(found))
"""


@pytest.mark.parametrize("has_looked", [True, False])
def test_no_file_descriptor_is_left(has_looked: bool, server: Server) -> None:
    """A ping that cannot be bounded is made without; what cannot be imported is not needed."""
    options = {"resilience": {"ping_after": 0.01}}
    entry = server.database(engine=RESILIENT, options=options, CONN_MAX_AGE=None)
    found = json.loads(alone(EXHAUSTED, entry, has_looked))
    assert found == [[[2]], [[3]], "refused", [[4]], []]


# -- what is imported ------------------------------------------------------------------------------

FIRST = """
    run("SELECT 1")
    print(json.dumps([name for name in sys.modules if name.startswith("django_resilient_pg.")]))
"""
#: What only a failure needs, or a cursor of another kind.
LATE = (
    "recovery connecting.attempts policy.error_table policy.messages state.announce signals"
    " driver.exceptions cursor_classes server_cursors"
).split()


def test_the_first_query_imports_nothing_that_only_a_failure_needs(server: Server) -> None:
    """It would take longer than all the rest of that query."""
    entry = server.database(engine=RESILIENT, CONN_MAX_AGE=None)
    found = json.loads(alone(FIRST, entry))
    assert {f"django_resilient_pg.{name}" for name in LATE}.isdisjoint(found)


# -- threads ---------------------------------------------------------------------------------------

AT_EXIT = """
    import atexit, time

    @atexit.register
    def last():
        time.sleep(0.1)
        print(json.dumps(run("SELECT 1")), flush=True)

    run("SELECT 1")
"""
NO_MEMORY = """
    import threading, time
    run("SELECT 1")
    time.sleep(0.1)
    threading.stack_size(1 << 46)  # more than there are addresses
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        print(json.dumps(run("SELECT 1")))
"""


@pytest.mark.parametrize("script", [AT_EXIT, NO_MEMORY])
def test_a_statement_where_no_thread_can_be_started(script: str, server: Server) -> None:
    """When the interpreter ends (from Python 3.12 on), and when there is no room for another."""
    options = {"resilience": {"ping_after": 0.01}}
    entry = server.database(engine=RESILIENT, options=options, CONN_MAX_AGE=None)
    assert alone(script, entry) == "[[1]]"


# -- select.poll -----------------------------------------------------------------------------------

#: As eventlet leaves the module to everybody.
WITHOUT_POLL = """
    import select, time
    for name in ("poll", "epoll"):
        delattr(select, name)
    run("SELECT 1")
    time.sleep(0.1)
    print(json.dumps(run("SELECT 2")))
"""


def test_there_is_no_poll(server: Server) -> None:
    options = {"resilience": {"ping_after": 0.01}}
    entry = server.database(engine=RESILIENT, options=options, CONN_MAX_AGE=None)
    assert alone(WITHOUT_POLL, entry) == "[[2]]"


# -- a connect_timeout that is no whole number -----------------------------------------------------

DOWN = """
    from django.db import Error
    try:
        run("SELECT 1")
    except Error as error:
        print(type(error).__name__, str(error).replace(chr(10), " "))
"""


@pytest.mark.parametrize("value", ["2.5", "soon"])
def test_a_connect_timeout_as_the_driver_takes_it(
    value: object, server: Server, own_server: Server
) -> None:
    """Also where the server is down, so that the engine tries again with what time is left."""
    port = own_server.port
    own_server.stop()
    options = {"connect_timeout": value}
    stock = alone(DOWN, server.database(engine=STOCK, PORT=str(port), options=options))
    options["resilience"] = {"retry_deadline": 1.0}
    ours = alone(DOWN, server.database(engine=RESILIENT, PORT=str(port), options=options))
    assert ours == stock


# -- warnings as errors ----------------------------------------------------------------------------

ITERATOR = """
    import gc
    from django.db import Error, connections
    cursor = connection.chunked_cursor()
    cursor.execute("SELECT generate_series(1, 5000)")
    cursor.fetchmany(10)
    pid = connection.connection.info.backend_pid
    other = connections["default"].copy()
    other.cursor().execute("SELECT pg_terminate_backend(%s)", [pid])
    other.close()
    try:
        with cursor:
            while cursor.fetchmany(10):
                pass
    except Error as error:
        print("lost")
    del cursor
    gc.collect()
"""


def test_a_lost_iterator_leaves_no_warning(server: Server) -> None:
    """psycopg 3 warns of a server-side cursor that was not closed."""
    entry = server.database(engine=RESILIENT, CONN_MAX_AGE=None)
    assert alone(ITERATOR, entry, flags=("-W", "error::ResourceWarning")) == "lost"


# -- memory ----------------------------------------------------------------------------------------

LONG_TEXTS = """
    import resource
    with transaction.atomic():
        for number in range(100):
            run(f"SELECT {number} /* " + "x" * 2_000_000 + "*/")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
IN_A_UNIT = """
    import resource
    from django_resilient_pg.transaction import retry_atomic

    def work():
        for number in range(100):
            run(f"SELECT {number} /* " + "x" * 2_000_000 + "*/")

    retry_atomic.run(work)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_long_texts_are_not_kept(server: Server) -> None:
    """200 MB of them, in one transaction."""
    stock = int(alone(LONG_TEXTS, server.database(engine=STOCK)))
    for script in (LONG_TEXTS, IN_A_UNIT):
        assert int(alone(script, server.database(engine=RESILIENT))) <= 1.2 * stock
