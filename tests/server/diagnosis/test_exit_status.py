"""The exit status of ``checkdbconn``, and options and settings that it refuses."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from django.core import checks
from django.core.management import CommandError, call_command
from django.db import connections

from django_resilient_pg.checks.databases import check_databases, check_settings
from testproject.postgres import Server
from tests.children import python
from tests.engines import RESILIENT, STOCK, Connections
from tests.server.diagnosis.command import ROOT, UNREACHABLE, document, run, words

pytestmark = pytest.mark.once_per_driver


# -- exit status -----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_a_server_that_is_down_is_exit_status_1(
    own_connections: Connections, own_server: Server, engine: str
) -> None:
    alias = own_connections(engine).alias
    own_server.stop("fast")
    said, complaints, status = run(alias)
    assert status == 1
    assert f'"{alias}": Not reachable for now: stage TCP failed.' in said
    assert f'"{alias}"' in complaints
    assert "not run" in said


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [
        ("authentication", {"PASSWORD": "not-this-one"}),
        ("database", {"NAME": "nowhere"}),
        ("settings", {"OPTIONS": {"resilience": {"read_retry": 3}}}),
    ],
)
def test_what_waiting_does_not_cure_is_exit_status_3(
    make_connection: Connections, stage: str, wrong: dict[str, Any]
) -> None:
    began = time.monotonic()
    said, _, status = run(make_connection(**wrong).alias, wait=30.0)
    assert status == 3
    assert f"until the configuration is corrected: stage {stage} failed." in words(said)
    assert time.monotonic() - began < 15
    assert "not-this-one" not in said


def test_the_fail_level_decides_whether_findings_are_a_failure(
    make_connection: Connections,
) -> None:
    alias = make_connection(STOCK, CONN_MAX_AGE=None).alias
    assert [run(alias, fail_level=level)[2] for level in ("error", "warning", "info")] == [0, 1, 1]
    # As Django's check has them.
    names = ("CRITICAL", "critical", "ERROR", "WARNING", "Info")
    assert [run(alias, fail_level=level)[2] for level in names] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["--database", "defualt"], 2, "defualt"),
        (["--fail-level", "fatal"], 2, "fatal"),
        (["--probe-idle", "abc"], 2, "abc"),
        ([], 1, 'Check failed: "default".'),
    ],
)
def test_the_exit_status_reaches_the_shell(
    arguments: list[str], status: int, complaint: str
) -> None:
    done = python("manage.py", "checkdbconn", *arguments)
    assert done.returncode == status, done.stderr
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"probe_idle": 1.0}, "--probe-idle: the value is 1.0, but must be a number from 5"),
        ({"probe_idle": float("nan")}, "must be a number from 5 to 86400 seconds."),
        ({"probe_idle": 1e6}, "must be a number from 5 to 86400 seconds."),
        ({"wait": -1.0}, "must be a number from 0 to 86400 seconds. The nearest valid value is 0."),
    ],
)
def test_an_option_out_of_bounds_is_named_before_anything_runs(
    make_connection: Connections, options: dict[str, Any], complaint: str
) -> None:
    said, complaints, status = run(make_connection(**UNREACHABLE).alias, **options)
    assert (said, status) == ("", 2)
    assert complaint in complaints


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"database": "defualt"},
            '--database: unknown value "defualt"; the closest valid value is "default".',
        ),
        (
            {"database": ["defualt"]},
            '--database: unknown value "defualt"; the closest valid value is',
        ),
        ({"database": [5]}, '--database: unknown value "5"; the closest valid value is "'),
        (
            {"fail_level": "fatal"},
            '--fail-level: unknown value "fatal"; the closest valid value is "',
        ),
        (
            {"fail_level": "warn"},
            '--fail-level: unknown value "warn"; the closest valid value is "warning".',
        ),
        ({"format": "jsn"}, '--format: unknown value "jsn"; the closest valid value is "json".'),
        (
            {"fail_level": ["error"]},
            """--fail-level: unknown value "['error']"; the closest valid value is""",
        ),
        (
            {"format": {"text"}},
            """--format: unknown value "{'text'}"; the closest valid value is""",
        ),
        ({"database": [None]}, '--database: unknown value "None"; the closest valid value is "'),
        ({"wait": [5]}, "--wait: the value is [5], but must be a number"),
        ({"probe_idle": [9, 9]}, "--probe-idle: the value is [9, 9], but must be"),
        ({"verbosity": [1]}, "--verbosity: the value is [1], but must be"),
        (
            {"verbosity": "loud"},
            "--verbosity: the value is 'loud', but must be a whole number",
        ),
        ({"verbosity": 7}, "--verbosity: the value is 7, but must be a whole number from 0 to 3."),
    ],
)
def test_call_command_is_told_what_is_wrong(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("checkdbconn", stdout=io.StringIO(), stderr=io.StringIO(), **options)
    assert caught.value.returncode == 2
    assert str(caught.value).startswith(complaint)


def test_call_command_takes_texts(make_connection: Connections) -> None:
    alias, out = make_connection().alias, io.StringIO()
    options = {"database": alias, "verbosity": "0", "wait": "1", "no_color": True}
    call_command("checkdbconn", stdout=out, stderr=io.StringIO(), **options)
    assert out.getvalue().startswith(f'"{alias}": ')
    assert "Facts" not in out.getvalue()


def test_call_command_takes_none_for_what_is_not_given(make_connection: Connections) -> None:
    alias = make_connection(CONN_MAX_AGE=60).alias
    given = dict.fromkeys(("format", "fail_level", "verbosity", "wait", "probe_idle", "fix"))
    assert run(alias, **given) == run(alias)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "CONN_MAX_AGE is a text": (
        {"CONN_MAX_AGE": "600"},
        'CONN_MAX_AGE of the database "{}" is "600", a text: set the number 600, without quotes.',
    ),
    "OPTIONS is None": ({"OPTIONS": None}, 'OPTIONS of the database "{}" is None'),
    "OPTIONS is a text": ({"OPTIONS": "sslmode=require"}, 'OPTIONS of the database "{}" is a str'),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_settings_of_the_wrong_type_are_refused(
    make_connection: Connections, engine: str, what: str
) -> None:
    changes, complaint = BROKEN[what]
    entry = {**make_connection.server.database(engine=engine), **changes}
    alias = make_connection.register("broken", entry).alias
    said, _, status = run(alias, wait=10.0)
    assert status == 3
    assert complaint.format(alias) in words(said)
    assert "keepalives none" not in words(said)
    (database,) = document(alias)["databases"]
    assert [each["id"] for each in database["findings"]] == ["resilient_pg.E001"]
    for databases in (None, [alias]):
        own = [each for each in our_checks(databases) if alias in str(each.obj)]
        assert [str(each.id) for each in own] == ["resilient_pg.E001"] * (databases is None)


def our_checks(databases: list[str] | None) -> list[checks.CheckMessage]:
    """Django's own check of a database cannot cope with these, and is not ours."""
    return check_settings() if databases is None else check_databases(databases)


@pytest.mark.parametrize(
    ("engine", "part"),
    [
        ("django.db.backends.postgresq", 'Did you mean "django.db.backends.postgresql"?'),
        ("no.such.engine", 'ENGINE is "no.such.engine", which cannot be loaded: No module named'),
        ("postgres://app:much-too-secret@db/app", "ENGINE is a URL"),
    ],
)
def test_an_engine_that_cannot_be_loaded_is_refused_and_the_others_are_checked(
    make_connection: Connections, engine: str, part: str
) -> None:
    good = make_connection(CONN_MAX_AGE=60)
    connections.settings["typo"] = {**connections.settings[good.alias], "ENGINE": engine}
    try:
        said, complaints, status = run("typo", good.alias, sslmodes=True, fix=True, verbosity=3)
        assert status == 3
        assert '"typo": Not reachable until the configuration is corrected' in words(said)
        assert part in words(said)
        assert "much-too-secret" not in said + complaints
        assert f'"{good.alias}": OK' in said
        assert complaints == 'Check failed: "typo".'
    finally:
        del connections.settings["typo"]


# -- waiting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [RESILIENT, STOCK])
def test_a_password_that_is_a_word_hides_no_reason(
    make_connection: Connections, engine: str
) -> None:
    said, _, status = run(make_connection(engine, PASSWORD="password").alias)
    assert status == 3
    assert 'Password authentication failed for user "app".' in words(said)


# -- what it costs, what it gives away -------------------------------------------------------------


def test_a_fresh_project_with_the_name_of_sqlite(make_connection: Connections) -> None:
    """As ``startproject`` leaves it when only the engine is changed."""
    for engine in (STOCK, RESILIENT):
        for name in (ROOT / "db.sqlite3", str(ROOT / "db.sqlite3")):
            said, _, status = run(make_connection(engine, NAME=name).alias)
            assert status == 3
            assert "db.sqlite3" in words(said)
            assert "the path of an SQLite file as startproject sets it" in words(said)
