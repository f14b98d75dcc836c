"""All that one run of ``checkdbconn`` has found out about one alias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

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

    @property
    def reachable(self) -> bool:
        """Whether a session came about."""
        return bool(self.survey.walk.stages) and self.survey.failed is None

    @property
    def probe_sentences(self) -> list[str]:
        """What the idle probe found, or why it was refused."""
        if isinstance(self.probe, ProbeResult):
            return advice.sentences(self.probe)
        return [f"Not measured: {self.probe}"]

    @property
    def probe_settings(self) -> dict[str, object]:
        """What follows from the idle probe, as entries of DATABASES."""
        if not isinstance(self.probe, ProbeResult):
            return {}
        own = self.survey.project
        return advice.settings(self.probe, resilient=own.resilient, pool=own.pool)

    def count(self, level: Level) -> int:
        """How many findings of a level there are."""
        return sum(one.level is level for one in self.findings)

    def exit_status(self, fail_level: int) -> int:
        """0; 1: findings at that level, or not reachable for now; 3: the configuration is wrong."""
        bad = self._failures or any(one.level >= fail_level for one in self.findings)
        return self.survey.walk.exit_status or int(bool(bad))

    @property
    def verdict(self) -> str:
        """One sentence."""
        walk = self.survey.walk
        if walk.failed is not None:
            when = "for now" if walk.retryable else "until the configuration is corrected"
            return f"Not reachable {when}: stage {walk.failed.name} failed."
        levels = ((level.word, self.count(level)) for level in (Level.ERROR, Level.WARNING))
        counts = [f"{n} {word}{'s' if n > 1 else ''}" for word, n in levels if n]
        *first, last = [*counts, *self._failures] or [""]
        if not last:
            return "OK: no problems found."
        return f"Reachable, with {', '.join(first)}{' and ' if first else ''}{last}."

    @property
    def _failures(self) -> list[str]:
        """What was asked for and did not go well, beyond the findings."""
        told = ["a refused idle probe"] if isinstance(self.probe, str) else []
        if self.drill is not None and not self.drill.survived:
            told.append("a failed drill" if self.drill.failed else "an incomplete drill")
        return told
