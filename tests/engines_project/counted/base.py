"""django-prometheus' engine with the mixin over it."""

from django_prometheus.db.backends.postgresql import base

from django_resilient_pg.mixins import ResilientDatabaseMixin


class DatabaseWrapper(ResilientDatabaseMixin, base.DatabaseWrapper):
    pass
