"""Engines of other packages read their settings when they are imported: all come as JSON."""

import json
import os

SECRET_KEY = "of a project that is only tested"
INSTALLED_APPS = ["django.contrib.contenttypes"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

globals().update(json.loads(os.environ["ENGINES_SETTINGS"]))
