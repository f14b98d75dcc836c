"""What follows from the idle probe: in words, and as settings. Pure."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping

from ...policy.limits import Limit
from ...policy.parameters import TCP_DEFAULTS
from ...policy.verdicts import Reason
from ..findings.lifetimes import half, shorter_pool
from ..survey.survey import Measured
from .probe import ProbeResult
from .series import Found
from .sessions import Ending, How


class Cure(enum.Enum):
    """What keeps connections from dying of idleness here."""

    NONE_NEEDED = "none needed"
    KEEPALIVES = "keepalives"
    SHORT_IDLENESS = "short idleness"
    UNKNOWN = "unknown"


def cure(result: ProbeResult) -> Cure:
    """Return what helps here."""
    off, on = result.off, result.on
    if off.limited:
        # Proved only by one that was still good when the others were dead.
        helped = off.died is not None and on.survived > off.died
        return Cure.KEEPALIVES if helped and not on.limited else Cure.SHORT_IDLENESS
    if on.limited:
        return Cure.SHORT_IDLENESS
    ended = off.died is not None or on.died is not None
    nothing = max(off.survived, on.survived) == 0.0
    return Cure.UNKNOWN if ended or nothing else Cure.NONE_NEEDED


def settings(
    result: ProbeResult, *, resilient: bool, pool: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return what to put into the entry of DATABASES; nested, empty if there is no need.

    Args:
        result: of the probe.
        resilient: whether this engine serves the alias; Django's own knows no
            ``OPTIONS["resilience"]``.
        pool: the numbers in ``OPTIONS["pool"]``, ``None`` without one: with a pool Django takes no
            ``CONN_MAX_AGE``.
    """
    found = cure(result)
    if found is Cure.KEEPALIVES:
        return {"OPTIONS": keepalives_within(_good(result))}
    if found is not Cure.SHORT_IDLENESS:
        return {}
    good = _good(result)
    if resilient:
        return {"OPTIONS": {"resilience": {"idle_timeout": good}}}
    if pool is not None:
        return {"OPTIONS": {"pool": shorter_pool(pool, good)}}
    # No connection is idle for longer than it exists.
    return {"CONN_MAX_AGE": half(good)}


def measured(result: ProbeResult) -> Measured | None:
    """Return what the findings are to know of it, ``None`` if there is no idle timeout."""
    found = cure(result)
    if found not in {Cure.KEEPALIVES, Cure.SHORT_IDLENESS}:
        return None
    died = min(each.died or 0.0 for each in (result.off, result.on) if each.limited)
    good = _good(result)
    limit = Limit(good, f"the idle timeout measured by --probe-idle ({_time(died)})")
    return Measured(limit, died, keepalives_within(good) if found is Cure.KEEPALIVES else {})


def sentences(result: ProbeResult) -> list[str]:
    """Return what was found and what follows, a sentence or two each."""
    told = [_series(found) for found in (result.off, result.on) if found.sessions]
    told.append(_conclusion(result))
    count = "1 session" if result.sessions == 1 else f"{result.sessions} sessions"
    if result.spared:
        told.append(f"Measured with {count} only: {result.spared}.")
    if result.refusal:
        reason = result.refusal.rstrip(".")
        told.append(f"Measured with {count} only, the next one was refused: {reason}.")
    if result.interrupted:
        told.append(
            f"Interrupted after {_time(result.seconds)}: what takes longer is not known. Let it "
            f"run to the end, or ask for less than {_time(result.asked)}."
        )
    return told


def keepalives_within(good: float) -> dict[str, object]:
    """Return parameters that send two keepalives in the time that is good, ours if they do."""
    idle = max(1, min(int(TCP_DEFAULTS["keepalives_idle"]), math.floor(good / 2)))
    interval = max(1, min(int(TCP_DEFAULTS["keepalives_interval"]), idle // 2))
    return {**TCP_DEFAULTS, "keepalives_idle": idle, "keepalives_interval": interval}


def _good(result: ProbeResult) -> float:
    """The longest idle time that a connection survived; rounded down."""
    limited = [found for found in (result.off, result.on) if found.limited]
    good = min(found.survived or (found.died or 0.0) / 2 for found in limited)
    return math.floor(good) if good >= 100 else max(0.1, math.floor(good * 10) / 10)


def _series(found: Found) -> str:
    what = "With keepalives" if found.keepalives else "Without keepalives"
    if found.died is None:
        if not found.survived:
            return f"{what}, nothing was waited for long enough."
        return f"{what}, connections are still alive after {_time(found.survived)} idle."
    ending = _ending(found.ending)
    if not found.idle:
        return (
            f"{what}, a connection was lost after {_time(found.died)} ({ending}), but not for "
            "being idle."
        )
    good = f"alive after {_time(found.survived)} idle, " if found.survived else ""
    return f"{what}, connections are {good}dead after {_time(found.died)}: {ending}."


_HOW = {
    How.CLOSED: "closed without a message",
    How.RESET: "reset without a message",
    How.REFUSED: "the loss only shows at the next use",
    How.SILENT: "silently, without any answer",
}


def _ending(ending: Ending | None) -> str:
    if ending is None:
        return ""
    said = " ".join(ending.text.split())
    return f'with the message "{said}"' if ending.how is How.SAID else _HOW[ending.how]


def _conclusion(result: ProbeResult) -> str:
    found = cure(result)
    if found is Cure.UNKNOWN:
        return "Inconclusive: repeat the probe when nothing terminates sessions."
    if found is Cure.NONE_NEEDED:
        least = min(each.survived for each in (result.off, result.on) if each.sessions)
        return f"There is no idle timeout up to {_time(least)}."
    if found is Cure.KEEPALIVES:
        return (
            "A router or firewall forgets idle connections, and counts keepalives as traffic: send "
            "them more often than it forgets."
        )
    return _short(result)


def _short(result: ProbeResult) -> str:
    good, on = _good(result), result.on
    cause = "The server, a pooler or a proxy terminates idle connections"
    reasons = {found.ending.reason for found in (result.off, on) if found.ending}
    if Reason.SERVER_IDLE_TIMEOUT in reasons:
        cause = "The server terminates idle connections (idle_session_timeout)"
    if not on.limited:
        return (
            f"Idle connections die, and whether keepalives prevent it was not seen: replace "
            f"connections that were idle for half of {_time(good)}."
        )
    return (
        f"{cause}, and keepalives do not prevent it: replace connections that were idle for half "
        f"of {_time(good)}, or raise the timeout."
    )


def _time(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"
