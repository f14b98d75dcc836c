"""A project for Django's test runner and for pytest-django; the database comes as JSON."""

import json
import os

SECRET_KEY = "of a project that is only tested"
DATABASES = {"default": json.loads(os.environ["RUNNER_DATABASE"])}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "stock_room"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
