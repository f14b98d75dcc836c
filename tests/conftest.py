"""Fixtures for all tests.

In CI a skipped test is a failure; what is for one driver only is marked ``psycopg3`` or
``psycopg2``, and not selected where there is the other. What needs a program or a library of the
system is marked ``needs``: see :mod:`tests.needs`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import django
import hypothesis
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # at the end: an installed package comes before the source tree

from django_resilient_pg.policy.token_bucket import BUCKET
from testproject.postgres import Server
from tests import needs
from tests.engines import (
    DRIVER,
    LONGEST,
    RESILIENT,
    STOCK,
    Connections,
    backend_pid,
    killed_midway,
)

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
CI = os.environ.get("CI", "").lower() == "true"
LACKED = pytest.StashKey[dict[str, list[str]]]()  # test -> what was missing for it


def pytest_configure(config: pytest.Config) -> None:
    """Set Django up. "default" leads nowhere until a test asks for a server."""
    config.stash[LACKED] = {}
    # By default an example that takes long is a failure: as on a busy machine.
    hypothesis.settings.register_profile("unhurried", deadline=None)
    hypothesis.settings.load_profile("unhurried")
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"
    os.environ.update(DATABASE_ENGINE=RESILIENT, DATABASE_HOST="127.0.0.1", DATABASE_PORT="1")
    django.setup()
    # The default may be used up on a busy machine. Whoever tests a deadline sets it.
    settings.RESILIENT_PG_REQUEST_DEADLINE = LONGEST
    _check_environment()


def _check_environment() -> None:
    """Hold tox to its word: one driver (TEST_DRIVER), and not the source tree (TEST_INSTALLED)."""
    import django_resilient_pg

    driver = os.environ.get("TEST_DRIVER")
    if driver and [name for name in ("psycopg", "psycopg2") if find_spec(name)] != [driver]:
        raise pytest.UsageError(f"TEST_DRIVER is {driver}, but not the only driver installed")
    home = Path(str(django_resilient_pg.__file__)).resolve().parent
    if os.environ.get("TEST_INSTALLED") and home.parent == ROOT:
        raise pytest.UsageError(f"the source tree is tested ({home}), not the installed package")


def pytest_report_header() -> str:
    """Say what is tested against what."""
    import django_resilient_pg

    where = Path(str(django_resilient_pg.__file__)).parent
    engine = "" if RESILIENT != STOCK else "; THE STOCK ENGINE in place of this one"
    return f"Django {django.get_version()}, {DRIVER}, {where}{engine}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by folder, hold unit tests to theirs, leave out what is for the other driver."""
    other = "psycopg2" if DRIVER == "psycopg" else "psycopg3"
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if folder in ("server", "faults"):
            item.add_marker(folder)
        elif "server" in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid} needs a server: its place is tests/server")
        if folder in ("cuts", "soak"):
            item.add_marker("campaign")
        for fixture in needs.OF_FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.needs(*needs.OF_FIXTURES[fixture]))
        (left_out if item.get_closest_marker(other) else kept).append(item)
    items[:] = kept
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Let the collector of garbage pass over the tests themselves: they live to the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test, before its fixtures, that needs what this machine lacks."""
    names = dict.fromkeys(name for mark in item.iter_markers("needs") for name in mark.args)
    needs.name_those_of_a_test(names)
    lacking = [name for name in names if needs.lacking(name)]
    if lacking:
        item.config.stash[LACKED][item.nodeid] = lacking
        pytest.skip(needs.reason(lacking))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say in the very end how many tests were skipped for want of what."""
    line = needs.note(config.stash[LACKED])
    if line:
        sys.stdout.write(f"{line}\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, make a failure of a skip."""
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI, make a failure of a skipped module."""
    return _refuse_skip((yield))


@pytest.fixture(autouse=True)
def full_bucket() -> None:
    """Each test has all the retries of a process: earlier ones may have spent them."""
    BUCKET.tokens, BUCKET.short = BUCKET.CAPACITY, False


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL over TLS, of version PG_VERSION, shared by all tests: leave it as it was."""
    with Server() as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A PostgreSQL for this test alone, to be restarted, paused and reconfigured."""
    with Server() as running:
        yield running


@pytest.fixture
def make_connection(server: Server) -> Iterator[Connections]:
    """Make connections to ``server``: see :class:`tests.engines.Connections`."""
    made = Connections(server)
    yield made
    made.close()


@pytest.fixture
def own_connections(own_server: Server) -> Iterator[Connections]:
    """Make connections to ``own_server``."""
    made = Connections(own_server)
    yield made
    made.close()


@pytest.fixture
def resilient(make_connection: Connections) -> BaseDatabaseWrapper:
    """A connection of this engine, opened."""
    return _opened(make_connection(RESILIENT))


@pytest.fixture
def stock(make_connection: Connections) -> BaseDatabaseWrapper:
    """A connection of Django's engine, opened."""
    return _opened(make_connection(STOCK))


@pytest.fixture
def kill(server: Server) -> Callable[[BaseDatabaseWrapper], int]:
    """End the session of a connection as an administrator does; returns when it is gone."""

    def end(connection: BaseDatabaseWrapper) -> int:
        pid = backend_pid(connection)
        server.terminate(pid)
        return pid

    return end


@pytest.fixture
def kill_midway(
    server: Server,
) -> Callable[[BaseDatabaseWrapper], AbstractContextManager[list[int]]]:
    """End the session of a connection in the middle of a ``pg_sleep`` run in the context."""
    return partial(killed_midway, server)


@pytest.fixture(scope="session")
def migrated(server: Server) -> Iterator[str]:
    """The alias "default" of the test project, migrated, on ``server``; use ``project``."""
    server.create_database("project")
    made = Connections(server)
    before = connections.settings.pop(DEFAULT_DB_ALIAS)
    made(
        RESILIENT,
        alias=DEFAULT_DB_ALIAS,
        database="project",
        CONN_MAX_AGE=60,
        CONN_HEALTH_CHECKS=True,
    )
    call_command("migrate", verbosity=0)
    yield DEFAULT_DB_ALIAS
    made.close()
    connections.settings[DEFAULT_DB_ALIAS] = before


@pytest.fixture
def project(migrated: str, server: Server) -> Iterator[str]:
    """The alias "default" of the test project; tables are emptied, the connection closed."""
    yield migrated
    connections[migrated].close()
    tables = (
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE 'shop%'"
    )
    names = ", ".join(name for (name,) in server.execute(tables, database="project"))
    server.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE", database="project")


def _opened(connection: BaseDatabaseWrapper) -> BaseDatabaseWrapper:
    connection.ensure_connection()
    return connection


def _refuse_skip(report: Report) -> Report:
    if CI and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report
