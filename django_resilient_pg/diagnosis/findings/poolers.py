"""What lies between: poolers that share sessions, proxies with timeouts of their own.

Sources: PgBouncer's feature matrix (https://www.pgbouncer.org/features.html); Django's
documentation, "Transaction pooling and server-side cursors".
"""

from __future__ import annotations

from ...facts import Path
from ..path.poolers import Pooler
from ..path.server import LARGE
from ..survey.survey import Survey
from .base import Found, rule, seconds


def _sharing(survey: Survey) -> Pooler | None:
    """The pooler, if it shares sessions between transactions."""
    pooler = survey.pooler
    return pooler if pooler is not None and pooler.mode in {"transaction", "statement"} else None


@rule("E012", "The pooler is in statement mode", connects=True)
def statements(survey: Survey) -> Found | None:
    """It refuses BEGIN, without which Django saves nothing that belongs together."""
    if survey.pooler is None or survey.pooler.mode != "statement":
        return None
    return Found(
        "The pooler is in statement mode, which refuses transactions: every atomic() fails.",
        "Set pool_mode = transaction or session for this database in PgBouncer.",
        survey.pooler.evidence,
    )


@rule("W134", "Large packets were lost or not checked", connects=True)
def large_packets(survey: Survey) -> Found | None:
    """A link with a smaller MTU drops them in silence: short statements work, others hang."""
    if survey.facts is None or survey.large or survey.target.unix:
        return None
    if survey.large is None:
        return Found(
            "Large packets were not checked: the session was lost before.",
            "Run the command again.",
            f"A statement of {LARGE // 1024} kB and its answer would have been sent.",
        )
    return Found(
        "Large packets do not get through: short statements work, large ones hang.",
        "Lower the MTU of this machine's interface (ip link set dev eth0 mtu 1400), or let ICMP "
        '"fragmentation needed" pass through every firewall on the path.',
        f"A statement of {LARGE // 1024} kB got no answer in time.",
    )


@rule("W131", "Server-side cursors through a transaction pooler", connects=True)
def cursors(survey: Survey) -> Found | None:
    """``iterator()`` outside of a transaction fetches from another server's session."""
    pooler = _sharing(survey)
    if pooler is None or not survey.project.server_side_cursors:
        return None
    return Found(
        "The pooler shares sessions between transactions: QuerySet.iterator() fails with "
        '"cursor does not exist".',
        "Set DISABLE_SERVER_SIDE_CURSORS to True.",
        pooler.evidence,
        {"DISABLE_SERVER_SIDE_CURSORS": True},
    )


@rule("W132", "Prepared statements through a transaction pooler", connects=True)
def prepared(survey: Survey) -> Found | None:
    """The next transaction may run where the statement was never prepared."""
    pooler, threshold = _sharing(survey), survey.project.prepare_threshold
    if pooler is None or threshold is None or pooler.max_prepared_statements:
        return None
    return Found(
        "The pooler shares sessions between transactions, and statements are prepared: they fail "
        'with "prepared statement does not exist".',
        'Remove OPTIONS["prepare_threshold"], or set max_prepared_statements in PgBouncer 1.21.',
        f"{pooler.evidence} prepare_threshold is {threshold}.",
        {"OPTIONS": {"prepare_threshold": None}},
    )


@rule("W133", "The pooler's mode is not known", connects=True)
def unknown_mode(survey: Survey) -> Found | None:
    """Neither W131 nor W132 can be ruled out, which must not read as if they were."""
    pooler = survey.pooler
    if pooler is None or pooler.mode is not None:
        return None
    return Found(
        "A pooler is in between; whether it shares sessions between transactions could not be "
        "determined.",
        "Let this role see PgBouncer's console (stats_users), or ask the pooler's operator. If it "
        "does, set DISABLE_SERVER_SIDE_CURSORS to True.",
        pooler.evidence,
    )


@rule("I204", "Keepalives end at a proxy", connects=True)
def proxied(survey: Survey) -> Found | None:
    """Each leg has keepalives and timeouts of its own."""
    facts = survey.facts
    if facts is None or facts.path not in {Path.POOLER, Path.NAT_OR_PROXY}:
        return None
    own = survey.project.resilient
    known = 'OPTIONS["resilience"]["idle_timeout"]' if own else "CONN_MAX_AGE"
    return Found(
        "The proxy may have an idle timeout of its own, which keepalives may not reset.",
        f"Measure it with manage.py checkdbconn --probe-idle, and set {known} below it.",
        facts.path_evidence,
    )


@rule("I222", "The engine does not know the pooler's idle timeout", connects=True)
def untold(survey: Survey) -> Found | None:
    """The engine does not ask PgBouncer's console; it would learn by the first loss."""
    pooler, told = survey.pooler, survey.options.idle_timeout
    timeout = pooler.client_idle_timeout if pooler is not None else None
    if not timeout or not survey.project.resilient or (told is not None and told <= timeout):
        return None
    return Found(
        f"The pooler terminates clients that are idle for {seconds(timeout)}, which the engine "
        "only learns by losing a connection.",
        f'Set OPTIONS["resilience"]["idle_timeout"] to {timeout:g}.',
        "client_idle_timeout, as PgBouncer's console shows it.",
    )
