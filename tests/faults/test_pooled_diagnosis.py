"""The diagnosis behind a real PgBouncer: its mode, and what the drill and the probe do there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction

from django_resilient_pg.diagnosis.drill.drill import drill
from django_resilient_pg.diagnosis.findings import findings
from django_resilient_pg.diagnosis.idle_probe.advice import sentences
from django_resilient_pg.diagnosis.idle_probe.probe import Progress, probe_idle
from django_resilient_pg.diagnosis.idle_probe.sessions import opener
from django_resilient_pg.diagnosis.idle_probe.shares import share_of
from django_resilient_pg.diagnosis.path.attempts import Connector, attempt
from django_resilient_pg.diagnosis.path.poolers import Pooler
from django_resilient_pg.diagnosis.path.stages import Stage
from django_resilient_pg.diagnosis.survey.gather import survey
from django_resilient_pg.diagnosis.survey.survey import Survey
from testproject.postgres import Server
from tests.engines import DRIVER, STOCK, Connections
from tests.faults.pgbouncer import PgBouncer

pytestmark = pytest.mark.needs("pgbouncer")
FORCED = "user=forced pool_mode=transaction"


@pytest.fixture
def forced(server: Server) -> Iterator[None]:
    server.execute(f"CREATE ROLE forced LOGIN PASSWORD '{server.password}'")
    yield
    server.terminate_all("app")
    server.execute("DROP ROLE forced")


@contextmanager
def pooled(server: Server, made: Connections, **settings: Any) -> Iterator[str]:
    """An alias that leads through PgBouncer."""
    with PgBouncer(server, **settings) as bouncer:
        yield made(STOCK, PORT=str(bouncer.port), CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True).alias


def pooler(seen: Survey) -> Pooler:
    assert seen.pooler is not None
    return seen.pooler


# -- the mode ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("forced")
def test_the_mode_of_the_database_not_the_general_one(
    server: Server, make_connection: Connections
) -> None:
    """PgBouncer logs in as somebody else, and lists the pool under that name."""
    with pooled(server, make_connection, console=True, database=FORCED) as alias:
        found = pooler(survey(alias))
        assert found.mode == "transaction"
        assert "database" in found.evidence
        assert dict(found.settings)["pool_mode"] == "session"


@pytest.mark.parametrize("console", [True, False])
@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_the_mode_with_and_without_the_console(
    server: Server, make_connection: Connections, mode: str, console: bool
) -> None:
    with pooled(server, make_connection, console=console, pool_mode=mode) as alias:
        found = pooler(survey(alias))
        assert found.mode == mode
        assert bool(found.settings) is console


LOGIN: dict[str, str] = {}


def current(alias: str) -> dict[str, str]:
    return LOGIN


def test_the_mode_is_that_of_the_user_whom_the_credentials_name(
    server: Server, make_connection: Connections
) -> None:
    LOGIN.update(user="app", password=server.password)
    with pooled(server, make_connection, console=True) as alias:
        port = connections[alias].settings_dict["PORT"]
        own: dict[str, Any] = {"USER": "somebody-else", "credentials": f"{__name__}.current"}
        found = pooler(survey(make_connection(PORT=port, **own).alias))
        assert found.mode == "session"
        assert "console shows pool_mode" in found.evidence


def test_a_pool_that_is_used_up_leaves_the_rest_known(
    server: Server, make_connection: Connections
) -> None:
    """The second session waits for the server that the first one holds: 120 s, if it were let."""
    with pooled(server, make_connection, default_pool_size=1) as alias:
        began = time.monotonic()
        seen = survey(alias)
        assert time.monotonic() - began < 20
        assert pooler(seen).mode is None
        assert "second session got no server" in pooler(seen).evidence
        assert seen.server is not None
        assert seen.server.max_connections


def test_statement_mode_is_an_error(server: Server, make_connection: Connections) -> None:
    """Every atomic() fails there, with whatever engine."""
    with pooled(server, make_connection, pool_mode="statement") as alias:
        ids = [one.id for one in findings(survey(alias))]
        with pytest.raises(DatabaseError), transaction.atomic(using=alias):
            connections[alias].cursor().execute("SELECT 1")
        connections[alias].close()
    assert "resilient_pg.E012" in ids
    with pooled(server, make_connection, pool_mode="transaction") as alias:
        assert "resilient_pg.E012" not in [one.id for one in findings(survey(alias))]


def refused(alias: str) -> Stage:
    walk = survey(alias).walk
    assert walk is not None
    assert walk.failed is not None
    return walk.failed


@pytest.mark.usefixtures("forced")
def test_the_words_of_a_pooler_that_cannot_log_in_are_shown(
    server: Server, make_connection: Connections
) -> None:
    with pooled(server, make_connection, database="user=forced password=old") as alias:
        failed = refused(alias)
    assert failed.name == "authentication"
    assert failed.detail == 'Password authentication failed for user "forced".'
    assert "with which the pooler logs in to the server" in failed.advice


@pytest.mark.usefixtures("forced")
def test_the_words_of_a_pooler_that_has_lost_its_server_are_shown(
    server: Server, make_connection: Connections
) -> None:
    """It lets everybody in, and ends the first statement after some time."""
    with pooled(server, make_connection, database="user=forced", query_wait_timeout=1) as alias:
        assert survey(alias).walk.exit_status == 0
        server.execute("ALTER ROLE forced PASSWORD 'changed'")
        server.terminate_all("app")
        failed = refused(alias)
    assert failed.name == "settings of the server"
    assert "first statement closed the connection" in failed.detail
    if DRIVER == "psycopg":  # libpq 17 does not always hear the last words, over TLS
        assert "query_wait_timeout" in failed.detail


# -- the drill --------------------------------------------------------------------------------


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("console", [True, False])
def test_no_drill_where_sessions_are_shared(
    server: Server, make_connection: Connections, console: bool
) -> None:
    with pooled(server, make_connection, console=console, database=FORCED) as alias:
        seen = survey(alias)
        before = server.backends("app")
        result = drill(seen)
        assert "transaction mode" in result.refusal
        assert not result.survived
        assert before
        assert set(before) <= set(server.backends("app"))


def test_no_drill_where_the_mode_is_not_known(server: Server, make_connection: Connections) -> None:
    with pooled(server, make_connection, default_pool_size=1) as alias:
        result = drill(survey(alias))
        assert "mode is unknown" in result.refusal
        assert "without the pooler" in result.refusal
        assert not result.steps


def test_no_drill_without_servers_for_two_sessions(
    server: Server, make_connection: Connections
) -> None:
    """Known to be session mode, but the pool has one server: nothing waits for a second one."""
    with pooled(server, make_connection, console=True, default_pool_size=1) as alias:
        seen = survey(alias)
        assert pooler(seen).mode == "session"
        began = time.monotonic()
        result = drill(seen)
        assert time.monotonic() - began < 30
        assert "two sessions at a time" in result.refusal


def test_the_drill_in_session_mode(server: Server, make_connection: Connections) -> None:
    with pooled(server, make_connection, console=True) as alias:
        result = drill(survey(alias))
        assert [step.survived for step in result.steps] == [False] * 4, result.sentences


def test_threads_end_with_it(server: Server, make_connection: Connections) -> None:
    with pooled(server, make_connection, console=True, default_pool_size=1) as alias:
        drill(survey(alias))
    deadline = time.monotonic() + 5
    names = {"checkdbconn", "checkdbconn drill"}
    while any(each.name in names for each in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- the probe --------------------------------------------------------------------------------


class Application:
    """Asks through the pooler while the probe waits."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.seconds: float | None = None

    def __call__(self, progress: Progress) -> None:
        if self.seconds is None and progress.seconds > 2.5:
            began = time.monotonic()
            link, _ = attempt(Connector.of(connections[self.alias]), {}, 5.0)
            link.ping(5.0)
            self.seconds = time.monotonic() - began
            link.close()


@pytest.mark.parametrize("size", [1, 4, 20])
@pytest.mark.parametrize("console", [True, False])
def test_the_probe_leaves_the_application_its_servers(
    server: Server, make_connection: Connections, size: int, console: bool
) -> None:
    """A session that waits for a server is not one that died of idleness."""
    with pooled(server, make_connection, console=console, default_pool_size=size) as alias:
        seen = survey(alias)
        share = share_of(seen)
        assert share is not None
        application = Application(alias)
        connect = opener(Connector.of(connections[alias]), 5.0)
        result = probe_idle(connect, 5.0, share=share, report=application)
    assert result.off.died is None
    assert result.on.died is None
    assert result.off.survived >= 5.0
    assert result.sessions == {1: 1, 4: 2, 20: 10 if console else 4}[size]
    assert f"{result.sessions} session" in " ".join(sentences(result))
    assert application.seconds is not None
    if size > 1:
        assert application.seconds < 4.0, "all 5 s of the probe"


def test_idle_sessions_hold_no_server_of_a_transaction_pooler(
    server: Server, make_connection: Connections
) -> None:
    with pooled(server, make_connection, pool_mode="transaction") as alias:
        assert share_of(survey(alias)) is None
    assert share_of(survey(make_connection().alias)) is None
