"""No other tenant's row, ever: at random kills, on a pool, and in a request that is replayed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg.errors import SessionLost
from testproject.postgres import Server
from tests.engines import OURS, STOCK, Connections, backend_pid
from tests.server.scenarios import TENANT
from tests.server.state.tenants import TENANTS, Run, runner

pytestmark = pytest.mark.once_per_driver


# -- the stock engine beside it --------------------------------------------------------------------


def test_the_stock_engine_fails_and_a_new_connection_shows_what_is_not_ones_own(
    tenants: str, make_connection: Connections, server: Server
) -> None:
    """Why it matters: reconnecting by itself does not fail, it reads from the wrong schema."""
    connection = make_connection(STOCK, database=tenants, CONN_MAX_AGE=None)
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


@pytest.mark.campaign
def test_never_another_tenants_row(
    tenants: str, make_connection: Connections, server: Server
) -> None:
    """Random kills around every statement: right, or raised, and mostly right."""
    connection = make_connection(database=tenants, CONN_MAX_AGE=None, retry_deadline=30)
    luck = random.Random(4)
    wrong: list[Any] = []
    raised = right = 0
    killer = Killer(server, tenants)
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


@pytest.mark.campaign
@pytest.mark.psycopg3
def test_never_another_tenants_setting_on_a_pool(
    tenants: str, make_connection: Connections, server: Server
) -> None:
    """A request may find at its start what others have left on a pool, and nothing later on."""
    pool = {"min_size": 3, "max_size": 3}
    connection = make_connection(database=tenants, options={"pool": pool}, retry_deadline=30)
    connection.ensure_connection()
    connection.close()
    killer = Killer(server, tenants, one=True)
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


# -- a request that is run again -------------------------------------------------------------------


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
    own: str, run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    """What the request itself had set before the loss is not there any more."""
    seen: list[Any] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(run("SELECT current_setting('app.tenant')"))
        run(own)
        with transaction.atomic(using=connection.alias):
            run("SELECT 1")
            if len(seen) == 1:
                kill_session()
            return HttpResponse(str(run("SELECT DISTINCT tenant FROM public.secret")))

    _REQUEST.update(view=view, run=run, sql="SET app.tenant = '1'")
    with override_settings(MIDDLEWARE=[f"{__name__}.outer", OURS], ROOT_URLCONF=__name__):
        assert Client().get("/").status_code == 200
    assert seen == [[("1",)], [("1",)]]


def test_a_request_is_not_run_again_without_an_outer_middlewares_lock(
    run: Run, kill_session: Any, connection: BaseDatabaseWrapper
) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        run("SELECT 1")
        kill_session()
        return HttpResponse(str(run("SELECT 1")))

    _REQUEST.update(view=view, run=run, sql="SELECT pg_advisory_lock(1)")
    with (
        override_settings(MIDDLEWARE=[f"{__name__}.outer", OURS], ROOT_URLCONF=__name__),
        pytest.raises(SessionLost, match="pg_advisory_lock"),
    ):
        Client().get("/")
