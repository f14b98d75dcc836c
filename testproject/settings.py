"""Settings of the test project: what differs between machines comes from the environment.

===============================  =======================  =========================================
variable                         default                  meaning
===============================  =======================  =========================================
``DATABASE_ENGINE``              ``django_resilient_pg``  stock: ``django.db.backends.postgresql``
``DATABASE_HOST``                ``localhost``
``DATABASE_PORT``                ``5432``
``DATABASE_NAME``                ``app``
``DATABASE_USER``                ``app``
``DATABASE_PASSWORD``            empty
``DATABASE_SSLROOTCERT``         unset                    file of the CA; sets sslmode=verify-full
``DATABASE_CONN_MAX_AGE``        ``60``                   whole seconds, or ``none`` for no limit
``DATABASE_CONN_HEALTH_CHECKS``  ``true``
``DATABASE_ATOMIC_REQUESTS``     ``false``
``DATABASE_OPTIONS``             ``{}``                   JSON, for example
                                                          ``{"resilience": {"read_retries": 3}}``
``DJANGO_SECRET_KEY``            a public one             set it where others can reach the example
``DJANGO_DEBUG``                 ``false``
``DJANGO_ALLOWED_HOSTS``         local names              comma-separated
``DJANGO_LOG_LEVEL``             ``WARNING``              of all that is logged, to standard error
===============================  =======================  =========================================

Used as it is by ``manage.py``, pytest-django, gunicorn (``testproject.wsgi``) and uvicorn
(``testproject.asgi``).
"""

import os

from testproject import environment

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "public, for an example on this machine only")
DEBUG = environment.flag("DJANGO_DEBUG", os.environ.get("DJANGO_DEBUG", "false"))
ALLOWED_HOSTS = os.environ.get(
    "DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1],testserver"
).split(",")

INSTALLED_APPS = ["django_resilient_pg", "testproject.shop"]
# No sessions and no cookies, hence no CSRF middleware: this is a JSON service.
MIDDLEWARE = [
    "django.middleware.common.CommonMiddleware",
    "django_resilient_pg.middleware.RequestRetryMiddleware",
]
ROOT_URLCONF = "testproject.urls"
WSGI_APPLICATION = "testproject.wsgi.application"
ASGI_APPLICATION = "testproject.asgi.application"

DATABASES = {"default": environment.database(os.environ)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": os.environ.get("DJANGO_LOG_LEVEL", "WARNING")},
}
