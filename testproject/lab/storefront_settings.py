"""Settings of the application under load: those of the test project, with other views."""

from testproject.comparison import RESILIENT
from testproject.lab.sides import PATIENCE
from testproject.settings import *  # noqa: F403
from testproject.settings import DATABASES, MIDDLEWARE

ROOT_URLCONF = "testproject.lab.storefront"
# Without the engine the middleware has nothing to do.
if DATABASES["default"]["ENGINE"] != RESILIENT:
    MIDDLEWARE = [name for name in MIDDLEWARE if "RequestRetry" not in name]
RESILIENT_PG_REQUEST_DEADLINE = PATIENCE
# What fails and what the engine logs goes to the page of the lab, see testproject.lab.application.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {
        "django.request": {"level": "CRITICAL"},
        "django_resilient_pg": {"level": "DEBUG", "propagate": False},
    },
}
