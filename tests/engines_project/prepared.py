"""Create PostGIS and a table as ``migrate`` does, write and read a geometry; print it as JSON."""

import json

import django
from django.db import connection


def main() -> None:
    django.setup()
    from django.contrib.gis.geos import Point
    from places.models import Place

    connection.prepare_database()
    with connection.schema_editor() as editor:
        editor.create_model(Place)
    Place.objects.create(name="north", point=Point(13.0, 55.0, srid=4326))
    print(json.dumps({"found": [[place.name, place.point.wkt] for place in Place.objects.all()]}))


if __name__ == "__main__":
    main()
