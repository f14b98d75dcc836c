"""Findings: what is wrong, why it kills connections, and what to change. Pure."""

from __future__ import annotations

from ..survey import Survey
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
        found = rule.judge(survey) if connects in {None, rule.connects} else None
        if found is not None:
            made.append(Finding(rule.id, rule.level, *found))
    return tuple(sorted(made, key=lambda one: (-one.level, one.id)))
