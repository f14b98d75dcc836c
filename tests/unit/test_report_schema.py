"""docs/checkdbconn.schema.json: what it lists is what the code has, and it lets nothing pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_resilient_pg.diagnosis.findings import Level
from django_resilient_pg.diagnosis.path.stages import NAMES, Outcome
from django_resilient_pg.diagnosis.report.as_json import VERSION
from tests.report_schema import SCHEMA

DEFINED: dict[str, Any] = SCHEMA["$defs"]


def test_it_is_a_valid_schema() -> None:
    pytest.importorskip("jsonschema").Draft202012Validator.check_schema(SCHEMA)


def test_it_lists_what_the_code_has() -> None:
    finding, stage = (DEFINED[name]["properties"] for name in ("finding", "stage"))
    assert SCHEMA["properties"]["schema"] == {"const": VERSION}
    assert finding["level"] == {"enum": [level.word for level in Level]}
    assert stage["name"] == {"enum": list(NAMES)}
    assert stage["outcome"] == {"enum": [outcome.value for outcome in Outcome]}


def test_every_object_has_its_keys_and_no_others() -> None:
    """So that a key that comes or goes is noticed; a provider may get more columns."""
    found = list(objects(SCHEMA))
    assert len(found) > 20
    for one in found:
        if one is not DEFINED["provider"]:
            assert one["additionalProperties"] is False
            assert sorted(one["properties"]) == one["required"]


def objects(shape: Any) -> Iterator[dict[str, Any]]:
    if isinstance(shape, dict):
        if shape.get("type") == "object" and "properties" in shape:
            yield shape
        for one in shape.values():
            yield from objects(one)
    elif isinstance(shape, list):
        for one in shape:
            yield from objects(one)
