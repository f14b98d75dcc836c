"""Lose the session at each of several moments; print what the application saw, as JSON.

``python -m losses NAME...``: for each name an outcome ``[result, rows]``, or the error's class.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import django
from django.db import Error, connection, transaction
from ends import admin, end, ended_midway, pid

INSERT = "INSERT INTO thing (tenant) VALUES (%s)"
SLOW_INSERT = "INSERT INTO thing (tenant) SELECT %s FROM pg_sleep(1)"


def run(sql: str, params: Any = None) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return [row[0] for row in cursor.fetchall()] if cursor.description else []


def read() -> Any:
    end(pid())
    return run("SELECT 42")


def write() -> Any:
    end(pid())
    run(INSERT, ["new"])


def entering_a_transaction() -> Any:
    end(pid())
    with transaction.atomic():
        run(INSERT, ["new"])
        run(INSERT, ["newer"])


def before_the_first_statement() -> Any:
    with transaction.atomic():
        end(pid())
        run(INSERT, ["new"])
        run(INSERT, ["newer"])


def in_the_first_statement() -> Any:
    with ended_midway(), transaction.atomic():
        run(SLOW_INSERT, ["new"])
        run(INSERT, ["newer"])


def in_the_second_statement() -> Any:
    with ended_midway(), transaction.atomic():
        run(INSERT, ["new"])
        run(SLOW_INSERT, ["newer"])


def geometry_read() -> Any:
    from places.models import Place

    end(pid())
    return [[place.name, place.point.wkt] for place in Place.objects.order_by("id")]


def geometry_in_a_transaction() -> Any:
    from django.contrib.gis.geos import Point
    from places.models import Place

    with transaction.atomic():
        end(pid())
        Place.objects.create(name="south", point=Point(13.0, -5.0, srid=4326))
    near = Place.objects.filter(point__dwithin=(Point(13.0, -5.0, srid=4326), 1))
    return [[place.name, place.point.wkt] for place in near]


def geometry_in_the_first_statement() -> Any:
    from places.models import Place

    with ended_midway(), transaction.atomic():
        slow = Place.objects.extra(where=["pg_sleep(1) IS NOT NULL"])[:1]
        return [[place.name, place.point.wkt] for place in slow]


def outcome(scenario: Callable[[], Any], schema: str) -> Any:
    """What it returns, and the rows that are there afterwards; or how it failed."""
    connection.close()
    admin(f"TRUNCATE {schema}.thing")
    run("SELECT 1")
    try:
        result = scenario()
        run("SELECT 5")
    except Error as error:
        return type(error).__name__
    return [result, [row[0] for row in admin(f"SELECT tenant FROM {schema}.thing ORDER BY id")]]


def main() -> None:
    django.setup()
    schema = "public"
    if hasattr(connection, "set_schema"):
        schema = "t1"
        connection.set_schema(schema)
    print(json.dumps({name: outcome(globals()[name], schema) for name in sys.argv[1:]}))


if __name__ == "__main__":
    main()
