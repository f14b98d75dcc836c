"""``"ENGINE": "django_resilient_pg.postgis"``: GeoDjango's PostGIS engine with the mixin over it.

Importing it needs the libraries GDAL and GEOS, as importing GeoDjango's own does.
"""

from django.contrib.gis.db.backends.postgis import base

from ..mixins import ResilientDatabaseMixin


class DatabaseWrapper(ResilientDatabaseMixin, base.DatabaseWrapper):
    """GeoDjango's wrapper: its adapters are registered on every new connection, as ever."""
