"""The system check of packages that choose by the name of the engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.db import connections
from django.test import override_settings

from tests.engines import STOCK, Connections

SHORT = "django_resilient_pg"
LONG = "django_resilient_pg.postgresql"
GIS = "django_resilient_pg.postgis"
WITH_GIS = pytest.param(GIS, marks=pytest.mark.needs("GDAL", "GEOS"))
ALIAS = "packaged"
APPS = ["dbbackup", "cachalot", "django_extensions", "silk"]
RESET = "DJANGO_EXTENSIONS_RESET_DB_POSTGRESQL_ENGINES"

Install = Callable[..., AbstractContextManager[Any]]


def found() -> list[CheckMessage]:
    return [one for one in run_checks() if one.obj == ALIAS and one.id == "resilient_pg.W321"]


@pytest.fixture
def define() -> Iterator[Any]:
    """Define the database "packaged", which leads nowhere."""
    made = Connections(None)  # type: ignore[arg-type]

    def with_engine(engine: str) -> None:
        made.register(ALIAS, {"ENGINE": engine, "NAME": "nowhere", "HOST": "127.0.0.1"})

    yield with_engine
    made.close()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install apps of these names, of which nothing but the name may be wanted."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(*apps: str, **given: Any) -> AbstractContextManager[Any]:
        for app in apps:
            (tmp_path / app).mkdir()
            (tmp_path / app / "__init__.py").touch()
            (tmp_path / app / "settings.py").write_text("raise AssertionError('imported')")
        return override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, *apps], **given)

    yield install
    for app in APPS:
        sys.modules.pop(app, None)


def test_without_such_packages_it_is_silent(define: Any) -> None:
    define(SHORT)
    assert found() == []


@pytest.mark.parametrize("app", APPS)
def test_the_package_is_named_with_its_setting(app: str, define: Any, install: Install) -> None:
    define(SHORT)
    with install(app):
        (one,) = found()
    package = {"dbbackup": "django-dbbackup", "cachalot": "django-cachalot"}.get(app)
    assert (package or app.replace("silk", "django-silk").replace("_", "-")) in one.msg
    assert f'"{SHORT}"' in one.msg
    setting = {
        "dbbackup": f'DBBACKUP_CONNECTOR_MAPPING = {{"{SHORT}": "dbbackup.db.postgresql.',
        "cachalot": f'CACHALOT_ADDITIONAL_SUPPORTED_DATABASES = {{"{SHORT}"}}',
        "django_extensions": f'{RESET} = ["{SHORT}"]',
        "silk": f'"ENGINE" to "{LONG}"',
    }[app]
    assert setting in str(one.hint)
    assert "docs/packages.rst" in str(one.hint)


@pytest.mark.parametrize("app", APPS)
def test_djangos_own_engine_is_none_of_its_business(
    app: str, define: Any, install: Install
) -> None:
    define(STOCK)
    with install(app):
        assert found() == []


@pytest.mark.parametrize("engine", [SHORT, LONG, WITH_GIS])
@pytest.mark.parametrize(
    ("app", "name", "value"),
    [
        ("dbbackup", "DBBACKUP_CONNECTORS", lambda _: {ALIAS: {"CONNECTOR": "any.Connector"}}),
        ("dbbackup", "DBBACKUP_CONNECTOR_MAPPING", lambda engine: {engine: "any.Connector"}),
        ("dbbackup", "DBBACKUP_DATABASES", lambda _: ["default"]),
        ("cachalot", "CACHALOT_ADDITIONAL_SUPPORTED_DATABASES", lambda engine: [engine]),
        ("cachalot", "CACHALOT_USE_UNSUPPORTED_DATABASE", lambda _: True),
        ("cachalot", "CACHALOT_DATABASES", lambda _: [ALIAS]),
        ("cachalot", "CACHALOT_ENABLED", lambda _: False),
        ("django_extensions", RESET, lambda engine: (engine,)),
    ],
)
def test_with_the_setting_it_is_silent(
    engine: str, app: str, name: str, value: Any, define: Any, install: Install
) -> None:
    define(engine)
    with install(app, **{name: value(engine)}):
        assert found() == []


@pytest.mark.parametrize("engine", [LONG, WITH_GIS])
def test_the_path_alone_is_enough_where_a_part_of_it_is_looked_for(
    engine: str, define: Any, install: Install
) -> None:
    """Silk does the same for GeoDjango's own engine."""
    define(engine)
    with install("silk"):
        assert found() == []


@pytest.mark.parametrize(("engine", "known"), [(SHORT, False), (LONG, True)])
def test_sqldiff_takes_the_last_part_of_the_default_engine(
    engine: str, known: bool, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "ENGINE", engine)
    with install("django_extensions", **{RESET: [engine]}):
        hints = [str(one.hint) for one in run_checks() if one.id == "resilient_pg.W321"]
    assert len(hints) == (not known)
    assert known or f'"ENGINE" to "{LONG}"' in hints[0]


@pytest.mark.needs("GDAL", "GEOS")
def test_geodjango_has_a_connector_of_its_own(define: Any, install: Install) -> None:
    define(GIS)
    with install("dbbackup"):
        (one,) = found()
    assert f'{{"{GIS}": "dbbackup.db.postgresql.PgDumpGisConnector"}}' in str(one.hint)


@pytest.mark.parametrize(
    ("app", "name"),
    [
        ("dbbackup", "DBBACKUP_CONNECTORS"),
        ("dbbackup", "DBBACKUP_CONNECTOR_MAPPING"),
        ("cachalot", "CACHALOT_ADDITIONAL_SUPPORTED_DATABASES"),
        ("django_extensions", RESET),
    ],
)
def test_a_setting_that_is_none_is_no_traceback(
    app: str, name: str, define: Any, install: Install
) -> None:
    define(SHORT)
    with install(app, **{name: None}):
        assert len(found()) == 1
