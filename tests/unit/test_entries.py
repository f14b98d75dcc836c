"""What is refused of an entry of DATABASES before anything is sent, and in which words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from django_resilient_pg.checks.databases import check_databases, check_settings
from django_resilient_pg.checks.middleware import MIDDLEWARE, check_middleware
from django_resilient_pg.checks.serving import check_credentials
from django_resilient_pg.diagnosis.findings import PREFIX, Level, findings
from django_resilient_pg.diagnosis.path.attempts import Connector
from django_resilient_pg.diagnosis.report.as_json import document
from django_resilient_pg.diagnosis.report.inspection import Inspection
from django_resilient_pg.diagnosis.survey.gather import from_settings
from django_resilient_pg.diagnosis.survey.survey import Survey
from tests.engines import RESILIENT, STOCK, Connections
from tests.report_schema import validate

pytestmark = pytest.mark.once_per_driver

ALIAS = "entry"
ENGINES = pytest.mark.parametrize("engine", [RESILIENT, STOCK])


@pytest.fixture
def enter() -> Iterator[Any]:
    """Define the database "entry", which leads nowhere."""
    made = Connections(None)  # type: ignore[arg-type]

    def define(engine: str = RESILIENT, **entry: Any) -> Any:
        given = {"ENGINE": engine, "NAME": "nowhere", "HOST": "127.0.0.1", "PORT": "1", **entry}
        return made.register(ALIAS, given)

    yield define
    made.close()


@pytest.fixture
def unloadable() -> Iterator[Any]:
    """Define the database "entry" with an engine that cannot be loaded."""

    def define(engine: object) -> None:
        entry = {**connections.settings["default"], "ENGINE": engine}
        connections.settings[ALIAS] = entry

    yield define
    del connections.settings[ALIAS]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "time zone": (
        {"TIME_ZONE": "Mars/X"},
        "TIME_ZONE is refused: No time zone found with key Mars/X (ZoneInfoNotFoundError).",
    ),
    "path": (
        {"NAME": Path("/srv/app/db.sqlite3")},
        'NAME is "/srv/app/db.sqlite3", the path of an SQLite file as startproject sets it: ',
    ),
    "keys": (
        {"OPTIONS": {"sslmode": "prefer", 5: 1}},
        "OPTIONS is refused: a key is of the type int, not a text (TypeError).",
    ),
    "isolation level": (
        {"OPTIONS": {"isolation_level": "foo"}},
        "OPTIONS[\"isolation_level\"] is refused: 'foo' is not a valid IsolationLevel, which has",
    ),
    "role": (
        {"OPTIONS": {"assume_role": 5}},
        'OPTIONS["assume_role"] is refused: it is of type int, not a string (TypeError).',
    ),
    "password as role": (
        {"OPTIONS": {"assume_role": "password=much-too-secret"}},
        'OPTIONS["assume_role"] holds a connection string: put its parts into',
    ),
    "cursor": (
        {"OPTIONS": {"cursor_factory": "psycopg.ClientCursor"}},
        'OPTIONS["cursor_factory"] is refused: a value of the type str cannot be called, give the'
        " class itself (TypeError).",
    ),
    "rows": (
        {"OPTIONS": {"row_factory": 5}},
        'OPTIONS["row_factory"] is refused: a value of the type int cannot be called, give the'
        " class itself (TypeError).",
    ),
}


@ENGINES
@pytest.mark.parametrize("what", REFUSED)
def test_what_would_fail_at_the_first_connection_is_told_before(
    enter: Any, engine: str, what: str
) -> None:
    entry, told = REFUSED[what]
    enter(engine, **entry)
    known = from_settings(ALIAS)
    assert known.refused.startswith(told)
    assert "pool" not in known.refused
    assert "much-too-secret" not in known.refused
    (error,) = [one for one in check_settings() if ALIAS in str(one.obj)]
    assert error.id == "resilient_pg.E001"


@ENGINES
def test_settings_that_are_in_order_are_not_refused(enter: Any, engine: str) -> None:
    enter(engine, TIME_ZONE="Europe/Berlin", OPTIONS={"isolation_level": 2, "assume_role": "app"})
    assert from_settings(ALIAS).refused == ""


@pytest.mark.psycopg3
@ENGINES
def test_a_pool_is_looked_at_and_none_is_left_behind(enter: Any, engine: str) -> None:
    wrapper = enter(engine, OPTIONS={"pool": True})
    assert from_settings(ALIAS).refused == ""
    assert ALIAS not in wrapper._connection_pools


@pytest.mark.psycopg3
@ENGINES
def test_the_applications_pool_is_left_alone(enter: Any, engine: str) -> None:
    wrapper = enter(engine, OPTIONS={"pool": True})
    pool = wrapper.pool
    from_settings(ALIAS)
    assert wrapper.pool is pool


@pytest.mark.psycopg3
@ENGINES
def test_a_wrong_option_of_the_pool_is_blamed_on_the_pool(enter: Any, engine: str) -> None:
    enter(engine, OPTIONS={"pool": {"min_size": 4, "max_size": 2}})
    told = from_settings(ALIAS).refused
    assert told.startswith('OPTIONS["pool"] is refused: max_size must be')
    assert told.endswith("(ValueError).")


@pytest.mark.psycopg3
def test_with_a_pool_the_diagnosis_knows_what_libpq_gets(enter: Any) -> None:
    wrapper = enter(OPTIONS={"pool": True, "resilience": {"primary": True}})
    assert wrapper.pool is not None
    known = from_settings(ALIAS)
    assert known.asked["keepalives_idle"] == 20
    assert known.target.connect_timeout == 5
    assert known.target.target_session_attrs == "primary"


@pytest.mark.parametrize(
    ("engine", "error"),
    [(".foo", "TypeError"), ("django.db.backends.base", "AttributeError"), (5, "Error")],
)
def test_whatever_an_engine_raises_is_told(unloadable: Any, engine: object, error: str) -> None:
    unloadable(engine)
    known = from_settings(ALIAS)
    assert known.refused.startswith(f'ENGINE is "{engine}", which cannot be loaded: ')
    assert f"{error})." in known.refused
    assert Inspection.of(known).survey.project.engine == str(engine)


@pytest.mark.parametrize("engine", [".foo", "django.db.backends.base", "no.such.engine", "json", 5])
def test_an_alias_that_cannot_be_loaded_keeps_no_check_from_the_others(
    unloadable: Any, engine: object
) -> None:
    unloadable(engine)
    with override_settings(MIDDLEWARE=[MIDDLEWARE]):
        # Not all of Django's own take it: those of the models ask every alias.
        assert check_middleware(None) == check_credentials(None) == []
    assert check_databases([ALIAS]) == []
    assert not any(ALIAS in str(one.obj) for one in check_settings())


def test_no_name_of_an_option_can_give_a_password_away(enter: Any) -> None:
    enter(STOCK, OPTIONS={"postgres://u:much-too-secret@h/db": 1, "password=much-too-secret": 2})
    told = json.dumps(schema(from_settings(ALIAS)))
    assert "much-too-secret" not in told
    assert "(not shown)" in told


@ENGINES
@pytest.mark.parametrize(
    ("options", "without"),
    [
        ({"keepalives": True}, {"W101", "W102", "W106"}),
        ({"tcp_user_timeout": "30s"}, {"W102", "W106"}),
        ({"keepalives": ""}, {"W101", "W102", "W106"}),
        ({"keepalives_idle": 10**10}, {"E009", "W101", "W102"}),
        ({"connect_timeout": "5s"}, {"W109"}),
    ],
)
def test_what_is_no_number_is_not_called_unset(
    enter: Any, engine: str, options: dict[str, Any], without: set[str]
) -> None:
    enter(engine, OPTIONS=options)
    found = {one.id.removeprefix(PREFIX): one for one in findings(from_settings(ALIAS))}
    assert not without & set(found)
    ((name, value),) = options.items()
    assert f'{name} is "{value}": libpq takes' in found["E002"].message
    assert found["E002"].hint == "Correct this entry of DATABASES."
    assert "Unix" not in str(schema(from_settings(ALIAS)))


def schema(known: Survey) -> dict[str, Any]:
    report = document([Inspection.of(known)], Level.ERROR)
    validate(report)
    return report


def after_an_attempt(**params: str) -> Connector:
    def fail(**given: object) -> None:
        raise OSError("nobody there")

    connect = Connector(fail, lambda: params)
    with pytest.raises(OSError, match="nobody there"):
        connect({})
    return connect


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('password authentication failed for user "app"',) * 2,
        ('invalid value "password" for it', 'invalid value "***" for it'),
        ("no such thing: user=app password=password", "no such thing: user=app password=***"),
        ("postgres://app:password@db/shop", "postgres://***@db/shop"),
    ],
)
def test_a_password_that_is_a_word_is_hidden_where_it_is_a_value(text: str, shown: str) -> None:
    connect = after_an_attempt(user="app", password="password")
    assert connect.hide(text) == shown


def test_what_stands_behind_the_user_is_hidden_too() -> None:
    connect = after_an_attempt(user="app:hunter2", password="x")
    assert connect.hide('authentication failed for user "app:hunter2"').endswith('"app:***"')


def test_the_lines_of_a_key_are_hidden() -> None:
    connect = after_an_attempt(sslkey="-----BEGIN PRIVATE KEY-----\nMIHs/MFc+\n")
    assert connect.hide('no file "MIHs/MFc+"') == 'no file "***"'


def test_any_other_password_is_hidden_wherever_it_is() -> None:
    connect = after_an_attempt(password="hunter2")
    assert connect.hide("it was hunter2, as hunter2s know") == "it was ***, as hunter2s know"
