"""All that one run of ``checkdbconn`` has found out about one alias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from django.core import checks

from ..drill.drill import DrillResult
from ..findings import Finding, Level, findings
from ..idle_probe import advice
from ..idle_probe.probe import ProbeResult
from ..path.sslmodes import Ladder
from ..survey.survey import Survey

#: What ``--fail-level`` may be, from the strictest: the names of Django's ``check``. No finding is
#: critical, so with that only what was asked for and failed is a failure.
LEVELS: Final[Mapping[str, int]] = {
    **{level.word: level for level in Level},
    "critical": checks.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        survey: what is known.
        findings: what follows, the worst first.
        ladder: of ``--sslmodes``.
        probe: of ``--probe-idle``: its result, or why it was refused.
        drill: of ``--drill``.
    """

    survey: Survey
    findings: tuple[Finding, ...]
    ladder: Ladder | None = None
    probe: ProbeResult | str | None = None
    drill: DrillResult | None = None

    @classmethod
    def of(cls, survey: Survey, probe: ProbeResult | str | None = None) -> Inspection:
        """Judge a survey, with what the idle probe has found."""
        if isinstance(probe, ProbeResult):
            survey = replace(survey, measured=advice.measured(probe))
        return cls(survey, findings(survey), probe=probe)

    def adding(self, **more: Any) -> Inspection:
        """With the result of one more option."""
        return replace(self, **more)

    @property
    def reachable(self) -> bool:
        """Whether a session came about."""
        walk = self.survey.walk
        return walk is not None and walk.failed is None

    def count(self, level: Level) -> int:
        """How many findings of a level there are."""
        return sum(one.level is level for one in self.findings)

    def exit_status(self, fail_level: int) -> int:
        """0; 1: findings at that level, or not reachable for now; 3: the configuration is wrong."""
        walk = self.survey.walk
        if walk is not None and walk.exit_status:
            return walk.exit_status
        if self._failures:
            return 1
        return int(any(one.level >= fail_level for one in self.findings))

    @property
    def verdict(self) -> str:
        """One sentence."""
        walk = self.survey.walk
        if walk is not None and walk.failed is not None:
            when = "for now" if walk.retryable else "until the configuration is corrected"
            return f"Not reachable {when}: stage {walk.failed.name} failed."
        errors, warnings = self.count(Level.ERROR), self.count(Level.WARNING)
        counts = [_plural(errors, "error")] if errors else []
        counts += [_plural(warnings, "warning")] if warnings else []
        counts += self._failures
        if not counts:
            return "OK: no problems found."
        *first, last = counts
        return f"Reachable, with {', '.join(first)}{' and ' if first else ''}{last}."

    @property
    def _failures(self) -> list[str]:
        """What was asked for and did not go well, beyond the findings."""
        told = []
        if isinstance(self.probe, str):
            told.append("a refused idle probe")
        if self.drill is not None and not self.drill.survived:
            failed = self.drill.failed
            told.append("a failed drill" if failed else "an incomplete drill")
        return told


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
