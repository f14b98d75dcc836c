"""``"ENGINE": "django_resilient_pg"``: Django's PostgreSQL engine with the mixin over it."""

from django.db.backends.postgresql import base

from .mixins import ResilientDatabaseMixin


class DatabaseWrapper(ResilientDatabaseMixin, base.DatabaseWrapper):
    """Django's PostgreSQL wrapper; vendor, features and operations are unchanged."""
