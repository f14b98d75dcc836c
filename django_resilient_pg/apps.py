"""The app: the command ``checkdbconn``."""

from django.apps import AppConfig


class DjangoResilientPgConfig(AppConfig):
    """Holds no models; the engine works without it."""

    name = "django_resilient_pg"
    verbose_name = "Resilient PostgreSQL connections"
