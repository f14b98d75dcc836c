"""Settings for ``tests/runtests.py`` of Django; the databases come from the environment as JSON."""

from __future__ import annotations

import json
import os

DATABASES = json.loads(os.environ["DJANGO_SUITE_DATABASES"])
SECRET_KEY = "of Django's own tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "scripts.django_suite.runner.RecordingRunner"
