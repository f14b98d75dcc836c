"""System checks of other packages that choose by the name in ``ENGINE``.

They look at ``INSTALLED_APPS`` and at settings only: no package is imported, and none is asked.
What each package does was read in its sources, in the versions that docs/packages.rst names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Warning
from django.db import DEFAULT_DB_ALIAS

from ..state.aliases import ours

#: The engine under the name that has "postgresql" in it.
LONG_PATH: Final = "django_resilient_pg.postgresql"
# What each package knows by itself, so that an engine composed with this one is judged as well.
_OF_DBBACKUP: Final = frozenset(
    {
        "django_prometheus.db.backends.postgresql",
        "django_prometheus.db.backends.postgis",
    }
)
_OF_CACHALOT: Final = frozenset({"django_prometheus.db.backends.postgresql"})
_OF_EXTENSIONS: Final = frozenset(
    {
        "psqlextra.backend",
        "django_zero_downtime_migrations.backends.postgres",
        "django_zero_downtime_migrations.backends.postgis",
        "django_prometheus.db.backends.postgresql",
        "django_prometheus.db.backends.postgis",
        "django_tenants.postgresql_backend",
    }
)
_SQLDIFF: Final = frozenset({"postgis", "postgresql", "postgresql_psycopg2"})


class _Trouble(NamedTuple):
    """What a package does with an alias that it does not recognise, and the setting for it."""

    message: str
    hint: str


def register() -> None:
    """Enter the check into Django's registry; once more changes nothing."""
    checks.register(check_packages)


def check_packages(app_configs: Sequence[Any] | None, **_: object) -> list[CheckMessage]:
    """Which installed packages do not know the engine of an alias, and what to set."""
    judges = [judge for app, judge in _JUDGES.items() if apps.is_installed(app)]
    if not judges:
        return []
    return [
        Warning(
            trouble.message,
            hint=f"{trouble.hint} Docs: docs/packages.rst.",
            obj=one.alias,
            id="resilient_pg.W321",
        )
        for one in ours()
        for judge in judges
        for trouble in judge(one.alias, str(one.settings_dict["ENGINE"]))
    ]


def _dbbackup(alias: str, engine: str) -> Iterator[_Trouble]:
    own = _mapping("DBBACKUP_CONNECTORS").get(alias)
    chosen = isinstance(own, Mapping) and own.get("CONNECTOR")
    known = {*_OF_DBBACKUP, *_mapping("DBBACKUP_CONNECTOR_MAPPING")}
    if chosen or engine in known or alias not in _setting("DBBACKUP_DATABASES", (alias,)):
        return
    kind = "PgDumpGisConnector" if engine.endswith("postgis") else "PgDumpBinaryConnector"
    yield _Trouble(
        f'django-dbbackup does not know the engine "{engine}" of "{alias}": it does not run'
        " pg_dump, and its backups lack every table without a model.",
        f'Set DBBACKUP_CONNECTOR_MAPPING = {{"{engine}": "dbbackup.db.postgresql.{kind}"}}.',
    )


def _cachalot(alias: str, engine: str) -> Iterator[_Trouble]:
    if (
        not _setting("CACHALOT_ENABLED", True)
        # A list of aliases is taken as it is.
        or _setting("CACHALOT_DATABASES", "supported_only") != "supported_only"
        or _setting("CACHALOT_USE_UNSUPPORTED_DATABASE", False)
        or engine in _OF_CACHALOT
        or engine in _setting("CACHALOT_ADDITIONAL_SUPPORTED_DATABASES", ())
    ):
        return
    yield _Trouble(
        f'django-cachalot does not know the engine "{engine}" of "{alias}": it caches nothing.',
        f'Set CACHALOT_ADDITIONAL_SUPPORTED_DATABASES = {{"{engine}"}}.',
    )


def _extensions(alias: str, engine: str) -> Iterator[_Trouble]:
    setting = "DJANGO_EXTENSIONS_RESET_DB_POSTGRESQL_ENGINES"
    if engine not in _setting(setting, _OF_EXTENSIONS):
        yield _Trouble(
            f'django-extensions does not know the engine "{engine}" of "{alias}": reset_db,'
            " reset_schema, drop_test_database, sqlcreate and sqldsn refuse it.",
            f'Set {setting} = ["{engine}"], with the other PostgreSQL engines of the project.',
        )
    # It looks at this alias alone.
    if alias == DEFAULT_DB_ALIAS and engine.rpartition(".")[2] not in _SQLDIFF:
        yield _Trouble(
            f'sqldiff of django-extensions does not see PostgreSQL in the engine "{engine}" of'
            f' "{alias}": it compares as for any database, and reports differences that are none.',
            _long_path(engine),
        )


def _silk(alias: str, engine: str) -> Iterator[_Trouble]:
    # GeoDjango's own engine has no "postgresql" in its name either.
    if "postgresql" not in engine and not engine.endswith("postgis"):
        yield _Trouble(
            f'django-silk does not see PostgreSQL in the engine "{engine}" of "{alias}":'
            " silk_clear_request_log deletes 800 rows at a time in place of TRUNCATE.",
            _long_path(engine),
        )


def _long_path(engine: str) -> str:
    if engine == "django_resilient_pg":
        return f'Set "ENGINE" to "{LONG_PATH}": the same engine.'
    return 'Give the engine\'s package a name that ends in "postgresql".'


def _setting(name: str, otherwise: Any) -> Any:
    """A setting; None counts as not set."""
    value = getattr(settings, name, None)
    return otherwise if value is None else value


def _mapping(name: str) -> Mapping[str, Any]:
    value = _setting(name, {})
    return value if isinstance(value, Mapping) else {}


_Judge = Callable[[str, str], Iterator[_Trouble]]
_JUDGES: Final[dict[str, _Judge]] = {
    "cachalot": _cachalot,
    "dbbackup": _dbbackup,
    "django_extensions": _extensions,
    "silk": _silk,
}
