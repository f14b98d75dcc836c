"""Checks of an alias as ``checkdbconn`` makes them, on request, and the last one of each alias."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from ..conf.records import Record
from ..diagnosis.findings import Finding, findings
from ..diagnosis.report.inspection import Inspection
from ..diagnosis.survey.gather import from_settings, survey

#: Seconds for each connection stage: whoever has asked waits for the answer.
_STAGE: Final = 2.0


class Check(Record):
    """What a check has found.

    Attributes:
        at: when it was made.
        verdict: one sentence.
        findings: of settings and connection, the worst first.
    """

    at: datetime
    verdict: str
    findings: tuple[Finding, ...]


_last: dict[str, Check] = {}


def check(alias: str) -> Check:
    """Connect to a PostgreSQL alias, as ``checkdbconn`` does, and remember what was found."""
    inspection = Inspection.of(survey(alias, _STAGE))
    found = Check(datetime.now(UTC), inspection.verdict, inspection.findings)
    _last[alias] = found
    return found


def last(alias: str) -> Check | None:
    """The last check of this process."""
    return _last.get(alias)


def of_settings(alias: str) -> tuple[Finding, ...]:
    """What the settings alone show. Nothing is connected to."""
    return findings(from_settings(alias), connects=False)
