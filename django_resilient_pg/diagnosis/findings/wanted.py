"""The keepalives to advise: one set of numbers, whichever finding gives a part of it.

Each rule for itself would undo what another one asks for: the first keepalive, the number of those
that may get lost and the user timeout belong together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from ...policy.limits import Limit
from ...policy.parameters import TCP_DEFAULTS
from ..settings.project import KEEPALIVES
from ..survey.survey import Survey

# The shortest of the usual timeouts of NAT gateways, firewalls and balancers (Azure's).
USUAL: Final = 240.0
# From here on it is the kernel's choice (Linux: 7200 s), not anybody's.
KERNEL: Final = 3600.0
#: Seconds; less ends healthy connections.
LEAST_USER_TIMEOUT: Final = 30.0
# Seconds for which a statement may hang: what is to be noticed later needs shorter keepalives.
_LONGEST: Final = 120.0

# include/net/tcp.h: MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL, MAX_TCP_KEEPCNT.
KEEPALIVE_BOUNDS: Final = {
    "keepalives_idle": 32_767,
    "keepalives_interval": 32_767,
    "keepalives_count": 127,
}

Numbers = dict[str, int]


def path_timeout(survey: Survey) -> Limit:
    """The shortest timeout on the way that keepalives reset."""
    known = [Limit(USUAL, f"the shortest of the usual ones is {USUAL:g} s")]
    if survey.options.idle_timeout is not None:
        own = survey.options.idle_timeout
        known.append(Limit(own, f"the option idle_timeout says {own:g} s"))
    provider = survey.provider
    if provider is not None and provider.idle_timeout and provider.keepalives_help:
        known.append(Limit(provider.idle_timeout, f"that of {provider.name}"))
    return min(known, key=lambda limit: limit.seconds)


def fits(numbers: Mapping[str, float]) -> bool:
    """Whether the user timeout, which overrides the count, says about the same as it.

    Half a minute is never too long: less than that ends healthy connections.
    """
    patience, timeout = _patience(numbers), numbers["tcp_user_timeout"] / 1000
    lowest = max(LEAST_USER_TIMEOUT, patience - numbers["keepalives_interval"])
    return lowest <= timeout <= max(LEAST_USER_TIMEOUT, 2 * patience)


def in_force(survey: Survey) -> Numbers:
    """What is on the socket, or will be; 0 for what is not known. Times as libpq has them."""
    real = survey.keepalives
    if real is None:
        return dict.fromkeys(KEEPALIVES, 0)
    on, *numbers, timeout = real
    found = (on is not False, *numbers, (timeout or 0) * 1000)
    return {name: math.ceil(value or 0) for name, value in zip(KEEPALIVES, found, strict=True)}


def wanted(survey: Survey) -> Numbers:
    """All five as they should be: the user's own where they are in order, else this engine's."""
    now = in_force(survey)
    idle = _idle(survey, now)
    measured = _measured(survey, now)
    if measured:
        return {**measured, "keepalives_idle": min(idle, measured["keepalives_idle"])}
    found = {**now, "keepalives": 1, "keepalives_idle": idle}
    for name in ("keepalives_interval", "keepalives_count"):
        ours, kernels = TCP_DEFAULTS[name], not survey.asked[name]  # the kernel's: 75 s, 9 times
        if not 1 <= found[name] <= KEEPALIVE_BOUNDS[name] or (kernels and found[name] > ours):
            found[name] = ours
    return _with_timeout(found)


def changes(survey: Survey) -> Numbers:
    """What has to change for that."""
    now = in_force(survey)
    return {name: value for name, value in wanted(survey).items() if value != now[name]}


def words(settings: Mapping[str, object], unit: str = " (milliseconds)") -> str:
    """To be continued after "Set "; the one time that is not in seconds has its unit."""
    units = {"tcp_user_timeout": unit}
    return ", ".join(f"{name} to {value}{units.get(name, '')}" for name, value in settings.items())


def _idle(survey: Survey, now: Numbers) -> int:
    path = path_timeout(survey).seconds
    if now["keepalives"] and 1 <= now["keepalives_idle"] < path:
        return now["keepalives_idle"]
    return max(1, min(TCP_DEFAULTS["keepalives_idle"], int(path / 2)))


def _measured(survey: Survey, now: Numbers) -> Numbers:
    """What the idle probe has found to help, if that is not there yet."""
    own = survey.measured
    if own is None or not own.keepalives:
        return {}
    if now["keepalives"] and 1 <= now["keepalives_idle"] < own.limit.seconds:
        return {}
    return {name: int(str(own.keepalives.get(name, TCP_DEFAULTS[name]))) for name in KEEPALIVES}


def _with_timeout(found: Numbers) -> Numbers:
    """The user timeout to these; where that would be a hang of minutes, shorter keepalives."""
    least = {**found, "tcp_user_timeout": int(LEAST_USER_TIMEOUT * 1000)}
    if fits(found):
        return found
    if found["tcp_user_timeout"] < least["tcp_user_timeout"] and fits(least):
        return least
    patience = max(LEAST_USER_TIMEOUT, _patience(found))
    if patience <= _LONGEST:
        return {**found, "tcp_user_timeout": int(patience * 1000)}
    idle = min(found["keepalives_idle"], TCP_DEFAULTS["keepalives_idle"])
    return {**TCP_DEFAULTS, "keepalives_idle": idle}


def _patience(numbers: Mapping[str, float]) -> float:
    """Seconds after which keepalives alone find a dead peer."""
    between = numbers["keepalives_interval"] * numbers["keepalives_count"]
    return numbers["keepalives_idle"] + between
