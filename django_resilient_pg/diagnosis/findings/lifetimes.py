"""How long connections are kept, and whether something on the way ends them before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..survey.survey import Survey
from .base import COUNTERPARTS, Found, rule, seconds
from .wanted import USUAL, wanted

# psycopg_pool's own defaults.
_POOL_MAX_IDLE: Final = 600.0
_POOL_MIN_SIZE: Final = 4
# Of a server that sleeps: longer would keep it awake, and it ends connections when it falls asleep.
# Enough to spare nearly all requests the connecting.
_AGE: Final = 60
_SLEEPY_AGE: Final = 300.0


def half(timeout: float) -> int:
    """The age to set against an idle timeout, with room for the last use; 0: keep none."""
    return int(timeout / 2)


@rule("W121", "CONN_MAX_AGE is above the idle timeout", connects=True)
def age_above_timeout(survey: Survey) -> Found | None:
    """Django's engine finds out by an error."""
    limit, age = survey.idle_timeout, survey.project.conn_max_age
    if limit is None or survey.project.resilient or survey.project.pool is not None:
        return None
    if (age is not None and age <= limit.seconds) or asgi(survey) is not None:
        return None
    shorter = half(limit.seconds)
    # GeoDjango's engine has a counterpart; nobody knows what another one does besides.
    ours = COUNTERPARTS.get(survey.project.engine)
    engine = f"ENGINE to {ours}" if ours else "use this package's engine"
    return Found(
        f"CONN_MAX_AGE is {seconds(age)}, but idle connections are terminated after "
        f"{seconds(limit.seconds)}.",
        f"Set CONN_MAX_AGE to {shorter}, or {engine}, which clamps it.",
        f"The timeout: {limit.source}.",
        {"CONN_MAX_AGE": shorter},
    )


@rule("I221", "CONN_MAX_AGE is clamped", connects=True)
def clamped(survey: Survey) -> Found | None:
    """This package's engine keeps connections for less than is configured."""
    age, limits = survey.project.conn_max_age, survey.limits
    if not survey.project.resilient or limits is None or limits.age is None:
        return None
    if age is not None and age <= limits.age:
        return None
    return Found(
        f"The engine keeps connections for {seconds(limits.age)} instead of {seconds(age)}.",
        "No action is needed.",
        f"Decided by {limits.age_source}.",
    )


@rule("W122", "Connections live forever without keepalives")
def for_ever(survey: Survey) -> Found | None:
    """``CONN_MAX_AGE = None`` needs keepalives more than anything else."""
    real = survey.keepalives
    if survey.refused or survey.project.conn_max_age is not None or real is None:
        return None
    if real.keepalives and (real.keepalives_idle or 0) < USUAL:
        return None
    age = 0 if asgi(survey) is not None else _age(survey)
    first = f"the first keepalive is sent after {seconds(real.keepalives_idle)}"
    return Found(
        "CONN_MAX_AGE is None, and no keepalive keeps the path to idle connections open.",
        f"Set keepalives_idle to {wanted(survey)['keepalives_idle']}, or CONN_MAX_AGE to {age}"
        f"{' or less' if age else ''}.",
        f"From the settings: {first if real.keepalives else 'keepalives are off'}.",
        {"CONN_MAX_AGE": age},
    )


def _age(survey: Survey) -> int:
    """The age that spares most of the connecting, below every timeout known."""
    limit = survey.idle_timeout
    return _AGE if limit is None else min(_AGE, half(limit.seconds))


@rule("I223", "Every request connects anew", connects=True)
def no_reuse(survey: Survey) -> Found | None:
    """``CONN_MAX_AGE = 0``, Django's default, with what it costs."""
    spent, age = survey.walk.connect_seconds, _age(survey)
    unused = survey.project.pool is not None or survey.project.serving == "ASGI"
    # Without an age nothing lives long enough to be kept.
    if survey.project.conn_max_age != 0 or unused or spent is None or not age:
        return None
    checks = survey.project.resilient or not _sleeps(survey)
    return Found(
        f"CONN_MAX_AGE is 0: every request spends {spent * 1000:.0f} ms on connecting.",
        f"Set CONN_MAX_AGE to {age} and CONN_HEALTH_CHECKS to {checks} (not under ASGI).",
        f"Logging in took {spent * 1000:.1f} ms.",
        {"CONN_MAX_AGE": age, "CONN_HEALTH_CHECKS": checks},
    )


def _sleeps(survey: Survey) -> bool:
    """Whether a check before every request would keep the server awake (W146)."""
    return survey.provider is not None and survey.provider.scale_to_zero


@rule("W124", "Persistent connections under ASGI")
def asgi(survey: Survey) -> Found | None:
    """Each request may run in another thread: connections are left behind."""
    own = survey.project
    if own.resilient or own.serving != "ASGI" or own.conn_max_age == 0:
        return None  # this package's engine keeps none beyond their thread
    return Found(
        f"CONN_MAX_AGE is {seconds(own.conn_max_age)} under ASGI: connections are kept "
        "per thread and accumulate until the server has no slots left.",
        "Set CONN_MAX_AGE to 0, and put a pooler in front of the server if connecting is slow.",
        "INSTALLED_APPS or ASGI_APPLICATION without WSGI_APPLICATION say so.",
        {"CONN_MAX_AGE": 0},
    )


@rule("W125", "Persistent connections are not checked")
def unchecked(survey: Survey) -> Found | None:
    """Django's engine hands out a connection that died."""
    own = survey.project
    if survey.refused or own.resilient or own.health_checks or own.conn_max_age == 0:
        return None
    if own.pool is not None or _sleeps(survey) or asgi(survey) is not None:
        return None  # W126, W146 and W124 know better
    return Found(
        "Connections are kept between requests, but CONN_HEALTH_CHECKS is off: the first request "
        "after a restart or a drop fails.",
        "Set CONN_HEALTH_CHECKS to True.",
        f"CONN_MAX_AGE is {seconds(own.conn_max_age)}.",
        {"CONN_HEALTH_CHECKS": True},
    )


@rule("W126", "The pool's check stalls after a restart")
def pool_check(survey: Survey) -> Found | None:
    """psycopg #711: each dead connection found makes the pool wait longer."""
    pool = survey.project.pool
    if pool is None or survey.project.resilient or not survey.project.health_checks:
        return None
    return Found(
        "The pool checks connections as it hands them out: after a restart it waits longer after "
        "each dead one, up to 30 s in all.",
        'Set CONN_HEALTH_CHECKS to False with OPTIONS["pool"], or use this package\'s engine, '
        "whose pool checks without a round trip.",
        "CONN_HEALTH_CHECKS with a pool is ConnectionPool.check_connection (psycopg #711).",
        {"CONN_HEALTH_CHECKS": False},
    )


@rule("W127", "The pool keeps connections longer than the path", connects=True)
def pool_idle(survey: Survey) -> Found | None:
    """``max_idle``, and what ``min_size`` keeps for ever, outlive the timeout."""
    pool, limit = survey.project.pool, survey.idle_timeout
    if pool is None or limit is None or (survey.project.resilient and "max_idle" not in pool):
        return None  # it is kept to the engine's limits
    kept = pool.get("max_idle", _POOL_MAX_IDLE)
    if kept <= limit.seconds:
        return None
    fix = shorter_pool(pool, limit.seconds)
    return Found(
        f"The pool keeps idle connections for {seconds(kept)}, but they are terminated after "
        f"{seconds(limit.seconds)}.",
        f'Set in OPTIONS["pool"]: {", ".join(f"{name} to {fix[name]:g}" for name in fix)}.',
        f"The timeout: {limit.source}.",
        {"OPTIONS": {"pool": fix}},
    )


def shorter_pool(pool: Mapping[str, Any], timeout: float) -> dict[str, float]:
    """What makes a pool keep none for too long: only what changes, the rest is the user's own."""
    idle, least = half(timeout) or timeout / 2, pool.get("min_size", _POOL_MIN_SIZE)
    if not least:
        return {"max_idle": idle}
    # Else it would be min_size, and psycopg_pool refuses a pool of none.
    most = {} if "max_size" in pool else {"max_size": least}
    return {"min_size": 0, **most, "max_idle": idle}


@rule("W146", "A sleeping server is kept awake", connects=True)
def sleepy(survey: Survey) -> Found | None:
    """Providers that scale to zero bill for being awake, and end connections when they sleep."""
    own, age, provider = survey.project, survey.project.conn_max_age, survey.provider
    kept = age if survey.limits is None or not own.resilient else survey.limits.age
    pings = own.health_checks and not own.resilient
    long = kept is None or kept > _SLEEPY_AGE
    if provider is None or not provider.scale_to_zero or not (pings or long):
        return None
    why = "pings it before every request" if pings else f"keeps connections for {seconds(kept)}"
    return Found(
        f"{provider.name} sleeps when unused and terminates its connections then, but this project "
        f"{why}.",
        f"Set CONN_MAX_AGE to {int(_SLEEPY_AGE)} or less; this package's engine checks without "
        "pinging.",
        f"Recognised as {provider.name}; CONN_MAX_AGE is {seconds(age)}, CONN_HEALTH_CHECKS "
        f"{own.health_checks}.",
        ({"CONN_MAX_AGE": _age(survey)} if long else {})
        | ({"CONN_HEALTH_CHECKS": False} if pings else {}),
    )
