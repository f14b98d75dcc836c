"""The drill, on real servers: what survives on this engine, and is lost on Django's own."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from django.db import connections

from django_resilient_pg.diagnosis.drill.cases import CASES
from django_resilient_pg.diagnosis.drill.drill import DrillResult, drill
from django_resilient_pg.diagnosis.drill.terminator import Impossible, Terminator, Victim
from django_resilient_pg.diagnosis.path.attempts import Connector, attempt
from django_resilient_pg.diagnosis.survey.gather import survey
from django_resilient_pg.driver.choose import link_to
from testproject import guard
from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections, backend_pid, until

pytestmark = pytest.mark.once_per_driver


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """One of its own, to see what is left in it."""
    server.create_database("drill")
    yield "drill"
    server.terminate_all("drill")
    server.drop_database("drill")


def drilled(alias: str) -> DrillResult:
    return drill(survey(alias))


def test_everything_survives_on_this_engine(make_connection: Connections) -> None:
    result = drilled(make_connection(RESILIENT).alias)
    assert [step.survived for step in result.steps] == [True] * 4, result.sentences
    assert result.survived
    for sentence in result.sentences:
        assert re.search(r"recovered in \d+ ms \(\d+ ms without a loss\)\.$", sentence)


def test_nothing_survives_on_djangos_own(make_connection: Connections) -> None:
    result = drilled(make_connection(STOCK).alias)
    assert [step.survived for step in result.steps] == [False] * 4, result.sentences
    assert not result.survived
    assert all("failed after" in sentence for sentence in result.sentences)
    assert "OperationalError" in result.sentences[0]


def test_its_times_are_of_the_recovery_alone(
    make_connection: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to terminate the session."""
    terminate = Terminator.end

    def slowly(self: Terminator, victim: Victim) -> None:
        time.sleep(1)
        terminate(self, victim)

    monkeypatch.setattr(Terminator, "end", slowly)
    monkeypatch.setattr("django_resilient_pg.diagnosis.drill.drill.CASES", CASES[:2])
    result = drilled(make_connection(RESILIENT).alias)
    assert [step.survived for step in result.steps] == [True, True], result.sentences
    assert all(step.seconds is not None and step.seconds < 1 for step in result.steps)


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_only_its_own_sessions_are_touched(
    make_connection: Connections, server: Server, database: str, engine: str
) -> None:
    mine = make_connection(engine, database=database)
    mine.ensure_connection()
    pid = backend_pid(mine)
    drilled(mine.alias)
    assert connections[mine.alias] is mine
    assert backend_pid(mine) == pid
    until(lambda: server.backends(database) == [pid], "sessions of the drill are left")
    with mine.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'django_resilient%'")
        assert cursor.fetchone() == (0,)


def test_what_the_role_may_not_do_is_not_counted_as_a_loss(
    make_connection: Connections, server: Server, database: str
) -> None:
    server.execute(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    server.execute("CREATE ROLE drilled LOGIN PASSWORD 'drilled'")
    try:
        made = make_connection(database=database, user="drilled", PASSWORD="drilled")
        result = drilled(made.alias)
    finally:
        connections[made.alias].close()
        server.execute("DROP ROLE drilled")
    assert [step.survived for step in result.steps] == [True, True, None, None]
    assert not result.failed
    assert not result.survived  # not shown
    assert "permission denied" in result.sentences[2]


RIGHTS = ("FUNCTION pg_terminate_backend(int, bigint)", "TABLE pg_stat_activity")


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
@pytest.mark.parametrize("right", RIGHTS)
def test_a_right_that_the_second_session_lacks_is_named(
    make_connection: Connections, server: Server, database: str, right: str, engine: str
) -> None:
    server.execute(f"REVOKE ALL ON {right} FROM PUBLIC", database=database)
    result = drilled(make_connection(engine, database=database).alias)
    told = " ".join(result.sentences)
    assert not result.survived
    assert "session is lost" not in told
    assert "was refused. InsufficientPrivilege: permission denied for " in told
    assert "The role needs EXECUTE on pg_terminate_backend and SELECT" in told


def test_an_answer_that_was_cancelled_is_no_loss(make_connection: Connections) -> None:
    made = make_connection(STOCK, options={"options": "-c statement_timeout=100"})
    link, _ = attempt(Connector.of(made), {}, 5.0)
    with closing(link):
        terminator = Terminator(made, link, str)
        with pytest.raises(Impossible, match=r"was refused\. QueryCanceled: .* timeout\.$"):
            terminator._ask(1, "SELECT pg_sleep(5)")


def test_nothing_is_ended_where_a_pooler_may_be_in_between(
    make_connection: Connections, server: Server, database: str
) -> None:
    server.execute(
        "REVOKE EXECUTE ON FUNCTION pg_catalog.inet_client_addr() FROM PUBLIC", database=database
    )
    result = drilled(make_connection(database=database).alias)
    assert result.refusal.startswith(
        "Not tried: cannot determine whether a pooler is in between (perm"
    )


@pytest.fixture
def drilled_role(server: Server, database: str) -> Iterator[str]:
    server.execute(f"CREATE ROLE drilled LOGIN PASSWORD '{server.password}'")
    yield "drilled"
    server.terminate_all(database)
    server.execute("DROP ROLE drilled")


def test_a_role_that_may_have_one_session(
    make_connection: Connections, server: Server, database: str, drilled_role: str
) -> None:
    """It stops at the first refusal, which this engine waits for once."""
    server.execute(f"ALTER ROLE {drilled_role} CONNECTION LIMIT 1")
    made = make_connection(database=database, user=drilled_role, retry_deadline=1)
    seen = survey(made.alias)
    # Its session counts until its process has ended.
    until(lambda: not _sessions_of(server, drilled_role), "the survey's session stays")
    result = drill(seen)
    assert not result.survived
    assert len(result.steps) == 1
    assert "too many connections" in result.sentences[0]
    assert "The other 3 cases were not tried" in result.sentences[1]


def _sessions_of(server: Server, role: str) -> list[bytes]:
    """The titles of their processes; pg_stat_activity forgets them before they have ended."""
    titles = []
    for child in guard.children(server.pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            titles.append(Path(f"/proc/{child}/cmdline").read_bytes())
    return [title for title in titles if f" {role} ".encode() in title]


def test_an_assumed_role(
    make_connection: Connections, server: Server, database: str, drilled_role: str
) -> None:
    """It may not see its own session's start; the role that logs in may."""
    server.execute("CREATE ROLE tenant NOLOGIN")
    server.execute(f"GRANT tenant TO {drilled_role}")
    try:
        options = {"assume_role": "tenant"}
        made = make_connection(database=database, user=drilled_role, options=options)
        result = drilled(made.alias)
        assert [step.survived for step in result.steps] == [True] * 4, result.sentences
    finally:
        server.execute("DROP ROLE tenant")


def test_two_servers(
    make_connection: Connections, own_connections: Connections, database: str
) -> None:
    """Nothing is ended where the process id would be somebody else's."""
    made = make_connection(STOCK, database=database)
    link, _ = attempt(Connector.of(own_connections(STOCK)), {}, 5.0)
    with closing(link):
        made.ensure_connection()
        with pytest.raises(Impossible, match="another server"):
            Terminator(made, link, str).know()


def test_a_shared_session_is_not_ended(
    make_connection: Connections, server: Server, database: str
) -> None:
    """As a pooler would have it: the one that ends is the one that is to be ended."""
    made = make_connection(STOCK, database=database)
    made.ensure_connection()
    terminator = Terminator(made, link_to(made.connection), str)
    with pytest.raises(Impossible, match="share"):
        terminator.know()
    [(pid, started)] = server.execute(
        "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint"
        f" FROM pg_stat_activity WHERE datname = '{database}'"
    )
    with pytest.raises(Impossible, match="gone before"):
        terminator.end(Victim(pid, started))
    assert not terminator.ended
    until(lambda: server.backends(database) == [pid], "others are left, or none")


def test_an_interruption_leaves_nothing_open(
    make_connection: Connections, server: Server, database: str
) -> None:
    def report(told: str) -> None:
        if told.startswith("Drill, 2"):
            raise KeyboardInterrupt

    made = make_connection(database=database)
    with pytest.raises(KeyboardInterrupt):
        drill(survey(made.alias), report)
    assert connections[made.alias] is made
    until(lambda: not server.backends(database), "sessions of the drill are left")


def test_without_the_second_session_nothing_is_said_to_survive(
    make_connection: Connections, server: Server, database: str
) -> None:
    def report(told: str) -> None:
        if told.startswith("Drill, 2"):
            server.terminate_all(database)

    result = drill(survey(make_connection(database=database).alias), report)
    assert not result.survived
    assert [step.survived for step in result.steps] == [True, None, None, None], result.sentences
    assert "second session is lost" in result.sentences[1]


def test_an_ending_midway_that_fails_is_told(
    make_connection: Connections, server: Server, database: str
) -> None:
    """In a thread of its own, where nobody would see the error."""
    made = make_connection(STOCK, database=database)
    made.ensure_connection()
    link, _ = attempt(Connector.of(made), {}, 5.0)
    with closing(link):
        terminator = Terminator(made, link, str)
        victim = terminator.know()
        server.terminate(link.backend_pid())
        terminator.midway(victim, "mark")
        terminator.join()
    assert not terminator.ended
    assert "second session is lost" in terminator.failed


def test_it_tells_each_step_and_nothing_else(
    make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine's own log of losses would stand in the middle of the report."""
    told: list[str] = []
    alias = make_connection().alias
    assert drill(survey(alias), told.append).survived
    assert [each.partition(":")[0] for each in told] == [f"Drill, {n} of 4" for n in (1, 2, 3, 4)]
    assert not [one for one in caplog.records if one.name == "django_resilient_pg"]
