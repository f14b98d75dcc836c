"""The databases of a package's own tests, on the server of this run."""

from __future__ import annotations

import json
import os
from typing import Any, Final

_ENTRY: Final[dict[str, Any]] = json.loads(os.environ.get("SUITE_DATABASE", "{}"))


def changed(databases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every alias on the server of this run, those of another kind of server with new settings."""
    return {
        alias: {
            **(entry if "NAME" in entry and _is_postgresql(entry) else {"NAME": alias}),
            **_ENTRY,
        }
        for alias, entry in databases.items()
    }


def _is_postgresql(entry: dict[str, Any]) -> bool:
    return not any(part in entry.get("ENGINE", "") for part in ("sqlite", "mysql"))
