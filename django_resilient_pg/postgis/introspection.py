"""``ENGINE + ".introspection"``, which other packages import: GeoDjango's own, unchanged."""

# First: on Django 6.1 some modules of its engine cannot be imported before it.
from django.db.backends.postgresql import base  # isort: skip

from django.contrib.gis.db.backends.postgis.introspection import *
