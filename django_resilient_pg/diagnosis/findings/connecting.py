"""Refused settings, connections that fail, and missing timeouts."""

from __future__ import annotations

import math
from typing import Final

from ...conf.options import is_own
from ...policy.lookup import Lookup
from ...policy.parameters import connect_timeout
from ..path.stages import Stage
from ..survey.survey import Survey
from . import certificates
from .base import COUNTERPARTS, Found, rule
from .wanted import KEEPALIVE_BOUNDS, changes, wanted

# Since which libpq these parameters, or these values, exist (release notes of PostgreSQL).
_NEW: Final = {
    12: "tcp_user_timeout gssencmode",
    13: "channel_binding ssl_min_protocol_version ssl_max_protocol_version",
    14: "sslsni",
    16: "require_auth sslcertmode load_balance_hosts",
    17: "sslnegotiation",
    18: "min_protocol_version max_protocol_version sslkeylogfile servicefile",
}
_SINCE: Final = {name: since for since, names in _NEW.items() for name in names.split()}
_NEWER_ATTRS: Final = {"read-only", "primary", "standby", "prefer-standby"}


@rule("E001", "The settings are refused")
def refused(survey: Survey) -> Found | None:
    """Django or the engine raises ImproperlyConfigured."""
    if not survey.refused:
        return None
    return Found(survey.refused, "Correct this entry of DATABASES.", "Nothing was sent.")


@rule("E002", "The settings do not name a server")
def no_target(survey: Survey) -> Found | None:
    """Ports, hosts, services or values that libpq does not know."""
    if not survey.target.problems:
        return None
    return Found(" ".join(survey.target.problems), survey.target.advice, "Nothing was sent.")


@rule("E003", "The database cannot be reached for now", connects=True)
def unreachable(survey: Survey) -> Found | None:
    """A transient failure."""
    return _failure(survey) if survey.walk.retryable else None


@rule("E004", "The database refuses what is configured", connects=True)
def misconfigured(survey: Survey) -> Found | None:
    """A permanent failure."""
    stage = survey.failed
    known = stage is None or survey.walk.retryable or _told(survey, stage)
    return None if known else _failure(survey)


def _told(survey: Survey, stage: Stage) -> bool:
    """Whether a finding with an id of its own says why."""
    if survey.refused or survey.target.problems:
        return True
    if stage.name == "settings":
        return any(judge(survey) for judge in (foreign_options, old_libpq))
    if "setsockopt" in stage.detail.lower():
        return out_of_bounds(survey) is not None
    return any(judge(survey) for judge in _CERTIFICATES)


_CERTIFICATES: Final = (
    certificates.expired,
    certificates.wrong_name,
    certificates.untrusted,
    certificates.client_refused,
)


def _failure(survey: Survey) -> Found | None:
    if (stage := survey.failed) is None:
        return None
    rest = ", ".join(survey.walk.not_run)
    not_run = f" Not run: {rest}." if rest else ""
    took = f" after {stage.seconds:.3f} s" if stage.seconds is not None else ""
    evidence = f"The stage {stage.name} failed{took}.{not_run}"
    return Found(stage.detail, stage.advice, evidence)


@rule("E008", "libpq is too old for an option")
def old_libpq(survey: Survey) -> Found | None:
    """libpq refuses what it does not know."""
    major = survey.libpq // 10_000
    if not major:  # no driver was loaded
        return None
    newer = {n: v for n in survey.project.options if (v := _SINCE.get(n, 0)) > major}
    if survey.target.sslrootcert == "system" and major < 16:
        newer["sslrootcert=system"] = 16
    if survey.target.target_session_attrs in _NEWER_ATTRS and major < 14:
        newer[f"target_session_attrs={survey.target.target_session_attrs}"] = 14
    if not newer:
        return None
    asked = ", ".join(f"{name} (libpq {since})" for name, since in newer.items())
    return Found(
        f"libpq {major} does not know what the settings ask for: {asked}.",
        "Install a newer driver (its binary wheel includes libpq), or remove this.",
        f"The driver is {survey.driver} with libpq {survey.libpq}.",
    )


@rule("E009", "Keepalives are out of range")
def out_of_bounds(survey: Survey) -> Found | None:
    """libpq gives up where setsockopt fails. It makes 0 of what is negative."""
    if survey.refused or survey.target.unix or survey.asked["keepalives"] == 0:
        return None
    named = KEEPALIVE_BOUNDS.keys() - {*survey.target.garbled}  # E002 says so
    asked = {name: value for name, value in survey.asked.items() if name in named}
    wrong = [n for n, v in asked.items() if v is not None and not 1 <= v <= KEEPALIVE_BOUNDS[n]]
    if not wrong:
        return None
    told = ", ".join(f"{name} is {asked[name]}" for name in wrong)
    bounds = ", ".join(f"{name} from 1 to {KEEPALIVE_BOUNDS[name]}" for name in wrong)
    return Found(
        f"The system refuses these keepalive settings, and libpq does not connect: {told}.",
        f"Set {bounds}.",
        "From the settings; the bounds are those of Linux.",
        {"OPTIONS": {**{name: wanted(survey)[name] for name in wrong}, **changes(survey)}},
    )


@rule("E010", "Resilience options on another engine")
def foreign_options(survey: Survey) -> Found | None:
    """Django's engine passes them to libpq, which refuses them."""
    if survey.project.resilient or not any(map(is_own, survey.project.options)):
        return None
    ours = COUNTERPARTS.get(survey.project.engine)
    best = f'Set ENGINE to "{ours}"' if ours else "Put this package's mixin over that engine"
    return Found(
        'OPTIONS["resilience"] is set, but ENGINE is not this package\'s: libpq refuses it.',
        f"{best}, or remove the options.",
        f"ENGINE is {survey.project.engine}.",
        {"ENGINE": ours} if ours else {},
    )


@rule("W109", "No connect timeout")
def no_connect_timeout(survey: Survey) -> Found | None:
    """The kernel tries for two minutes and more per address, and waits for ever once connected."""
    target, hosts = survey.target, survey.target.hosts
    garbled = "connect_timeout" in target.garbled  # E002 says so
    if survey.refused or survey.target.unix or target.connect_timeout or garbled:
        return None
    # As this engine sets it: a server that sleeps takes longer to wake than five seconds.
    names, port = ",".join(host.name for host in hosts), hosts[0].port if hosts else ""
    enough = math.ceil(connect_timeout(Lookup({"host": names, "port": port}, {})))
    unset = "0" if "connect_timeout" in dict(target.sources) else "not set"
    # psycopg 3 has a limit of its own, 130 s.
    end = "" if survey.psycopg3 else ", or forever once it has accepted"
    return Found(
        f"connect_timeout is {unset}: a server that does not answer blocks every request for two "
        f"minutes and more{end}.",
        f"Set connect_timeout to {enough} (seconds, per address).",
        f"From the settings: connect_timeout is from {target.source('connect_timeout')}.",
        {"OPTIONS": {"connect_timeout": enough}},
    )
