"""The JSON schema of checkdbconn's report, as the documentation has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

PATH: Final = Path(__file__).resolve().parents[1] / "docs" / "checkdbconn.schema.json"
SCHEMA: Final[dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))


def validate(report: dict[str, Any]) -> None:
    """Raise ``jsonschema.ValidationError`` unless the report is as documented."""
    pytest.importorskip("jsonschema").validate(report, SCHEMA)
