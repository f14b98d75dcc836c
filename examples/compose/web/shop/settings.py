"""Settings behind PgBouncer in transaction mode."""

import os
from pathlib import Path

SECRETS = Path(os.environ.get("SECRETS", "/run/secrets"))


def secret(name: str) -> str:
    """A secret that Compose mounts as a file."""
    return (SECRETS / name).read_text(encoding="utf-8").strip()


SECRET_KEY = secret("secret_key")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True

DATABASES = {
    "default": {
        "ENGINE": "django_resilient_pg",
        "NAME": "shop",
        "USER": "shop",
        "PASSWORD": secret("password"),
        "HOST": os.environ["DATABASE_HOST"],
        "PORT": os.environ["DATABASE_PORT"],
        "CONN_MAX_AGE": 300,
        # In transaction mode a cursor does not outlive its transaction.
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "OPTIONS": {
            # PgBouncer and the web server share one network of this machine.
            "sslmode": "disable",
            # PgBouncer's client_idle_timeout, which nobody can read from outside.
            "resilience": {"idle_timeout": 600},
        },
    }
}

INSTALLED_APPS = ["django_resilient_pg"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django_resilient_pg.middleware.RequestRetryMiddleware",
]
RESILIENT_PG_UNAVAILABLE_RESPONSE = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django_resilient_pg": {"handlers": ["console"], "level": "INFO"}},
}
