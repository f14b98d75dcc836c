"""Keepalives and timeouts of the socket: whether a dead peer is noticed, and an idle path kept.

Numbers: those of :mod:`django_resilient_pg.policy.parameters`; tcp(7) on TCP_USER_TIMEOUT.
"""

from __future__ import annotations

from ..settings.project import KEEPALIVES, keepalives_expected
from ..survey.survey import Survey
from .base import Found, rule, seconds
from .connecting import out_of_bounds
from .lifetimes import half
from .wanted import (
    KERNEL,
    LEAST_USER_TIMEOUT,
    USUAL,
    changes,
    fits,
    in_force,
    path_timeout,
    wanted,
    words,
)


@rule("W101", "Keepalives are off")
def off(survey: Survey) -> Found | None:
    """``keepalives=0``, or the socket has none."""
    real = survey.keepalives
    if real is None or real.keepalives:
        return None
    return Found(
        "TCP keepalives are off, and with them tcp_user_timeout: a connection whose path dies is "
        "noticed late, an idle one never.",
        "Remove keepalives=0, or set it to 1 and keepalives_idle to "
        f"{wanted(survey)['keepalives_idle']}.",
        _where(survey, "SO_KEEPALIVE is off"),
        {"OPTIONS": wanted(survey)},
    )


@rule("W102", "Keepalives have the kernel's defaults")
def kernel_defaults(survey: Survey) -> Found | None:
    """The first probe after two hours is after every timeout on the way."""
    real = survey.keepalives
    late = real is not None and real.keepalives and (real.keepalives_idle or 0) >= KERNEL
    if real is None or not late or out_of_bounds(survey):
        return None
    best = wanted(survey)
    named = {name: best[name] for name in KEEPALIVES[1:4]}
    return Found(
        f"The first keepalive is sent after {seconds(real.keepalives_idle)} idle: firewalls, NAT "
        f"gateways and load balancers forget a connection after {USUAL:g} s or more.",
        f"Set {words(named)}.",
        _where(survey, f"TCP_KEEPIDLE is {seconds(real.keepalives_idle)}"),
        {"OPTIONS": best},
    )


@rule("W103", "Keepalives are rarer than the path's timeout")
def too_rare(survey: Survey) -> Found | None:
    """Keepalives that come after the flow was forgotten keep nothing."""
    real, path, fix = survey.keepalives, path_timeout(survey), changes(survey)
    idle = real.keepalives_idle if real is not None and real.keepalives else None
    if idle is None or not path.seconds <= idle < KERNEL or "keepalives_idle" not in fix:
        return None
    return Found(
        f"The first keepalive is sent after {seconds(idle)} idle, but the path may forget a "
        f"connection after {seconds(path.seconds)}.",
        f"Set {words(fix)}.",
        _where(survey, f"TCP_KEEPIDLE is {seconds(idle)}; {path.source}"),
        {"OPTIONS": fix},
    )


@rule("W104", "Keepalives do not help here", connects=True)
def in_vain(survey: Survey) -> Found | None:
    """Some providers count data only; connections kept longer than they allow are ended."""
    provider, age = survey.provider, survey.project.conn_max_age
    allowed = provider.idle_timeout if provider is not None else None
    if provider is None or provider.keepalives_help is not False or not allowed:
        return None
    if survey.project.resilient or (age is not None and age <= allowed):
        return None
    return Found(
        f"{provider.name} terminates connections without data for {seconds(allowed)}: keepalives "
        "do not count.",
        f"Set CONN_MAX_AGE to {half(allowed)} or less, or use this package's engine.",
        f"CONN_MAX_AGE is {seconds(age)}; {provider.source}.",
        {"CONN_MAX_AGE": half(allowed)},
    )


@rule("W105", "The socket does not have the keepalives asked for", connects=True)
def not_as_asked(survey: Survey) -> Found | None:
    """What libpq was given and what getsockopt returns."""
    real = survey.facts.socket.keepalives if survey.facts is not None else None
    if real is None or survey.keepalives is None:
        return None
    wanted = keepalives_expected(survey.asked, survey.kernel)
    pairs = zip(KEEPALIVES, wanted, real, strict=True)
    wrong = [f"{n}: asked {w:g}, is {r:g}" for n, w, r in pairs if r is not None and r != w]
    if not wrong or not real.keepalives:
        return None
    return Found(
        "The socket has other keepalive settings than those asked for.",
        "Ask for positive numbers; libpq makes 0 (the system's own) of others.",
        f"Read back from the socket: {', '.join(wrong)}.",
    )


@rule("W106", "No user timeout")
def no_user_timeout(survey: Survey) -> Found | None:
    """Keepalives do not run while data is under way."""
    real = survey.keepalives
    if real is None or real.user_timeout is None or real.user_timeout or not real.keepalives:
        return None
    fix = _with_timeout(survey)
    return Found(
        "tcp_user_timeout is not set: a statement sent into a dead path hangs for 15 minutes.",
        f"Set {words(fix)}.",
        _where(survey, "TCP_USER_TIMEOUT is 0"),
        {"OPTIONS": fix},
    )


def _with_timeout(survey: Survey) -> dict[str, int]:
    """The user timeout, and what has to change with it, unless another finding says that."""
    others = any(judge(survey) for judge in (off, kernel_defaults, too_rare))
    timeout = wanted(survey)["tcp_user_timeout"]
    return {**({} if others else changes(survey)), "tcp_user_timeout": timeout}


@rule("W107", "The user timeout is short")
def short_user_timeout(survey: Survey) -> Found | None:
    """It also terminates connections to a live peer that does not read for so long."""
    real = survey.keepalives
    timeout = real.user_timeout if real is not None else None
    if not timeout or timeout >= LEAST_USER_TIMEOUT:
        return None
    fix = _with_timeout(survey)
    return Found(
        f"tcp_user_timeout is {seconds(timeout)}: it terminates healthy connections too, when the "
        "server does not read for so long (COPY, a lock, a busy disk).",
        f"Set {words(fix, ' or more (it is in milliseconds)')}.",
        _where(survey, f"TCP_USER_TIMEOUT is {seconds(timeout)}"),
        {"OPTIONS": fix},
    )


@rule("W108", "The user timeout overrides the keepalive count")
def count_defeated(survey: Survey) -> Found | None:
    """With a user timeout Linux does not count probes; the two should say about the same."""
    real = survey.keepalives
    if real is None or not real.keepalives or not real.user_timeout:
        return None
    idle, interval = real.keepalives_idle or 0, real.keepalives_interval or 0
    count, fix = real.keepalives_count or 0, changes(survey)
    if idle >= path_timeout(survey).seconds or real.user_timeout < LEAST_USER_TIMEOUT:
        return None  # other findings say more
    if out_of_bounds(survey) or fits(in_force(survey)):
        return None
    return Found(
        f"tcp_user_timeout ({seconds(real.user_timeout)}) overrides keepalives_count: by "
        f"keepalives a dead peer would be found after {seconds(idle + interval * count)}.",
        f"Set {words(fix)}.",
        _where(survey, f"idle {seconds(idle)}, interval {seconds(interval)}, count {count}"),
        {"OPTIONS": fix},
    )


def _where(survey: Survey, text: str) -> str:
    source = "Read back from the socket" if survey.facts is not None else "From the settings"
    return f"{source}: {text}."
