"""The report for programs: JSON of a versioned shape, docs/checkdbconn.schema.json.

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

from ..idle_probe import advice
from . import fixes
from .checklist import checklist
from .details import details
from .inspection import Inspection

VERSION: Final = 1
_NAMES: Final = "project target asked limits server pooler measured facts client activity large"


def document(inspections: Iterable[Inspection], fail_level: int) -> dict[str, Any]:
    """The whole report, ready for ``json.dumps``."""
    databases = [_database(one, fail_level) for one in inspections]
    return {
        "schema": VERSION,
        "version": __version__,
        "exit_status": max((each["exit_status"] for each in databases), default=0),
        "databases": databases,
    }


def _database(inspection: Inspection, fail_level: int) -> dict[str, Any]:
    survey = inspection.survey
    return {
        "alias": survey.alias,
        "reachable": inspection.reachable,
        "verdict": inspection.verdict,
        "exit_status": inspection.exit_status(fail_level),
        "findings": [
            {**plain(one._asdict()), "level": one.level.word, "page": one.page}
            for one in inspection.findings
        ],
        "stages": plain(survey.walk.stages),
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
    sentences = inspection.probe_sentences
    if isinstance(probe, str):
        return {"refused": probe, "sentences": sentences}
    found = {"cure": advice.cure(probe), "settings": inspection.probe_settings}
    return {**plain(probe), **plain(found), "sentences": sentences}


def _survey(inspection: Inspection) -> dict[str, Any]:
    """The numbers behind ``facts``, as the package's own objects have them."""
    survey = inspection.survey
    own = {name: plain(getattr(survey, name)) for name in _NAMES.split()}
    del own["target"]["home"], own["target"]["garbled"]
    return {**own, "tls": plain(survey.walk.tls)}


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
