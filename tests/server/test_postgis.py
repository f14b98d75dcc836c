"""The engine for GeoDjango, on a PostgreSQL with PostGIS; Django's PostGIS engine beside it.

Needs GDAL and GEOS, and the programs of a PostgreSQL that has the extension: no wheel brings it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testproject.postgres import Server
from tests import needs
from tests.server.other_engines import ask, create

pytestmark = pytest.mark.once_per_driver

DATABASE = "places"
OURS = "django_resilient_pg.postgis"
BARE = "django.contrib.gis.db.backends.postgis"
SETTINGS = {"INSTALLED_APPS": ["django.contrib.contenttypes", "django.contrib.gis", "places"]}
NORTH = ["north", "POINT (13 55)"]
SCHEMA = [
    "CREATE EXTENSION postgis",
    """CREATE TABLE places_place
        (id bigserial PRIMARY KEY, name text, point geometry(POINT, 4326))""",
    "INSERT INTO places_place (name, point) VALUES ('north', 'SRID=4326;POINT(13 55)')",
    "ALTER TABLE places_place OWNER TO app",
]
RECOVERED: dict[str, Any] = {
    "read": [[42], []],
    "in_the_first_statement": [None, ["new", "newer"]],
    "geometry_read": [[NORTH], []],
    "geometry_in_a_transaction": [[["south", "POINT (13 -5)"]], []],
    "geometry_in_the_first_statement": [[NORTH], []],
    "in_the_second_statement": "OperationalError",
}


@pytest.fixture(scope="module")
def postgis_server() -> Iterator[Server]:
    with Server(pg_bin=needs.postgres_with("PostGIS")) as running:
        yield running


@pytest.fixture
def database(postgis_server: Server) -> str:
    create(postgis_server, DATABASE)
    postgis_server.execute(";".join(SCHEMA), database=DATABASE)
    return DATABASE


def test_geometries_are_read_and_written_through_losses(
    postgis_server: Server, database: str
) -> None:
    assert ask(postgis_server, database, OURS, SETTINGS, "losses", *RECOVERED) == RECOVERED


def test_djangos_own_postgis_engine_fails(postgis_server: Server, database: str) -> None:
    found = ask(postgis_server, database, BARE, SETTINGS, "losses", *RECOVERED)
    assert found == dict.fromkeys(RECOVERED, "OperationalError")


def test_the_extension_is_made_by_migrate(postgis_server: Server) -> None:
    """As with Django's engine: on the first migration, and geometries work at once."""
    postgis_server.drop_database(DATABASE)
    postgis_server.create_database(DATABASE)
    postgis_server.execute(f"ALTER ROLE {postgis_server.user} SUPERUSER")
    try:
        assert ask(postgis_server, DATABASE, OURS, SETTINGS, "prepared") == {"found": [NORTH]}
    finally:
        postgis_server.execute(f"ALTER ROLE {postgis_server.user} NOSUPERUSER")
