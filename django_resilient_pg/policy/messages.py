"""The sentences that people read when their pager has rung: exception notes and log lines. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

from .limits import Limits
from .verdicts import Reason

_PREVENTION = {
    Reason.SERVER_IDLE_TIMEOUT: "raise idle_session_timeout on the server, or set"
    ' OPTIONS["resilience"]["idle_timeout"] to it',
    Reason.PATH_IDLE_TIMEOUT: 'set OPTIONS["resilience"]["idle_timeout"] to the timeout of the'
    " pooler, proxy or firewall in between",
    Reason.TRANSACTION_TIMEOUT: "keep slow work (HTTP calls, files) out of atomic(), or raise the"
    " server's transaction timeouts",
    Reason.ADMINISTRATOR: "find what terminates sessions (pg_terminate_backend, maintenance jobs)",
    Reason.RESTART: "check whether the restart was planned",
    Reason.CRASH: "check the server's log for a crash or the out-of-memory killer",
    Reason.FAILOVER: "list all servers in HOST and set target_session_attrs",
    Reason.NETWORK: "find the firewall, NAT gateway or load balancer that drops connections;"
    " manage.py checkdbconn shows the path",
    Reason.FORK: "connect after the fork, so that processes share no connection",
    Reason.LOGIN_REFUSED: "correct the password or user that the pooler has for its server",
    Reason.STATEMENT_POOLING: "set pool_mode to transaction or session in the pooler",
    Reason.QUEUE_TIMEOUT: "raise the pooler's pool size, or hold connections for less time",
    Reason.UNKNOWN: "run manage.py checkdbconn, which shows the path and its timeouts",
}

#: What every line of the log has as fields (``extra=``); ``None`` where one does not apply.
FIELDS: Final = (
    "alias",
    "reason",
    "sqlstate",
    "backend_pid",
    "host",
    "port",
    "idle",
    "retried_as",
    "took",
)

#: Why a statement is not retried at which one session after another has ended.
EACH_SESSION_ENDS: Final = "the server ends each new session at this statement"

IN_TESTCASE = (
    "A TestCase is one transaction, which cannot be retried: test lost connections in a"
    " TransactionTestCase."
)


def fields(alias: str | None, **known: object) -> dict[str, object]:
    """The fields of one line of the log."""
    return {**dict.fromkeys(FIELDS), "alias": alias, **known}


def seconds(value: float) -> str:
    """A duration as people write it: "8 ms", "0.2 s", "35 s"."""
    if value < 0.1:
        milliseconds = value * 1000
        return f"{milliseconds:.0f} ms" if milliseconds >= 1 else f"{milliseconds:.2g} ms"
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def happened(
    alias: str, reason: Reason, idle: float, limits: Limits | None, sqlstate: str | None = None
) -> str:
    """What happened, after how long, and which known timeout that matches."""
    code = f" [{sqlstate}]" if sqlstate else ""
    sentence = f'Connection "{alias}" lost after {seconds(idle)} idle: {reason.text}{code}.'
    limit = math.inf if limits is None else limits.idle.seconds
    if limits is not None and idle >= limit and not math.isinf(limit):
        sentence += (
            f" That is longer than its idle limit of {seconds(limit)} ({limits.idle.source})."
        )
    return sentence


def lost(alias: str, reason: Reason, idle: float, sqlstate: str | None = None) -> str:
    """The note on an error that is raised after the loss: why, and what would have prevented it."""
    sentence = happened(alias, reason, idle, None, sqlstate)
    return f"{sentence} To prevent this: {_PREVENTION[reason]}."


def interrupted(alias: str) -> str:
    """The same, of a connection that was discarded."""
    return f'Discarded the connection "{alias}": a statement on it was interrupted.'


def refused(
    alias: str,
    reason: Reason,
    idle: float,
    limits: Limits | None,
    why: str,
    sqlstate: str | None = None,
) -> str:
    """The note on an error that reaches the application."""
    return (
        f"{happened(alias, reason, idle, limits, sqlstate)} The statement was not retried: {why}."
        f" To prevent this: {_PREVENTION[reason]}."
    )


def why_invalid(pinned_by: str) -> str:
    """Why a connection that was found lost is not replaced."""
    if not pinned_by:
        return "Not retried: its transaction had begun, and the server has rolled it back."
    return f"Not retried: lost with session state that cannot be restored ({pinned_by})."


def not_reconnected(alias: str, said: str) -> str:
    """A lost connection could not be replaced."""
    return f'Could not reconnect to "{alias}": {said.rstrip(".")}.'


def reconnected(alias: str, took: float) -> str:
    """A new connection has replaced a lost one."""
    return f'Reconnected "{alias}" in {seconds(took)}.'


def retried(what: str, alias: str, took: float) -> str:
    """A statement was retried."""
    return f'Retried {what} on "{alias}"; it succeeded after {seconds(took)}.'


def retrying(alias: str, attempt: int, retries: int) -> str:
    """A transaction is about to be retried."""
    return f'Retrying a transaction on "{alias}" (retry {attempt} of {retries}).'


def transaction_lost(alias: str) -> str:
    """What every later statement of a lost transaction raises."""
    return (
        f'The connection "{alias}" was lost earlier in this transaction. The server has rolled the'
        " transaction back: nothing of it has taken effect. Leave the atomic block, then retry the"
        " whole transaction."
    )


def split_transaction_lost(alias: str) -> str:
    """The same, where the application has ended a transaction inside its block."""
    return (
        f'The connection "{alias}" was lost in an atomic block whose transaction had been ended'
        " before, or may have been (COMMIT as text, the driver's own methods). Its statements may"
        " have taken effect: check before you retry them."
    )


def session_lost(alias: str, pinned_by: str) -> str:
    """What every later statement of a lost, pinned session raises."""
    return (
        f'The connection "{alias}" was lost with session state that cannot be restored'
        f" ({pinned_by}). Call connection.close() or close_old_connections() to continue, then"
        " repeat the work."
    )


def pipeline_lost(alias: str) -> str:
    """What every later statement of a lost pipeline raises."""
    return (
        f'The connection "{alias}" was lost in the middle of a pipeline. The statements of the'
        " pipeline may or may not have taken effect, and none of them is retried. Leave the"
        " pipeline, check for their effect, then repeat the work."
    )


def not_restored(alias: str, words: str, sqlstate: str | None) -> str:
    """What every statement raises when a new session could not be made like the lost one."""
    said = f" [{sqlstate}]" if sqlstate else ""
    return (
        f'A new connection "{alias}" was discarded: the server refused a setting of the lost'
        f" session ({words}){said}. Call connection.close() or close_old_connections() to continue,"
        " then repeat the work."
    )


def opening_refused(alias: str, words: str) -> str:
    """On the error of a setting that a lost transaction had begun with."""
    return (
        f'Connection "{alias}" was lost. On the new connection the server refused {words}, which'
        " the transaction had begun with. Nothing else of it was retried."
    )


def commit_unknown(alias: str, reason: Reason, xid: int | None = None) -> str:
    """What a lost COMMIT raises."""
    check = "check for its effect (a natural key, a unique token)"
    if xid is not None:
        check += f", or ask the server that had it: SELECT pg_xact_status('{xid}'),"
    return (
        f'The connection "{alias}" was lost during COMMIT: {reason.text}. The transaction may or'
        f" may not have taken effect. It was not retried; {check} before you retry it."
    )


def delivered(alias: str, rows: int) -> str:
    """Why a server-side cursor is not opened again."""
    return (
        f'{rows} rows of this server-side cursor on "{alias}" had already been delivered; reading'
        " on with a new cursor could skip or repeat rows. Start the loop again."
    )


def cursor_lost(alias: str, why: str) -> str:
    """What a fetch raises when another statement has got a new connection already."""
    reason = why if why.endswith(".") else f"The cursor was not opened again: {why}."
    return f'The connection "{alias}" of this server-side cursor was lost. {reason}'


def not_ended(alias: str, why: str) -> str:
    """Why what waits for locks is not retried, and what to do."""
    return (
        f'the lost session of "{alias}" may still hold its locks, and could not be terminated'
        f" ({why}); wait until the server has terminated it (tcp_user_timeout,"
        " client_connection_check_interval), or allow its role to terminate it"
    )


def cancelled(alias: str) -> str:
    """Why a long statement is not retried that an administrator has terminated."""
    return (
        "its session was terminated (pg_terminate_backend) after the statement had run for long,"
        f' and the server of "{alias}" kept running: somebody stopped the statement on purpose'
    )


def crashed(alias: str) -> str:
    """Why a statement that met a crash is not retried a second time."""
    return (
        f'the server of "{alias}" crashed while it ran this statement before, so the statement may'
        " be the cause"
    )


def standby(alias: str) -> str:
    """Why a connection that came about was not kept. ``error_table`` knows it by libpq's words."""
    return (
        f'The connection "{alias}" led to a standby (server is in hot standby mode), but this alias'
        " needs the primary. List all servers in HOST, or wait for the failover."
    )


def read_only(alias: str) -> str:
    """What it means that a primary refuses to write."""
    return (
        f'The server of "{alias}" is a primary, but its configuration makes transactions read-only'
        " (default_transaction_read_only): its disk is full, it is under maintenance, or it was"
        " fenced off for another server. No other server was found that accepts writes. The"
        " connection is kept, and reads still work. To prevent this: check the server's disk, and"
        " find what has set default_transaction_read_only."
    )


def standby_again(alias: str) -> str:
    """Why a write that a standby refused was not retried."""
    return (
        f'the connection "{alias}" leads to a standby again, as it has since this process started;'
        ' set OPTIONS["resilience"]["primary"] to True if it must reach the primary'
    )


def down(alias: str, said: str, due: float | None, *, waits: bool) -> str:
    """Why a thread has not asked a server; ``due``: seconds to the next attempt, None: now."""
    when = "is under way" if due is None else f"is due in {seconds(due)}"
    sentence = f'The server of "{alias}" is not accepting connections'
    if waits:
        return f"{sentence} ({said}); one thread at a time tries. The next attempt {when}."
    return (
        f"{sentence}; failing fast, because too many callers are already waiting ({said}). The"
        f" next attempt {when}. Check that the server is up: manage.py checkdbconn."
    )


def never_connected(alias: str) -> str:
    """Why a refusal in unknown words is not waited for."""
    return (
        f'Not retried: this process has not connected to "{alias}" with these settings before, and'
        " the refusal is not known to be transient. Check the settings: manage.py checkdbconn."
    )


def direct_tls(alias: str) -> str:
    """Why a handshake that was cut is not tried again."""
    return (
        f'Not retried: the server of "{alias}" closed the connection in the TLS handshake, and'
        ' sslnegotiation is "direct". Servers before PostgreSQL 17 do not support that: set'
        ' OPTIONS["sslnegotiation"] to "postgres".'
    )


def long_down(alias: str, down_for: float, patience: float, since: float) -> str:
    """Why nobody waits for a server any more; ``since``: seconds since the epoch."""
    when = datetime.fromtimestamp(since, UTC)
    return (
        f'The server of "{alias}" has been down since {when:%Y-%m-%d %H:%M:%S} UTC'
        f" ({seconds(down_for)}), and the deadline ({seconds(patience)}) counts from then. Callers"
        " fail fast until it accepts connections again. Check that the server is up: manage.py"
        " checkdbconn."
    )


def bound(name: str, value: float) -> str:
    """What bounds how long is waited: "retry_deadline (10 s)"."""
    return f"{name} ({value:g} s)"


def unreachable(alias: str, waited: float, bound: str) -> str:
    """Why there is no new connection; ``bound``: see :attr:`..policy.rules.Budget.bound`."""
    return (
        f'Could not reconnect to "{alias}" within {seconds(waited)}: {bound} is used up. Check that'
        " the server is up: manage.py checkdbconn."
    )
