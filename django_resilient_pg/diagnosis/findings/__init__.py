"""Findings: what is wrong, why it kills connections, and what to change. Pure."""

from __future__ import annotations

import traceback

from ...policy.plain import plain
from ..survey.survey import Survey
from . import certificates, connecting, keepalives, lifetimes, measured, poolers, servers, tls
from .base import PREFIX, RULES, Finding, Found, Level, Rule

__all__ = ["MODULES", "PREFIX", "RULES", "Finding", "Found", "Level", "Rule", "findings"]

#: Importing them fills the registry.
MODULES = (connecting, certificates, tls, keepalives, lifetimes, measured, poolers, servers)


def findings(survey: Survey, *, connects: bool | None = None) -> tuple[Finding, ...]:
    """Apply all rules, and return what they found, the worst first.

    Args:
        survey: what is known.
        connects: only the rules that need a connection, or only those that do not.
    """
    made = []
    for rule in RULES.values():
        found = _judged(rule, survey) if connects in {None, rule.connects} else None
        if found is not None:
            made.append(found)
    return tuple(sorted(made, key=lambda one: (-one.level, one.id)))


def _judged(rule: Rule, survey: Survey) -> Finding | None:
    """Apply one rule. If it fails, that is the finding: most commands run these checks first."""
    try:
        found = rule.judge(survey)
    except Exception as error:
        return _failed(rule, error)
    if found is None:
        return None
    message, hint, evidence = map(plain, (found.message, found.hint, found.evidence))
    return Finding(rule.id, rule.level, message, hint, evidence, found.fix)


def _failed(rule: Rule, error: Exception) -> Finding:
    """Where, but not the words: they may hold a secret."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return Finding(
        rule.id,
        Level.WARNING,
        f'The rule "{rule.title}" failed with a {type(error).__name__}.',
        "Report this to the authors of django-resilient-pg. Until then, add the id to "
        "SILENCED_SYSTEM_CHECKS.",
        f"Raised in {place.filename}, line {place.lineno}.",
        {},
    )
