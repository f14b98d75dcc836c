"""The databases of a package's own tests, on the server of this run."""

from __future__ import annotations

import json
import os
from typing import Any, Final

_ENTRY: Final[dict[str, Any]] = json.loads(os.environ.get("SUITE_DATABASE", "{}"))


def changed(databases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every alias on the server of this run, those of another kind of server with new settings."""
    return {alias: {**_theirs(alias, entry), **_ENTRY} for alias, entry in databases.items()}


def _theirs(alias: str, entry: dict[str, Any]) -> dict[str, Any]:
    other = any(kind in entry.get("ENGINE", "") for kind in ("sqlite", "mysql"))
    return {"NAME": alias} if other or "NAME" not in entry else entry
