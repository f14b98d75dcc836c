"""The settings of a package's own tests, on the server of this run.

Everything comes from the environment: the module with the package's settings, what to change in
every entry of ``DATABASES``, and further settings, as JSON.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

from scripts.suites.databases import changed

_theirs = import_module(os.environ["SUITE_BASE"])
_given: dict[str, Any] = json.loads(os.environ["SUITE_SETTINGS"])

globals().update({name: value for name, value in vars(_theirs).items() if name.isupper()})
DATABASES = changed(_theirs.DATABASES)
globals().update(_given)
