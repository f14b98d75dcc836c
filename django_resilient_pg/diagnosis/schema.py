"""The report for programs: JSON of a versioned shape.

Additions keep :data:`VERSION`; whatever a reader could stumble over raises it.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from django_resilient_pg import __version__

from . import fixes, idleness
from .checklist import checklist
from .details import details
from .findings import Level
from .inspection import Inspection
from .stages import NAMES, Outcome

VERSION: Final = 1

_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": ["number", "null"]}
_FLAG: Final = {"type": "boolean"}
_ANY: Final = {"type": ["object", "null"]}


def _object(properties: Mapping[str, object], optional: Iterable[str] = ()) -> dict[str, object]:
    required = sorted(set(properties) - set(optional))
    own = {"type": "object", "properties": dict(properties), "required": required}
    return {**own, "additionalProperties": False}


def _list(items: Mapping[str, object]) -> dict[str, object]:
    return {"type": "array", "items": dict(items)}


_FINDING: Final = _object(
    {
        "id": {"type": "string", "pattern": r"^resilient_pg\.[EWI]\d{3}$"},
        "level": {"enum": [level.word for level in Level]},
        "message": _TEXT,
        "hint": _TEXT,
        "evidence": _TEXT,
        "fix": {"type": "object"},
    }
)
_STAGE: Final = _object(
    {
        "name": {"enum": list(NAMES)},
        "outcome": {"enum": [outcome.value for outcome in Outcome]},
        "seconds": _NUMBER,
        "detail": _TEXT,
        "advice": _TEXT,
    }
)
_DATABASE: Final = _object(
    {
        "alias": _TEXT,
        "reachable": _FLAG,
        "verdict": _TEXT,
        "exit_status": {"enum": [0, 1, 3]},
        "findings": _list(_FINDING),
        "stages": _list(_STAGE),
        "facts": {"type": "object", "additionalProperties": _TEXT},
        "survey": {"type": "object"},
        "checklist": _list(_object({"question": _TEXT, "answer": _TEXT, "command": _TEXT})),
        "fix": {"type": "object"},
        "sslmodes": _ANY,
        "probe_idle": _ANY,
        "drill": _ANY,
    }
)
#: The JSON schema of :func:`document`.
SCHEMA: Final[dict[str, object]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "manage.py checkdbconn --format json",
    **_object(
        {
            "schema": {"const": VERSION},
            "version": _TEXT,
            "exit_status": {"enum": [0, 1, 3]},
            "databases": _list(_DATABASE),
        }
    ),
}


def document(inspections: Iterable[Inspection], fail_level: Level) -> dict[str, Any]:
    """The whole report, ready for ``json.dumps``."""
    databases = [_database(each, fail_level) for each in inspections]
    return {
        "schema": VERSION,
        "version": __version__,
        "exit_status": max((each["exit_status"] for each in databases), default=0),
        "databases": databases,
    }


def _database(inspection: Inspection, fail_level: Level) -> dict[str, Any]:
    survey = inspection.survey
    walk = survey.walk
    return {
        "alias": survey.alias,
        "reachable": inspection.reachable,
        "verdict": inspection.verdict,
        "exit_status": inspection.exit_status(fail_level),
        "findings": [
            {**plain(one._asdict()), "level": one.level.word} for one in inspection.findings
        ],
        "stages": [plain(stage) for stage in (walk.stages if walk is not None else ())],
        "facts": dict(details(survey)),
        "survey": _survey(inspection),
        "checklist": [step._asdict() for step in checklist(survey)],
        "fix": plain(fixes.merged(inspection.findings)),
        "sslmodes": plain(inspection.ladder),
        "probe_idle": _probe(inspection),
        "drill": plain(inspection.drill),
    }


def _probe(inspection: Inspection) -> dict[str, Any] | None:
    """The result with what follows from it; a refusal has no result."""
    probe = inspection.probe
    if probe is None:
        return None
    if isinstance(probe, str):
        return {"refused": probe, "sentences": [f"Not measured: {probe}"]}
    resilient = inspection.survey.project.resilient
    return {
        **plain(probe),
        "cure": idleness.cure(probe).value,
        "settings": plain(idleness.settings(probe, resilient=resilient)),
        "sentences": idleness.sentences(probe),
    }


def _survey(inspection: Inspection) -> dict[str, Any]:
    """The numbers behind ``facts``, as the package's own objects have them."""
    survey = inspection.survey
    names = ("project", "target", "asked", "limits", "server", "pooler", "facts")
    own = {name: plain(getattr(survey, name)) for name in names}
    own["target"].pop("home", None)
    return {**own, "tls": plain(survey.walk.tls) if survey.walk is not None else None}


def plain(value: Any) -> Any:
    """Return a value as JSON has it. Infinity, which it has not, is null."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: plain(getattr(value, name)) for name in names}
    if hasattr(value, "_asdict"):
        return {name: plain(each) for name, each in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
