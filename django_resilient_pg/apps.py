"""The app: the command ``checkdbconn`` and the system checks."""

from django.apps import AppConfig


class DjangoResilientPgConfig(AppConfig):
    """Holds no models; the engine works without it."""

    name = "django_resilient_pg"
    verbose_name = "Resilient PostgreSQL connections"

    def ready(self) -> None:
        """Enter the checks into Django's registry."""
        from .checks import databases, middleware, packages, serving

        databases.register()
        middleware.register()
        packages.register()
        serving.register()
