"""``ENGINE + ".introspection"``, which other packages import: Django's own, unchanged."""

# First: on Django 6.1 some modules of its engine cannot be imported before it.
from django.db.backends.postgresql import base
from django.db.backends.postgresql.introspection import *
