"""Failures as drivers show them, and the verdict on one."""

from __future__ import annotations

from django_resilient_pg.policy.verdicts import Failure, Phase, Verdict, judge


def verdict_fields(verdict: Verdict) -> dict[str, bool]:
    return {
        "connection_lost": verdict.lost,
        "transient": verdict.transient,
        "read_retry_safe": verdict.read_retry_safe,
        "write_retry_safe": verdict.write_retry_safe,
    }


def failed(
    text: str = "",
    phase: Phase = Phase.STATEMENT,
    *,
    lost: bool | None = None,
    sqlstate: str | None = None,
    severity: str | None = None,
    exception: str = "OperationalError",
) -> Verdict:
    return judge(Failure(phase, lost, exception, sqlstate, severity, text))
