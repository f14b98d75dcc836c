"""The packages whose own tests are run, pinned, and what is known to differ and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final

OURS: Final = "django_resilient_pg.postgresql"
#: The driver of this run.
PSYCOPG2: Final = find_spec("psycopg") is None
_TO_THE_LETTER: Final = (
    'it is skipped unless ENGINE is "django.db.backends.postgresql" to the letter'
)
_PYTEST: Final = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
_DJANGO: Final = ("-m", "django", "test", "--noinput")


@dataclass(frozen=True, slots=True)
class Suite:
    """One package.

    Attributes:
        package: the sdist, pinned.
        base: the module with the settings of its tests; "" where they call ``configure()``.
        command: what Python is given, to run them with ``--settings`` from the environment.
        folder: where they are run, within the sdist.
        engine_setting: the setting that takes the engine; "" for ENGINE itself.
        settings: what the package's documentation asks for with another engine.
        environ: of its tests.
        known: parts of the ids of tests that may differ, with the reason.
        psycopg2: whether the package works with it.
    """

    package: str
    base: str
    command: tuple[str, ...]
    folder: str = "."
    engine_setting: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)
    psycopg2: bool = True

    @property
    def runs_here(self) -> bool:
        """With the driver of this run."""
        return self.psycopg2 or not PSYCOPG2

    @property
    def name(self) -> str:
        """Without the version."""
        return self.package.partition("==")[0]

    @property
    def uses_pytest(self) -> bool:
        """Otherwise Django's test runner."""
        return self.command[:2] == _PYTEST[:2]


SUITES: Final = (
    Suite(
        "pytest-django==4.14.0",
        "pytest_django_test.settings_postgres",
        (*_PYTEST, "tests"),
    ),
    Suite(
        "django-pgschemas==1.3.2",
        "sandbox.settings",
        (*_PYTEST, "sandbox/tests"),
        engine_setting="PGSCHEMAS_ORIGINAL_BACKEND",
    ),
    Suite(
        "django-extensions==4.1",
        "tests.testapp.settings",
        # Theirs without the measuring of coverage.
        (*_PYTEST, "-o", "addopts=--nomigrations", "tests"),
        # The setting replaces the package's own list, whose names its tests go through.
        settings={
            "DJANGO_EXTENSIONS_RESET_DB_POSTGRESQL_ENGINES": [
                "django.db.backends.postgresql",
                "django.db.backends.postgresql_psycopg2",
                "django.db.backends.postgis",
                "django.contrib.gis.db.backends.postgis",
                OURS,
            ]
        },
        known={"test_sqldiff.SqlDiffTests::test_postgresql_to_dict": _TO_THE_LETTER},
    ),
    Suite(
        "django-debug-toolbar==8.0.0",
        "tests.settings",
        (*_DJANGO, "tests"),
        environ={"DB_BACKEND": "postgresql"},
        known={
            f"SQLPanelTestCase.test_{name}": "it compares the class of cursors with Django's own"
            for name in (
                "chunked_cursor_wrapper_singleton",
                "cursor_wrapper_async",
                "cursor_wrapper_singleton",
                "cursor_wrapper_asyncio_ctx",
            )
        },
    ),
    Suite(
        "django-cachalot==2.9.1",
        "settings",
        (*_DJANGO, "cachalot.tests", "cachalot.admin_tests"),
        settings={"CACHALOT_ADDITIONAL_SUPPORTED_DATABASES": [OURS]},
        environ={"DB_ENGINE": "postgresql", "CACHE_BACKEND": "locmem"},
    ),
    Suite(
        "django-tenants==4.0.1",
        "dts_test_project.settings",
        (*_DJANGO, "django_tenants"),
        folder="dts_test_project",
        engine_setting="ORIGINAL_BACKEND",
    ),
    Suite(
        "djangorestframework==3.18.3",
        "",
        (*_PYTEST, "-p", "scripts.suites.configured", "tests"),
        known=dict.fromkeys(
            ("SearchFilterFullTextTests", "test_unaccented_search_lookups"), _TO_THE_LETTER
        ),
    ),
    Suite(
        "django-guardian==3.5.2",
        "guardian.testapp.testsettings",
        (*_PYTEST, "guardian/testapp/tests"),
    ),
    Suite(
        "django-treebeard==7.0.3",
        "tests.settings",
        (*_PYTEST, "tests"),
        environ={"DATABASE_ENGINE": "psql"},
    ),
    Suite(
        "django-reversion==6.4.0",
        "test_project.settings",
        (*_DJANGO, "test_app"),
        folder="tests",
    ),
    Suite(
        "django-model-utils==5.0.0",
        "tests.settings",
        (*_PYTEST, "tests"),
    ),
)
#: What cannot be run, and why.
WITHOUT_TESTS: Final = {
    "django-celery-beat 2.9.0": "its tests need pytest below 9",
    "django-pgactivity 1.8.0": "its sdists have no tests (1.7.1 neither)",
    "django-postgres-extra 3.0.1": "its sdists have the tests, but not the modules that they import"
    " (tests/fake_model.py and others) nor their settings (2.0.9 neither)",
}
