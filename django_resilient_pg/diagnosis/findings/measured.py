"""What ``--probe-idle`` has measured, and the settings do not know."""

from __future__ import annotations

from ..survey.survey import Measured, Survey
from .base import Found, rule, seconds
from .wanted import wanted


@rule("W128", "The measured idle timeout is not in the settings", connects=True)
def measured(survey: Survey) -> Found | None:
    """Where Django's engine is to keep connections for less, W121 and W127 say so."""
    if (own := survey.measured) is None:
        return None
    return _keepalives(survey, own) if own.keepalives else _idleness(survey, own)


def _keepalives(survey: Survey, own: Measured) -> Found | None:
    real, project = survey.keepalives, survey.project
    if project.conn_max_age == 0 and project.pool is None:
        return None  # nothing is kept that could be forgotten
    sent = real.keepalives_idle if real is not None and real.keepalives else None
    best = wanted(survey)
    if sent and (sent < own.limit.seconds or sent <= best["keepalives_idle"]):
        return None
    first = f"the first keepalive is sent after {seconds(sent)}" if sent else "none is sent"
    return Found(
        f"The path forgets connections that are idle for {seconds(round(own.died, 1))}. Keepalives "
        f"prevent it, but {first}.",
        f"Set keepalives_idle to {best['keepalives_idle']}.",
        f"Measured: {own.limit.source}.",
        {"OPTIONS": best},
    )


def _idleness(survey: Survey, own: Measured) -> Found | None:
    known = survey.limits if survey.project.resilient else None
    if known is None or known.idle.seconds / survey.options.idle_margin <= own.died:
        return None
    return Found(
        f"Idle connections are terminated after {seconds(round(own.died, 1))}, which the engine "
        "only learns by losing one.",
        f'Set OPTIONS["resilience"]["idle_timeout"] to {own.limit.seconds:g}.',
        f"Measured: {own.limit.source}.",
        {"OPTIONS": {"resilience": {"idle_timeout": own.limit.seconds}}},
    )
