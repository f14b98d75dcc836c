"""The app: the command ``checkdbconn`` and the system checks."""

from django.apps import AppConfig
from django.core import checks


class DjangoResilientPgConfig(AppConfig):
    """Holds no models; the engine works without it."""

    name = "django_resilient_pg"
    verbose_name = "Resilient PostgreSQL connections"

    def ready(self) -> None:
        """Register the system checks."""
        from .middleware_checks import check_middleware
        from .serving_checks import check_asgi, check_credentials

        checks.register(check_middleware)
        checks.register(check_credentials)
        checks.register(check_asgi, deploy=True)
