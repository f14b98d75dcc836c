"""What is at the other end: standbys, full servers, impatient servers, old servers.

Source of the versions: https://www.postgresql.org/support/versioning/.
"""

from __future__ import annotations

from datetime import date
from typing import Final

from django.db import DEFAULT_DB_ALIAS

from ..path.login_stages import version
from ..survey.survey import Survey
from .base import Found, rule, seconds

#: The last day with fixes, by major version.
END_OF_LIFE: Final = {
    12: date(2024, 11, 21),
    13: date(2025, 11, 13),
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}
# Part of the usable slots from which on the next deployment may find none.
_FULL: Final = 0.85
# Transactions that wait for an HTTP call may take so long.
_SHORT: Final = 60.0
# Part of the server's limit from which on a transaction is close to it.
_NEAR: Final = 0.5
_ANY: Final = "any"


@rule("W141", "A standby where writes go", connects=True)
def standby(survey: Survey) -> Found | None:
    """An alias without routers gets all writes."""
    facts = survey.facts
    if facts is None or not (facts.in_recovery or facts.read_only) or not _written_to(survey):
        return None
    states = f"pg_is_in_recovery() is {facts.in_recovery}, transaction_read_only {facts.read_only}."
    if not facts.in_recovery:
        return Found(
            "Transactions are read-only here: every write fails.",
            "Reset default_transaction_read_only (ALTER ROLE ... RESET, ALTER DATABASE ... "
            "RESET, or the server's configuration).",
            states,
        )
    several = len(survey.target.hosts) > 1  # with one, there would be nothing to choose from
    return Found(
        "The server is a standby: every write fails.",
        'Connect to the primary: list all servers in HOST and set OPTIONS["target_session_attrs"] '
        'to "read-write".',
        states,
        {"OPTIONS": {"target_session_attrs": "read-write"}} if several else {},
    )


def _written_to(survey: Survey) -> bool:
    """Whether writes go here, as far as the settings tell."""
    return survey.alias == DEFAULT_DB_ALIAS or not survey.project.routed


@rule("W142", "Several hosts, any of them is used")
def any_host(survey: Survey) -> Found | None:
    """libpq takes the first that answers, which may be a standby."""
    if len(survey.target.hosts) < 2 or survey.target.target_session_attrs != _ANY:
        return None
    # Behind a router, another alias than the default one may be there for reads.
    writes = _written_to(survey)
    wanted, other = ("read-write", "prefer-standby") if writes else ("prefer-standby", "read-write")
    wrong, use = ("a standby", "reads") if writes else ("the primary", "writes")
    return Found(
        f"{len(survey.target.hosts)} hosts are given, and libpq uses the first that answers, "
        f"even if it is {wrong}.",
        f'Set OPTIONS["target_session_attrs"] to "{wanted}" (or "{other}" for {use}).',
        f"target_session_attrs is from {survey.target.source('target_session_attrs')}.",
        {"OPTIONS": {"target_session_attrs": wanted}},
    )


@rule("W143", "Connection slots are nearly exhausted", connects=True)
def full(survey: Survey) -> Found | None:
    """The next worker gets "too many clients already"."""
    server = survey.server
    if server is None or server.max_connections is None or server.used is None:
        return None
    usable = server.max_connections - (server.reserved or 0)
    if server.used < _FULL * usable:
        return None
    return Found(
        f"{server.used} of {usable} usable connection slots are in use.",
        "Close idle connections, lower CONN_MAX_AGE or the workers, put a pooler in front, or "
        "raise max_connections.",
        f"max_connections is {server.max_connections}, {server.reserved} of them reserved.",
    )


@rule("W144", "Transactions are terminated soon", connects=True)
def short_transactions(survey: Survey) -> Found | None:
    """An HTTP call inside ``atomic()`` costs the connection."""
    facts = survey.facts
    if facts is None:
        return None
    timeouts = {
        "idle_in_transaction_session_timeout": facts.idle_in_transaction_session_timeout,
        "transaction_timeout": facts.transaction_timeout,
    }
    short = {name: value for name, value in timeouts.items() if value and value < _SHORT}
    if not short:
        return None
    named = " and ".join(f"{name} is {seconds(value)}" for name, value in short.items())
    every = " ATOMIC_REQUESTS makes every request one." if survey.project.atomic_requests else ""
    return Found(
        f"The server terminates sessions in the middle of transactions: {named}.{every}",
        "Keep HTTP calls and files out of atomic(), or raise the timeout (ALTER ROLE ... SET).",
        f"The session's own settings: {named}.",
    )


@rule("W147", "Transactions come close to the server's limit", connects=True)
def long_transactions(survey: Survey) -> Found | None:
    """The application's own sessions, as they are now."""
    facts, now = survey.facts, survey.activity
    if facts is None or now is None:
        return None
    limits = {
        "idle_in_transaction_session_timeout": (
            now.idle, facts.idle_in_transaction_session_timeout, "idle in a transaction"
        ),
        "transaction_timeout": (now.transaction, facts.transaction_timeout, "in a transaction"),
    }  # fmt: skip
    near = {
        name: f"A session has been {what} for {spent:.0f} s; {name} terminates it after "
        f"{seconds(limit)}."
        for name, (spent, limit, what) in limits.items()
        if spent and limit and spent > _NEAR * limit
    }
    if not near:
        return None
    return Found(
        " ".join(near.values()),
        "Keep HTTP calls and files out of atomic(), or raise the limit (ALTER ROLE ... SET).",
        "Seen in pg_stat_activity: this role's sessions in this database.",
    )


@rule("W148", "The server's state was not checked", connects=True)
def unchecked(survey: Survey) -> Found | None:
    """What the role may not see, or a pooler does not pass on, could be wrong all the same."""
    facts = survey.facts
    if facts is None:
        return None
    unknown = {
        "its settings and the path": bool(facts.refusal),
        "its connection slots": survey.server is None,
        "the application's transactions": survey.activity is None,
    }
    if not any(unknown.values()):
        return None
    why = f" ({facts.refusal})" if facts.refusal else ""
    return Found(
        f"Not checked: {', '.join(name for name, missing in unknown.items() if missing)}.",
        "Let this role read pg_settings, pg_stat_activity and pg_stat_database, as every role may "
        "by default.",
        f"The server refused to answer{why}.",
    )


@rule("I245", "The server's version is out of support", connects=True)
def unsupported(survey: Survey) -> Found | None:
    """No fixes for data loss and security any more."""
    facts = survey.facts
    major = facts.server_version // 10_000 if facts is not None else 0
    end = END_OF_LIFE.get(major) or (date.min if 0 < major < min(END_OF_LIFE) else None)
    if end is None or survey.now.date() <= end:
        return None
    when = f" since {end:%Y-%m-%d}" if end > date.min else ""
    return Found(
        f"PostgreSQL {major} is end-of-life{when}.",
        f"Upgrade to PostgreSQL {max(END_OF_LIFE)} (pg_upgrade).",
        f"The server is PostgreSQL {version(facts.server_version) if facts else ''}.",
    )


@rule("I248", "Statements of disconnected clients keep running", connects=True)
def unwatched(survey: Survey) -> Found | None:
    """The server looks at its client only when it has something to send."""
    server, facts = survey.server, survey.facts
    if server is None or facts is None or facts.statement_timeout is not None:
        return None
    if server.client_connection_check_interval != 0:
        return None
    return Found(
        "client_connection_check_interval and statement_timeout are 0: the server keeps "
        "running statements of disconnected clients, however long they take.",
        "Set client_connection_check_interval to 10s on the server (ALTER ROLE ... SET), if "
        "clients disconnect during long statements.",
        "The session's own settings.",
    )
