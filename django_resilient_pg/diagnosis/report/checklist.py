"""The seven questions that people ask by hand when connections die, answered where possible."""

from __future__ import annotations

import math
from typing import NamedTuple

from ...facts import Path
from ..findings.base import seconds
from ..path.certificates import validity
from ..path.login_stages import version
from ..survey.survey import Survey


class Step(NamedTuple):
    """One question.

    Attributes:
        question: as people ask it.
        answer: what was found.
        command: the one command that answers the rest, "" if nothing is left.
    """

    question: str
    answer: str
    command: str = ""


def checklist(survey: Survey) -> tuple[Step, ...]:
    """Answer all seven."""
    return (
        Step("Intermittent or constant?", *_constancy(survey)),
        Step("Is the server up?", *_up(survey)),
        Step("What does its log say?", *_log(survey)),
        Step("Is a proxy in between?", *_path(survey)),
        Step("Are the certificates valid?", *_certificates(survey)),
        Step("Keepalives on both sides?", *_keepalives(survey)),
        Step("Does the idle time match a timeout?", *_idle(survey)),
    )


def _constancy(survey: Survey) -> tuple[str, str]:
    failed = survey.failed
    if failed is None:
        return "Connecting works now: the failure is intermittent.", _again(survey, "--drill")
    kind = "It is transient." if survey.walk.retryable else "It is permanent."
    return f"Connecting fails now, in stage {failed.name}. {kind}", ""


def _again(survey: Survey, option: str) -> str:
    return f"manage.py checkdbconn --database {survey.alias} {option}"


def _up(survey: Survey) -> tuple[str, str]:
    if survey.facts is not None:
        return f"Yes: PostgreSQL {version(survey.facts.server_version)} answers.", ""
    accepting = [each for each in survey.walk.knocks if each.accepted]
    if accepting:
        return f"Something accepts connections at {accepting[0].place}.", ""
    hosts = survey.target.hosts
    if not hosts or hosts[0].unix:
        return "Unknown.", "pg_lsclusters" if hosts else ""
    name, port = hosts[0].name or hosts[0].address, hosts[0].port
    return "No server answered.", f"pg_isready -h {name} -p {port}"


def _log(survey: Survey) -> tuple[str, str]:
    if survey.provider is not None:
        return f"Read the log in the console of {survey.provider.name}.", ""
    words = "terminating|receive data|EOF"
    return "Read the log on the server.", f'grep -E "{words}" /var/log/postgresql/*.log'


def _path(survey: Survey) -> tuple[str, str]:
    facts, pooler = survey.facts, survey.pooler
    if facts is None:
        return "Unknown without a session.", ""
    if pooler is not None:
        return f"Yes, a pooler in {pooler.mode or 'an unknown'} mode. {pooler.evidence}", ""
    if facts.path is Path.UNKNOWN:
        return f"Unknown: {facts.path_evidence}", ""
    none = facts.path in {Path.DIRECT, Path.UNIX_SOCKET}
    return f"{'No' if none else f'Yes, {facts.path.value}'}. {facts.path_evidence}", ""


def _certificates(survey: Survey) -> tuple[str, str]:
    shake = survey.walk.tls
    if shake is None or not (shake.version or shake.certificate):
        return "No TLS handshake was made.", ""
    own = shake.certificate
    if own is None:
        return shake.certificate_note or "The certificate was not read.", ""
    chain = {True: "verified", False: f"not verified ({shake.verify_error})", None: "not checked"}
    name = {True: "matches", False: "does not match", None: "not checked"}[shake.hostname_matches]
    until = validity(own, survey.now)
    return f"The certificate {until}; chain {chain[shake.chain_verified]}; host name {name}.", ""


def _keepalives(survey: Survey) -> tuple[str, str]:
    real, facts = survey.keepalives, survey.facts
    if survey.refused or (real is None and survey.target.garbled):
        return "Unknown: the settings are refused.", ""
    if real is None:
        return "Not needed on a Unix socket.", ""
    ours = f"after {seconds(real.keepalives_idle)}" if real.keepalives else "off"
    if facts is None:
        return f"This side: {ours}. The server's keepalives are unknown without a session.", ""
    idle = facts.tcp_keepalives_idle
    theirs = f"after {seconds(idle)}" if idle else "not known"
    leg = " (towards the pooler or proxy)" if facts.path in _LEGS else ""
    return f"This side: {ours}. The server: {theirs}{leg}.", ""


_LEGS = {Path.POOLER, Path.NAT_OR_PROXY}


def _idle(survey: Survey) -> tuple[str, str]:
    limit = survey.idle_timeout
    if limit is not None and not math.isinf(limit.seconds):
        return f"Compare it with {seconds(limit.seconds)}: {limit.source}.", ""
    return "No idle timeout is known.", _again(survey, "--probe-idle")
