"""A stage on each of the two engines, for tests of what replaces methods of Django's classes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections
from tests.server.patched.uses import Patch, Seen, fresh, with_toolbar
from tests.server.scenarios import Stage, lay_out


@pytest.fixture(scope="module")
def stages(server: Server, database: str) -> Iterator[dict[str, Stage]]:
    """One for each engine; use ``stage``, ``ours`` or ``both``."""
    lay_out(server, database)
    made = Connections(server)
    yield {
        engine: Stage(server, made(engine, database=database, CONN_MAX_AGE=None), database)
        for engine in (STOCK, RESILIENT)
    }
    made.close()


@pytest.fixture(params=[STOCK, RESILIENT], ids=["stock", "resilient"])
def stage(request: pytest.FixtureRequest, stages: dict[str, Stage]) -> Stage:
    return fresh(stages[request.param])


@pytest.fixture
def ours(stages: dict[str, Stage]) -> Stage:
    return fresh(stages[RESILIENT])


@pytest.fixture
def toolbar(stage: Stage, monkeypatch: Patch) -> Seen:
    return with_toolbar(stage, monkeypatch)
