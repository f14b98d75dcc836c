"""The settings of a package's own tests, on the server of this run.

Everything comes from the environment: the module with the package's settings, what to change in
every entry of ``DATABASES``, and further settings, as JSON.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

_theirs = import_module(os.environ["FOREIGN_SUITE_BASE"])
_given: dict[str, Any] = json.loads(os.environ["FOREIGN_SUITE_SETTINGS"])
_entry: dict[str, Any] = json.loads(os.environ["FOREIGN_SUITE_DATABASE"])

globals().update({name: value for name, value in vars(_theirs).items() if name.isupper()})
DATABASES = {alias: {**entry, **_entry} for alias, entry in _theirs.DATABASES.items()}
globals().update(_given)
