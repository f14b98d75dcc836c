"""The drill, on real servers: what survives on this engine, and is lost on Django's own."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from django.db import connections

from django_resilient_pg.diagnosis.drill import DrillResult, drill
from django_resilient_pg.diagnosis.survey import survey
from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections, backend_pid


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
        assert re.search(r"survived, \d+ ms \(\d+ ms undisturbed\)\.$", sentence)


def test_nothing_survives_on_djangos_own(make_connection: Connections) -> None:
    result = drilled(make_connection(STOCK).alias)
    assert [step.survived for step in result.steps] == [False] * 4, result.sentences
    assert not result.survived
    assert all("FAILED after" in sentence for sentence in result.sentences)
    assert "OperationalError" in result.sentences[0]


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
    assert server.backends(database) == [pid]
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
    assert result.survived
    assert "permission denied" in result.sentences[2]
