"""What a session was told survives its loss, or the loss is raised: no other tenant's row, ever."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.db import Error, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg.errors import SessionLost, TransactionLost
from django_resilient_pg.sql.memory import HARMLESS
from testproject.postgres import Server
from tests.engines import STOCK, Connections, backend_pid, killed_midway
from tests.server.scenarios import TENANT

pytestmark = pytest.mark.once_per_driver

DATABASE = "tenants"
RETRY = "django_resilient_pg.middleware.RequestRetryMiddleware"
TENANTS = ("1", "2", "3")
POLICY = "tenant = current_setting('app.tenant', true)"
SCHEMA = [
    "CREATE TABLE public.thing (tenant text)",
    "INSERT INTO public.thing VALUES ('public')",
    *[
        sql
        for tenant in TENANTS
        for sql in (
            f"CREATE SCHEMA t{tenant} AUTHORIZATION app",
            f"CREATE TABLE t{tenant}.thing (tenant text)",
            f"INSERT INTO t{tenant}.thing VALUES ('{tenant}')",
        )
    ],
    "CREATE TABLE public.secret (id bigserial, tenant text DEFAULT current_setting('app.tenant'))",
    "INSERT INTO public.secret (tenant) VALUES ('1'), ('2'), ('3')",
    "ALTER TABLE public.secret ENABLE ROW LEVEL SECURITY",
    f"CREATE POLICY own ON public.secret USING ({POLICY}) WITH CHECK ({POLICY})",
    "GRANT ALL ON ALL TABLES IN SCHEMA public, t1, t2, t3 TO app",
    "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app",
]

Run = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def database(server: Server) -> Iterator[str]:
    server.create_database(DATABASE)
    server.execute(";".join(SCHEMA), database=DATABASE)
    for role in ("clerk", "auditor"):
        server.execute(f"CREATE ROLE {role}")
        server.execute(f"GRANT {role} TO app")
    yield DATABASE
    server.drop_database(DATABASE)
    server.execute("DROP ROLE clerk, auditor")


@pytest.fixture
def connection(database: str, make_connection: Connections) -> BaseDatabaseWrapper:
    return make_connection(database=database, CONN_MAX_AGE=None)


@pytest.fixture
def run(connection: BaseDatabaseWrapper) -> Run:
    return runner(connection)


@pytest.fixture
def kill(connection: BaseDatabaseWrapper, server: Server) -> Callable[[], None]:
    return lambda: server.terminate(backend_pid(connection))


def runner(connection: BaseDatabaseWrapper) -> Run:
    def run(sql: Any, params: Any = None) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql, params)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    return run


def shown(run: Run, name: str) -> Any:
    [(value,)] = run("SELECT current_setting(%s, true)", [name])
    return value


# -- replayed ---------------------------------------------------------------------------------

MADE: list[tuple[str, Any, str, str]] = [
    ("SET search_path TO t2, public", None, "search_path", "t2, public"),
    ("SET app.tenant = '2'", None, "app.tenant", "2"),
    ("SET app.tenant = %s", ["it's; 2"], "app.tenant", "it's; 2"),
    ("SELECT set_config('app.tenant', %s, false)", ["2"], "app.tenant", "2"),
    ("SELECT set_config(%s, %s, %s)", ["app.tenant", "2", False], "app.tenant", "2"),
    ("SET ROLE clerk", None, "role", "clerk"),
    ("SET TIME ZONE 'Asia/Tokyo'", None, "TimeZone", "Asia/Tokyo"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", None, "transaction_read_only", "on"),
    ("RESET TimeZone", None, "TimeZone", "%server"),
    ("RESET ALL", None, "TimeZone", "%server"),
    ("DISCARD ALL", None, "TimeZone", "%server"),
]


@pytest.mark.parametrize(("sql", "params", "name", "value"), MADE)
def test_a_setting_is_made_again(
    sql: str, params: Any, name: str, value: str, run: Run, kill: Any, server: Server
) -> None:
    if value == "%server":
        value = str(server.execute("SHOW TimeZone")[0][0])
        run("SET TIME ZONE 'Asia/Tokyo'")
    run(sql, params)
    assert shown(run, name) == value
    kill()
    assert shown(run, name) == value


def test_a_setting_is_made_again_before_a_read_lost_midway(
    run: Run, connection: BaseDatabaseWrapper, server: Server
) -> None:
    run("SET search_path TO t2")
    with killed_midway(server, connection):
        assert run("SELECT tenant FROM thing, pg_sleep(1)") == [("2",)]


def test_the_last_of_several_values_in_order(run: Run, kill: Any) -> None:
    for sql in ["SET ROLE auditor", "SET app.tenant = '1'", "RESET ROLE", "SET app.tenant = '3'"]:
        run(sql)
    kill()
    assert run("SELECT current_user, current_setting('app.tenant')") == [("app", "3")]


def test_a_setting_survives_a_second_loss(run: Run, kill: Any) -> None:
    run("SET app.tenant = '2'")
    for _ in range(3):
        kill()
        assert shown(run, "app.tenant") == "2"


def test_a_setting_survives_a_write_that_is_raised(
    run: Run, connection: BaseDatabaseWrapper, server: Server
) -> None:
    run("SET app.tenant = '2'")
    with killed_midway(server, connection), pytest.raises(OperationalError):
        run("INSERT INTO secret (tenant) SELECT '2' FROM pg_sleep(1)")
    assert shown(run, "app.tenant") == "2"


def test_a_setting_survives_a_lost_transaction(
    run: Run, connection: BaseDatabaseWrapper, kill: Any
) -> None:
    run("SET search_path TO t2")
    with pytest.raises(OperationalError), transaction.atomic(using=connection.alias):
        run("SELECT 1")
        kill()
        run("SELECT 1")
    assert run("SELECT tenant FROM thing") == [("2",)]


def test_a_setting_holds_in_the_first_statement_of_a_transaction(
    run: Run, connection: BaseDatabaseWrapper, server: Server
) -> None:
    run("SET search_path TO t2")
    with killed_midway(server, connection), transaction.atomic(using=connection.alias):
        run("INSERT INTO thing SELECT '2' FROM pg_sleep(1)")
        transaction.set_rollback(True, using=connection.alias)


def test_what_a_committed_transaction_set_is_made_again(
    run: Run, connection: BaseDatabaseWrapper, kill: Any
) -> None:
    with transaction.atomic(using=connection.alias):
        run("SET app.tenant = '1'")
        with pytest.raises(KeyError), transaction.atomic(using=connection.alias):
            run("SET app.tenant = '2'")
            raise KeyError
    assert shown(run, "app.tenant") == "1"
    kill()
    assert shown(run, "app.tenant") == "1"


BY_HAND = [
    "END",
    " END",
    "END WORK",
    "COMMIT",
    "\tcommit and chain",
    "ABORT",
    "ROLLBACK",
    "\n ROLLBACK",
    "/* x */ ROLLBACK",
    "-- x\nROLLBACK;",
    "ROLLBACK AND CHAIN",
    "ROLLBACK TO own",
    "\nROLLBACK TO SAVEPOINT own",
    "SAVEPOINT other",
    "RELEASE own",
    " RELEASE SAVEPOINT own",
    "SELECT 1; ROLLBACK",
]


@pytest.mark.parametrize("replaced", ["in autocommit", "in the transaction"])
@pytest.mark.parametrize("text", BY_HAND)
def test_a_transaction_ended_by_hand_shows_no_other_tenants_row(
    text: str, replaced: str, run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    run("SET app.tenant = '1'")
    if replaced == "in the transaction":
        HARMLESS.clear()  # or else the texts are known from the first time
    with transaction.atomic(using=connection.alias):
        run("SAVEPOINT own")
        run("SET app.tenant = '2'")
        run(text)
        if replaced == "in the transaction":
            run("SELECT 1")
    [(live,)] = run("SELECT current_setting('app.tenant')")
    kill()
    with suppress(SessionLost):
        assert run("SELECT current_setting('app.tenant')") == [(live,)]


@pytest.mark.parametrize("replaced", ["within the block", "after it"])
@pytest.mark.parametrize(
    "change",
    [
        "SET app.tenant = '2'",
        "SELECT set_config('app.tenant', '2', false)",
        "SET ROLE clerk",
        "RESET app.tenant",
    ],
)
@pytest.mark.parametrize("text", ["COMMIT", "END", "ROLLBACK", "SELECT 1; COMMIT"])
def test_what_is_set_after_a_transaction_was_ended_by_hand_is_not_lost_silently(
    text: str, change: str, replaced: str, run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    """psycopg2 takes no notice of the end, so that it takes effect at once."""
    ask = "SELECT current_setting('app.tenant'), current_user"
    run("SET app.tenant = '1'")
    with suppress(Error):
        with transaction.atomic(using=connection.alias):
            run("SELECT 1")
            run(text)
            run(change)
            live = run(ask)
            if replaced == "within the block":
                kill()
        if replaced == "after it":
            kill()
        assert run(ask) == live


@pytest.mark.parametrize("how", ["rolled back", "failed and committed", "SET LOCAL", "lost"])
def test_what_did_not_outlive_its_transaction_is_not_made_again(
    how: str, run: Run, connection: BaseDatabaseWrapper, kill: Any
) -> None:
    run("SET app.tenant = '1'")
    try:
        with transaction.atomic(using=connection.alias):
            run("SET LOCAL app.tenant = '2'" if how == "SET LOCAL" else "SET app.tenant = '2'")
            if how == "rolled back":
                transaction.set_rollback(True, using=connection.alias)
            elif how == "failed and committed":
                with pytest.raises(Error):
                    run("SELECT 1 / 0")
            elif how == "lost":
                kill()
    except TransactionLost:
        assert how == "lost"
    for _ in range(2):
        assert shown(run, "app.tenant") == "1"
        kill()


def test_replay_comes_after_djangos_own_settings_and_receivers(
    database: str, make_connection: Connections, server: Server
) -> None:
    connection = make_connection(
        database=database,
        CONN_MAX_AGE=None,
        TIME_ZONE="Europe/Paris",
        options={"assume_role": "clerk"},
    )
    run = runner(connection)

    def receive(connection: BaseDatabaseWrapper, **_: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET app.tenant = 'default'")

    connection_created.connect(receive)
    try:
        assert run("SELECT current_user") == [("clerk",)]
        server.terminate(backend_pid(connection))
        assert run("SELECT current_user") == [("clerk",)]
        assert shown(run, "TimeZone") == "Europe/Paris"
        assert shown(run, "app.tenant") == "default"
        run("SET ROLE NONE")
        run("SET app.tenant = 'own'")
        run("SET TIME ZONE 'Asia/Tokyo'")
        server.terminate(backend_pid(connection))
        assert run("SELECT current_user") == [("app",)]
        assert shown(run, "TimeZone") == "Asia/Tokyo"
        assert shown(run, "app.tenant") == "own"
    finally:
        connection_created.disconnect(receive)


@pytest.mark.parametrize("how", ["SET datestyle = %s", "SELECT set_config('datestyle', %s, false)"])
def test_a_setting_that_is_given_in_parts(how: str, run: Run, kill: Any) -> None:
    for part in ["DMY", "German", "ISO", "German"]:
        run(how, [part])
    kill()
    assert run("SHOW datestyle") == [("German, DMY",)]


def test_session_authorization_is_made_again(
    database: str, make_connection: Connections, server: Server
) -> None:
    connection = make_connection(database=database, user=server.superuser, CONN_MAX_AGE=None)
    run = runner(connection)
    run("SET SESSION AUTHORIZATION clerk")
    server.terminate(backend_pid(connection))
    assert run("SELECT session_user, current_user") == [("clerk", "clerk")]


def test_composed_sql_is_read_as_it_is_sent(run: Run, kill: Any) -> None:
    from django.db.backends.postgresql.psycopg_any import sql

    run(sql.SQL("SET search_path TO {}").format(sql.Identifier("t2")))
    kill()
    assert run("SELECT tenant FROM thing") == [("2",)]


# -- raised -----------------------------------------------------------------------------------

PINS = [
    ("CREATE TEMP TABLE basket (x int)", "CREATE TEMP TABLE"),
    ("SELECT pg_advisory_lock(42)", "pg_advisory_lock"),
    ("LISTEN news", "LISTEN news"),
    ("PREPARE one AS SELECT 1", "PREPARE one"),
    ("DECLARE held CURSOR WITH HOLD FOR SELECT 1", "DECLARE held"),
    ("SELECT set_config('app.tenant', tenant, false) FROM public.secret", "set_config"),
    ("SELECT 1; SET app.tenant = '1'", "SET app.tenant"),
    ("DO $$ BEGIN PERFORM set_config('app.tenant', '1', false); END $$", "set_config"),
]


@pytest.mark.parametrize(("sql", "named"), PINS)
def test_what_cannot_be_made_again_is_raised_and_named(
    sql: str, named: str, run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    run("SET search_path TO t2, public")
    run(sql)
    kill()
    for _ in range(2):
        with pytest.raises(SessionLost, match=named):
            run("SELECT 1")
    connection.close()
    assert run("SELECT tenant FROM thing") == [("public",)], "clean"


LET_GO = [
    ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(%s)", [7]),
    ("SELECT pg_try_advisory_lock(7)", "SELECT pg_advisory_unlock_all()", None),
    ("LISTEN news", "UNLISTEN *", None),
    ("CREATE TEMP TABLE basket (x int)", "DISCARD ALL", None),
]


@pytest.mark.parametrize(("taken", "sql", "params"), LET_GO)
def test_what_was_let_go_of_does_not_pin(
    taken: str, sql: str, params: Any, run: Run, kill: Any
) -> None:
    for _ in range(2):
        run(taken)
        run(sql, params)
        kill()
        assert run("SELECT 5") == [(5,)]


def test_a_named_cursor_lets_go_of_nothing_before_its_rows_are_fetched(
    run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    run("SELECT pg_advisory_lock(7)")
    with transaction.atomic(using=connection.alias), connection.chunked_cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all()")
    assert run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(1,)]
    kill()
    with pytest.raises(SessionLost, match="pg_advisory_lock"):
        run("SELECT 5")


def test_what_ends_with_its_transaction_or_takes_something_away_leaves_nothing(
    run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        for sql in ["DECLARE c CURSOR FOR SELECT 1", "FETCH ALL FROM c", "CLOSE c"]:
            run(sql)
    for sql in ["CLOSE ALL", "UNLISTEN *", "DEALLOCATE ALL"]:
        run(sql)
    kill()
    assert run("SELECT 5") == [(5,)]


def test_it_stays_raised_after_a_lost_transaction(
    run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    run("CREATE TEMP TABLE thing (tenant text)")
    with pytest.raises(OperationalError), transaction.atomic(using=connection.alias):
        run("INSERT INTO thing VALUES ('mine')")
        kill()
        run("SELECT tenant FROM thing")
    with pytest.raises(SessionLost, match="CREATE TEMP TABLE"):
        run("SELECT tenant FROM thing")


def test_a_transaction_begun_by_hand_pins(run: Run, kill: Any) -> None:
    for sql in ["BEGIN", "SET app.tenant = '2'", "ROLLBACK"]:
        run(sql)
    kill()
    with pytest.raises(SessionLost, match=r"SET app\.tenant"):
        run("SELECT 1")


def test_without_replay_a_setting_pins(
    database: str, make_connection: Connections, server: Server
) -> None:
    connection = make_connection(database=database, replay_session=False)
    run = runner(connection)
    run("SET app.tenant = '2'")
    server.terminate(backend_pid(connection))
    with pytest.raises(SessionLost, match=r"SET app\.tenant"):
        run("SELECT 1")


def test_a_commit_of_unknown_outcome_pins(
    run: Run, connection: BaseDatabaseWrapper, server: Server
) -> None:
    run("CREATE TABLE IF NOT EXISTS t1.late (x int)")
    run(
        "CREATE OR REPLACE FUNCTION t1.slow() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END'"
    )
    run(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t1.late DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION t1.slow()"
    )
    try:
        with pytest.raises(Error), transaction.atomic(using=connection.alias):
            run("SET app.tenant = '2'")
            run("INSERT INTO t1.late VALUES (1)")
            pid = backend_pid(connection)
            threading.Timer(0.3, server.terminate, [pid]).start()
        with pytest.raises(SessionLost, match="whose COMMIT was lost"):
            run("SELECT 1")
    finally:
        server.execute("DROP TABLE t1.late", database=DATABASE)


@pytest.mark.parametrize(
    "sql",
    [
        "SET default_transaction_read_only = on",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    ],
)
def test_a_session_that_is_read_only_by_its_own_wish_is_not_taken_for_a_standbys(
    sql: str, run: Run, connection: BaseDatabaseWrapper
) -> None:
    run(sql)
    pid = backend_pid(connection)
    with pytest.raises(Error), transaction.atomic(using=connection.alias):
        run("INSERT INTO t1.thing VALUES ('1')")
    assert backend_pid(connection) == pid


def test_a_setting_that_the_server_refuses_is_raised(
    run: Run, kill: Any, connection: BaseDatabaseWrapper, server: Server
) -> None:
    run("SET ROLE auditor")
    server.execute("REVOKE auditor FROM app")
    try:
        kill()
        for _ in range(2):
            with pytest.raises(SessionLost, match=r"SET role\) \[\w{5}\]\."):
                run("SELECT 1")
        assert connection.connection is None, "given up"
        connection.close()
        assert run("SELECT current_user") == [("app",)]
    finally:
        server.execute("GRANT auditor TO app")


@pytest.mark.parametrize("sql", ["SET app.tenant = '2'", "CREATE TEMP TABLE x ()"])
def test_djangos_boundary_starts_clean(
    sql: str, run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    run(sql)
    kill()
    connection.close_if_unusable_or_obsolete()
    assert shown(run, "app.tenant") in (None, "")


def test_djangos_boundary_keeps_what_the_session_still_has(
    run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    run("SET app.tenant = '2'")
    pid = backend_pid(connection)
    connection.close_if_unusable_or_obsolete()
    assert (shown(run, "app.tenant"), backend_pid(connection)) == ("2", pid)
    kill()
    assert shown(run, "app.tenant") == "2"


# -- the stock engine beside it -----------------------------------------------------------------


def test_the_stock_engine_fails_and_a_new_connection_shows_what_is_not_ones_own(
    database: str, make_connection: Connections, server: Server
) -> None:
    """Why it matters: reconnecting by itself does not fail, it reads from the wrong schema."""
    connection = make_connection(STOCK, database=database, CONN_MAX_AGE=None)
    run = runner(connection)
    run("SET search_path TO t2, public")
    server.terminate(backend_pid(connection))
    with pytest.raises(Error):
        run("SELECT tenant FROM thing")
    connection.close()
    assert run("SELECT tenant FROM thing") == [("public",)]


ROUNDS = 1000
STATEMENTS = 6  # between two kills, on average


class Killer(threading.Thread):
    """Ends the sessions of one database at random moments, until it is told to stop.

    A random number of statements (:meth:`counted`) lies between two of them, however long those
    take: on a busy machine as many get through as on an idle one.
    """

    def __init__(self, server: Server, database: str, *, one: bool = False) -> None:
        super().__init__(name="killer")
        self.stop, self.killed = threading.Event(), 0
        self._most = "ORDER BY random() LIMIT 1" if one else ""
        self._server, self._database = server, database
        self._statements = 0

    def counted(self, run: Run) -> Run:
        def counting(sql: Any, params: Any = None) -> list[tuple[Any, ...]]:
            self._statements += 1
            return run(sql, params)

        return counting

    def run(self) -> None:
        luck = random.Random(5)
        while not self.stop.is_set():
            due = self._statements + luck.randrange(1, 2 * STATEMENTS)
            while self._statements < due and not self.stop.wait(0.0005):
                pass
            self.stop.wait(luck.uniform(0.0, 0.002))
            sql = (
                "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
                f" WHERE datname = %s AND backend_type = 'client backend' {self._most}) AS chosen"
            )
            self.killed += self._server.execute(sql, [self._database])[0][0]


@pytest.mark.slow
def test_never_another_tenants_row(
    database: str, make_connection: Connections, server: Server
) -> None:
    """Random kills around every statement: right, or raised, and mostly right."""
    connection = make_connection(database=database, CONN_MAX_AGE=None, retry_deadline=30)
    luck = random.Random(4)
    wrong: list[Any] = []
    raised = right = 0
    killer = Killer(server, database)
    run = killer.counted(runner(connection))
    killer.start()
    try:
        for number in range(ROUNDS):
            tenant = luck.choice(TENANTS)
            try:
                run(f"SET search_path TO t{tenant}, public")
                run("SELECT set_config('app.tenant', %s, false)", [tenant])
                if luck.random() < 0.2:
                    time.sleep(luck.uniform(0, 0.02))
                found = [
                    *run("SELECT tenant FROM thing"),
                    *run("SELECT DISTINCT tenant FROM public.secret"),
                ]
                if number % 5 == 0:
                    with transaction.atomic(using=connection.alias):
                        sql = "INSERT INTO public.secret DEFAULT VALUES RETURNING tenant"
                        found += run(sql)
                        found += run("SELECT tenant FROM thing")
            except Error:
                raised += 1
                if luck.random() < 0.5:
                    connection.close()  # as a new request
                continue
            right += 1
            if any(row != (tenant,) for row in found):
                wrong.append((tenant, found))
    finally:
        killer.stop.set()
        killer.join()
    assert wrong == []
    assert killer.killed > 100
    assert right > ROUNDS * 0.5, (right, raised)


class Request(threading.Thread):
    """Requests one after the other on a small pool; some set a tenant, others set nothing."""

    def __init__(self, alias: str, seed: int, rounds: int, killer: Killer) -> None:
        super().__init__(name=f"requests {seed}")
        self.wrong: list[Any] = []
        self.right = self.raised = 0
        self._alias, self._luck, self._rounds = alias, random.Random(seed), rounds
        self._killer = killer

    def run(self) -> None:
        connection = connections[self._alias]
        for _ in range(self._rounds):
            try:
                self._one(self._killer.counted(runner(connection)))
                self.right += 1
            except Error:
                self.raised += 1
            connection.close()

    def _one(self, run: Run) -> None:
        tenant = self._luck.choice([*TENANTS, ""])
        if tenant:
            run("SELECT set_config('app.tenant', %s, false)", [tenant])
        (start,) = run(TENANT)
        expected = {(tenant,)} if tenant else {start, ("",)}
        for _ in range(self._luck.randrange(5)):
            if self._luck.random() < 0.3:
                time.sleep(self._luck.uniform(0, 0.02))
            try:
                (found,) = run(TENANT)
            except Error:
                self.raised += 1
                continue  # a view that goes on after an error
            if found not in expected:
                self.wrong.append((tenant, start, found))
            expected = {found} if found == ("",) else expected


@pytest.mark.slow
@pytest.mark.psycopg3
def test_never_another_tenants_setting_on_a_pool(
    database: str, make_connection: Connections, server: Server
) -> None:
    """A request may find at its start what others have left on a pool, and nothing later on."""
    pool = {"min_size": 3, "max_size": 3}
    connection = make_connection(database=database, options={"pool": pool}, retry_deadline=30)
    connection.ensure_connection()
    connection.close()
    killer = Killer(server, database, one=True)
    requests = [Request(connection.alias, seed, ROUNDS // 2, killer) for seed in range(3)]
    killer.start()
    for request in requests:
        request.start()
    for request in requests:
        request.join()
    killer.stop.set()
    killer.join()
    assert [request.wrong for request in requests] == [[], [], []]
    assert killer.killed > 50
    assert min(request.right for request in requests) > ROUNDS * 0.25


# -- a request that is run again ------------------------------------------------------------------

_REQUEST: dict[str, Any] = {}
urlpatterns = [path("", lambda request: _REQUEST["view"](request))]


def outer(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """A middleware that says whose request it is."""

    def middleware(request: HttpRequest) -> HttpResponse:
        _REQUEST["run"](_REQUEST["sql"])
        return get_response(request)

    return middleware


@pytest.mark.parametrize("own", ["SELECT 1", "SET app.tenant = '2'"])
def test_a_request_run_again_finds_what_an_outer_middleware_had_set(
    own: str, run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    """What the request itself had set before the loss is not there any more."""
    seen: list[Any] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(run("SELECT current_setting('app.tenant')"))
        run(own)
        with transaction.atomic(using=connection.alias):
            run("SELECT 1")
            if len(seen) == 1:
                kill()
            return HttpResponse(str(run("SELECT DISTINCT tenant FROM public.secret")))

    _REQUEST.update(view=view, run=run, sql="SET app.tenant = '1'")
    with override_settings(MIDDLEWARE=[f"{__name__}.outer", RETRY], ROOT_URLCONF=__name__):
        assert Client().get("/").status_code == 200
    assert seen == [[("1",)], [("1",)]]


def test_a_request_is_not_run_again_without_an_outer_middlewares_lock(
    run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        run("SELECT 1")
        kill()
        return HttpResponse(str(run("SELECT 1")))

    _REQUEST.update(view=view, run=run, sql="SELECT pg_advisory_lock(1)")
    with (
        override_settings(MIDDLEWARE=[f"{__name__}.outer", RETRY], ROOT_URLCONF=__name__),
        pytest.raises(SessionLost, match="pg_advisory_lock"),
    ):
        Client().get("/")


# -- temporary tables -------------------------------------------------------------------------

TEMP_PATHS: list[tuple[str, Any]] = [
    ("SET search_path TO pg_temp, public", None),
    ("set search_path = PG_TEMP, public", None),
    ("SET SCHEMA 'pg_temp'", None),
    ("SELECT set_config('search_path', 'pg_temp, public', false)", None),
    ("SELECT set_config('search_path', %s, false)", ["pg_temp, public"]),
]


@pytest.mark.parametrize(("sql", "params"), TEMP_PATHS)
def test_a_path_that_begins_with_temporary_tables_pins(
    sql: str, params: Any, run: Run, kill: Any
) -> None:
    run(sql, params)
    run("CREATE TABLE thing AS SELECT 'own' AS tenant")
    assert run("SELECT * FROM thing") == [("own",)]
    kill()
    with pytest.raises(SessionLost, match="pg_temp"):
        run("SELECT * FROM thing")


def test_a_path_of_one_transaction_leaves_its_tables(
    run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        run("SET LOCAL search_path TO pg_temp, public")
        run("CREATE TABLE own ()")
    kill()
    with pytest.raises(SessionLost, match="pg_temp"):
        run("SELECT * FROM own")


TEMPORARY = ["CREATE TEMP TABLE own ()", "SELECT 1 INTO TEMP own"]


@pytest.mark.parametrize("sql", TEMPORARY)
@pytest.mark.parametrize("how", ["rolled back", "to a savepoint", "failed"])
def test_a_temporary_table_that_was_taken_back_does_not_pin(
    sql: str, how: str, run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        run("SELECT 1")
        with suppress(KeyError, Error), transaction.atomic(using=connection.alias):
            run(sql)
            if how == "failed":
                run("SELECT 1/0")
            elif how == "to a savepoint":
                raise KeyError
        if how == "rolled back":
            transaction.set_rollback(True, using=connection.alias)
    kill()
    assert run("SELECT 5") == [(5,)]


@pytest.mark.parametrize("sql", TEMPORARY)
def test_a_temporary_table_that_was_committed_pins(
    sql: str, run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        run(sql)
    kill()
    with pytest.raises(SessionLost, match="TEMP"):
        run("SELECT 5")


def test_a_temporary_table_dropped_on_commit_does_not_pin(
    run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        run("CREATE TEMP TABLE own (x int)\nON  COMMIT DROP")
        run("INSERT INTO own VALUES (1)")
    kill()
    assert run("SELECT 5") == [(5,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pg_advisory_lock(7)",
        "CREATE TEMP TABLE own AS SELECT pg_try_advisory_lock(7)",
        "CREATE TEMP TABLE own (); SELECT pg_advisory_lock(7)",
        "CREATE TEMP TABLE own ON COMMIT DROP AS SELECT pg_try_advisory_lock(7)",
    ],
)
def test_a_lock_survives_a_rollback_and_pins(
    sql: str, run: Run, kill: Any, connection: BaseDatabaseWrapper
) -> None:
    with transaction.atomic(using=connection.alias):
        run(sql)
        transaction.set_rollback(True, using=connection.alias)
    assert run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(1,)]
    kill()
    with pytest.raises(SessionLost):
        run("SELECT 5")
