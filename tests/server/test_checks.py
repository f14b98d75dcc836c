"""Django's system checks: the same findings, without a connection where none was asked for."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from django.test import override_settings

from django_resilient_pg.checks.databases import (
    TAG,
    check_databases,
    check_settings,
    register,
)
from django_resilient_pg.diagnosis.findings import PREFIX, Level, findings
from django_resilient_pg.diagnosis.path.stages import Stage
from django_resilient_pg.diagnosis.survey.gather import survey
from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections
from tests.faults.proxy import Mode, Proxy
from tests.server.diagnosis.set_ups import SOUND

pytestmark = pytest.mark.once_per_driver

KEPT: dict[str, Any] = {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}


def own(messages: list[checks.CheckMessage], alias: str) -> list[str]:
    """The numbers of this package's messages about this alias, in order."""
    about = [each for each in messages if each.obj == f'The database "{alias}"']
    assert all(str(each.id).startswith(PREFIX) for each in about)
    return [str(each.id).removeprefix(PREFIX) for each in about]


def run(databases: list[str] | None = None, **given: Any) -> list[checks.CheckMessage]:
    return checks.run_checks(databases=databases, **given)


def stages(alias: str) -> tuple[Stage, ...]:
    return survey(alias).walk.stages


def serious(messages: list[checks.CheckMessage]) -> list[checks.CheckMessage]:
    return [each for each in messages if each.level >= checks.WARNING]


def test_without_database_nothing_is_connected_to(
    make_connection: Connections, proxy: Proxy
) -> None:
    alias = make_connection(STOCK, PORT=proxy.port).alias
    assert own(run(), alias) == ["W102", "W106", "W109"]
    assert own(run(tags=[TAG]), alias) == ["W102", "W106", "W109"]
    call_command("check", stdout=io.StringIO(), stderr=io.StringIO())
    assert proxy.accepted == 0
    run([alias])
    assert proxy.accepted > 0  # or the line before would prove nothing


@pytest.mark.parametrize(
    "given",
    [
        {"engine": STOCK},
        {"engine": STOCK, "options": {**SOUND, "options": "-c idle_session_timeout=5s"}, **KEPT},
        {"engine": STOCK, "options": {"keepalives": 0}, "CONN_MAX_AGE": None},
        {"engine": RESILIENT, "options": {"keepalives_idle": 300}},
    ],
)
def test_with_database_the_same_as_the_command_and_nothing_twice(
    make_connection: Connections, given: dict[str, Any]
) -> None:
    alias = make_connection(**given).alias
    told = own(run([alias]), alias)
    found = [each for each in findings(survey(alias)) if each.level > Level.INFO]
    assert sorted(told) == sorted(each.id.removeprefix(PREFIX) for each in found)
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_healthy_set_up_has_no_warnings(make_connection: Connections, engine: str) -> None:
    options = SOUND if engine == STOCK else {}
    alias = make_connection(engine, options=options, **KEPT).alias
    assert serious(run([alias])) == []


TAKEN = [
    *(
        pytest.param({"options": {"connect_timeout": value}}, marks=pytest.mark.psycopg3)
        for value in (5.0, "5.0", 2.5)
    ),
    {"options": {"service": "empty"}},
    {"PORT": " {}"},
    pytest.param({"PORT": "{} "}, marks=pytest.mark.psycopg2),
    {"HOST": "127.0.0.1", "PORT": "{}\n", "options": {"sslmode": "verify-ca"}},
]


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
@pytest.mark.parametrize("given", TAKEN)
def test_what_the_driver_takes_is_no_error(
    make_connection: Connections,
    engine: str,
    given: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "services").write_text("[empty]\n# all of it comes from DATABASES\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    if "PORT" in given:
        given = {**given, "PORT": given["PORT"].format(make_connection.server.port)}
    connection = make_connection(engine, **given)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    about = [each for each in run([connection.alias]) if connection.alias in str(each.obj)]
    assert not [each for each in about if each.level >= checks.ERROR]


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_rights_that_only_the_diagnosis_lacks_are_no_errors(
    make_connection: Connections, server: Server, engine: str
) -> None:
    """Else ``migrate`` would stop at its check where it works without."""
    server.create_database("guarded")
    for name in ("TABLE pg_settings", "TABLE pg_proc", "FUNCTION pg_is_in_recovery()"):
        server.execute(f"REVOKE ALL ON {name} FROM PUBLIC", database="guarded")
    try:
        alias = make_connection(engine, database="guarded", **KEPT).alias
        assert not [each for each in run([alias]) if each.level >= checks.ERROR]
        assert any("Unknown: " in one.detail for one in stages(alias))
        assert "resilient_pg.W148" in [each.id for each in run([alias])]
    finally:
        connections[alias].close()
        server.drop_database("guarded")


@pytest.mark.psycopg3
@pytest.mark.parametrize("used", [False, True])
def test_the_connections_of_a_pool_are_judged_as_they_are(
    make_connection: Connections, used: bool
) -> None:
    connection = make_connection(RESILIENT, options={"pool": True})
    if used:
        connection.ensure_connection()
        connection.close()
    assert serious(run([connection.alias])) == []
    assert (connection.alias in connection._connection_pools) is used  # type: ignore[attr-defined]


def test_levels_hints_and_objects_are_djangos(make_connection: Connections) -> None:
    alias = make_connection(
        RESILIENT, PORT="1", options={"tcp_user_timeout": 5000}, retry_deadline=0.2
    ).alias
    messages = {str(each.id): each for each in run([alias]) if alias in str(each.obj)}
    error, warning = messages["resilient_pg.E003"], messages["resilient_pg.W107"]
    assert isinstance(error, checks.Error)
    assert isinstance(warning, checks.Warning)
    assert warning.hint == "Set tcp_user_timeout to 30000 or more (it is in milliseconds)."
    assert str(warning).startswith(f'The database "{alias}": (resilient_pg.W107) tcp_user_timeout')


def test_what_is_only_worth_knowing_is_left_to_the_command(make_connection: Connections) -> None:
    alias = make_connection(CONN_MAX_AGE=0).alias
    assert any(each.level is Level.INFO for each in findings(survey(alias)))
    assert own(run([alias]), alias) == []


def test_silenced_by_id(make_connection: Connections) -> None:
    alias = make_connection(options={"tcp_user_timeout": 5000}).alias
    loud, quiet = io.StringIO(), io.StringIO()
    call_command("check", databases=[alias], stdout=io.StringIO(), stderr=loud)
    with override_settings(SILENCED_SYSTEM_CHECKS=["resilient_pg.W107"]):
        call_command("check", databases=[alias], stdout=quiet, stderr=quiet)
    assert "resilient_pg.W107" in loud.getvalue()
    assert "resilient_pg.W107" not in quiet.getvalue()


def through(proxy: Proxy, mode: Mode) -> dict[str, Any]:
    proxy.set_mode(mode)
    return {"PORT": proxy.port}


BREAKAGES: dict[str, Callable[[Proxy], dict[str, Any]]] = {
    "nothing listens": lambda proxy: {"PORT": "1"},
    "no such host": lambda proxy: {"HOST": "nowhere.invalid"},
    "wrong password": lambda proxy: {"PASSWORD": "not this one"},
    "port is no number": lambda proxy: {"PORT": "x"},
    "no name": lambda proxy: {"NAME": ""},
    "a pool that is refused": lambda proxy: {"OPTIONS": {"pool": {"sizes": 3}}},
    "an unknown option": lambda proxy: {"OPTIONS": {"resilience": {"ping_aftr": 1}}},
    "cut off": lambda proxy: through(proxy, "cut"),
    "silent": lambda proxy: through(proxy, "deaf"),
}


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
@pytest.mark.parametrize("what", BREAKAGES)
def test_a_database_that_is_down_is_a_finding(
    make_connection: Connections, proxy: Proxy, what: str, engine: str
) -> None:
    """No exception, in bounded time, and no password in what is said."""
    given: dict[str, Any] = {} if engine == STOCK else {"retry_deadline": 0.2}
    alias = make_connection(engine, **given, **BREAKAGES[what](proxy)).alias
    began = time.monotonic()
    messages = run([alias])
    assert time.monotonic() - began < 10
    assert any(each.startswith("E0") for each in own(messages, alias))
    assert "not this one" not in str(messages)


def test_an_outage_that_the_engine_bridges_is_no_finding(
    make_connection: Connections, proxy: Proxy
) -> None:
    """Else ``migrate`` would fail by its check where its first query would not."""
    alias = make_connection(RESILIENT, PORT=proxy.port, **KEPT).alias
    stock = make_connection(STOCK, PORT=proxy.port, **KEPT).alias
    proxy.set_mode("refuse")
    assert "E003" in own(check_databases([stock]), stock)
    timer = threading.Timer(1.0, proxy.set_mode, ["pass"])
    timer.start()
    before = proxy.accepted
    messages = check_databases([alias])
    timer.join()
    assert serious(messages) == []
    assert proxy.accepted > before  # it did connect


def test_an_error_stops_commands_before_they_touch_the_database(
    make_connection: Connections,
) -> None:
    alias = make_connection(PORT="1", retry_deadline=0.2).alias
    with pytest.raises(SystemCheckError, match=r"resilient_pg\.E003"):
        call_command("check", databases=[alias], stdout=io.StringIO())


@pytest.mark.parametrize(
    "entry",
    [
        {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        {"ENGINE": "django.db.backends.dummy"},
        {"ENGINE": "no.such.engine"},
    ],
)
def test_what_is_not_postgresql_is_passed_over(
    make_connection: Connections, entry: dict[str, Any]
) -> None:
    alias = entry["ENGINE"]  # any name that no other test has
    connections.settings[alias] = {**connections.settings["default"], **entry}
    try:
        assert own(check_settings(), alias) == []
        assert own(check_databases([alias]), alias) == []
    finally:
        del connections.settings[alias]
        with suppress(AttributeError):  # there is no such engine
            del connections[alias]


def test_they_are_registered_once() -> None:
    before = checks.registry.registry.get_checks()
    register()
    after = checks.registry.registry.get_checks()
    assert len(after) == len(before)
    assert {check_settings, check_databases} <= set(after)
