"""Who takes part, with which settings and pinned packages. Pure: imported in every environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

STOCK: Final = "django.db.backends.postgresql"
RESILIENT: Final = "django_resilient_pg"
PSYCOPG3, PSYCOPG2 = "psycopg", "psycopg2"
#: Connections of every pool: more than the threads of the load.
POOL_SIZE: Final = 8
_SQLALCHEMY: Final = ("SQLAlchemy==2.1.9",)
_POOL: Final = {"pool": {"min_size": POOL_SIZE, "max_size": POOL_SIZE}}
_KEPT: Final = {"CONN_MAX_AGE": None}
_CHECKED: Final = {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}
_NO_POOL2: Final = "Django's native pool needs psycopg 3"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to use PostgreSQL, as its own documentation says.

    Attributes:
        name: in the results.
        title: on the page.
        entry: of ``DATABASES``, beside the server; ``options``: its OPTIONS.
        apps: what goes into INSTALLED_APPS.
        packages: what its environment gets, pinned; none: it runs where this command runs.
        drivers: those it works with; ``why_not`` says why not with the other one.
        pool: whether a request borrows its connection from a pool.
        gevent: whether its process is patched by gevent.
        django: False: it is measured without Django's ORM and connections.
        each_request: a function that its middleware calls at the start of a request.
        retries: whether writes and transactions run under ``retry_atomic``.
        only_faults: it costs what another one costs, where nothing is wrong.
    """

    name: str
    title: str
    engine: str = STOCK
    entry: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    apps: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    drivers: tuple[str, ...] = (PSYCOPG3, PSYCOPG2)
    why_not: str = ""
    pool: bool = False
    gevent: bool = False
    django: bool = True
    each_request: str = ""
    retries: bool = False
    only_faults: bool = False


def engine_for(contestant: Contestant, driver: str) -> str:
    """The engine's name: some packages have one for each driver."""
    return contestant.engine.format(digit="3" if driver == PSYCOPG3 else "2")


CONTESTANTS: Final = (
    Contestant("stock", "Django", entry=_KEPT),
    Contestant("stock_checks", "Django, health checks", entry=_CHECKED),
    Contestant("resilient", "this engine", RESILIENT, entry=_CHECKED),
    Contestant(
        "resilient_retry",
        "this engine, retry_atomic",
        RESILIENT,
        entry=_CHECKED,
        retries=True,
        only_faults=True,
    ),
    Contestant(
        "dbconn_retry",
        "django-dbconn-retry",
        entry=_CHECKED,
        apps=("django_dbconn_retry",),
        packages=("django-dbconn-retry==0.3.1",),
    ),
    Contestant(
        "postgresql_reconnect",
        "django-postgresql-reconnect",
        "django_postgresql_reconnect.backend",
        entry={**_KEPT, "RECONNECT": True},
        packages=("django-postgresql-reconnect==1.2.0",),
        drivers=(PSYCOPG2,),
        why_not="it needs psycopg2",
        each_request="django_postgresql_reconnect.check_pgsql_connections",
    ),
    Contestant(
        "stock_pool",
        "Django's pool",
        options=_POOL,
        drivers=(PSYCOPG3,),
        why_not=_NO_POOL2,
        pool=True,
    ),
    Contestant(
        "stock_pool_checks",
        "Django's pool, health checks",
        entry={"CONN_HEALTH_CHECKS": True},
        options=_POOL,
        drivers=(PSYCOPG3,),
        why_not=_NO_POOL2,
        pool=True,
    ),
    Contestant(
        "resilient_pool",
        "this engine, pool",
        RESILIENT,
        options=_POOL,
        drivers=(PSYCOPG3,),
        why_not=_NO_POOL2,
        pool=True,
    ),
    Contestant(
        "db_connection_pool",
        "django-db-connection-pool",
        "dj_db_conn_pool.backends.postgresql",
        entry={"POOL_OPTIONS": {"POOL_SIZE": POOL_SIZE, "MAX_OVERFLOW": 0}},
        packages=("django-db-connection-pool==1.2.6", "sqlparams==6.2.0", *_SQLALCHEMY),
        pool=True,
    ),
    Contestant(
        "geventpool",
        "django-db-geventpool",
        "django_db_geventpool.backends.postgresql_psycopg{digit}",
        options={"MAX_CONNS": POOL_SIZE, "REUSE_CONNS": POOL_SIZE, "pool": False},
        packages=("django-db-geventpool==4.0.8", "gevent==26.9.0", "psycogreen==1.0.2"),
        pool=True,
        gevent=True,
    ),
    Contestant(
        "sqlalchemy",
        "SQLAlchemy, pool_pre_ping",
        packages=_SQLALCHEMY,
        pool=True,
        django=False,
    ),
)
BY_NAME: Final = {each.name: each for each in CONTESTANTS}
