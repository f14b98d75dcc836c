"""The sentences people read at 3 a.m.: notes on exceptions and lines of the log. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from .ageing import Limits
from .verdicts import Reason

_PREVENTION = {
    Reason.SERVER_IDLE_TIMEOUT: "raise idle_session_timeout on the server, or let connections"
    ' live shorter: OPTIONS["resilience"]["idle_timeout"]',
    Reason.PATH_IDLE_TIMEOUT: 'set OPTIONS["resilience"]["idle_timeout"] to the timeout of the'
    " pooler, proxy or firewall in between",
    Reason.TRANSACTION_TIMEOUT: "keep slow work (HTTP calls, files) out of atomic(), or raise the"
    " server's transaction timeouts",
    Reason.ADMINISTRATOR: "find out who ends sessions (pg_terminate_backend, maintenance jobs)",
    Reason.RESTART: "nothing here: the server was restarted; look for planned maintenance",
    Reason.CRASH: "look into the server's log for a crash or the out-of-memory killer",
    Reason.FAILOVER: "nothing here: the server changed its role; use target_session_attrs",
    Reason.NETWORK: "look for a firewall, NAT or load balancer that drops connections;"
    " manage.py checkdbconn shows the path",
    Reason.FORK: "do not share connections between processes: connect after the fork",
    Reason.LOGIN_REFUSED: "correct the password or user that the pooler has for its server",
    Reason.STATEMENT_POOLING: "set pool_mode to transaction or session in the pooler",
    Reason.QUEUE_TIMEOUT: "raise the pooler's pool size, or hold connections for less time",
    Reason.UNKNOWN: "manage.py checkdbconn shows the path and its timeouts",
}


IN_TESTCASE = (
    "A TestCase is one transaction, which cannot be done again: test lost connections in a"
    " TransactionTestCase."
)


def seconds(value: float) -> str:
    """Seconds as people write them: "0.2 s", "35 s"."""
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def happened(alias: str, reason: Reason, idle: float, limits: Limits | None) -> str:
    """What happened, after how long, and which known timeout that matches."""
    sentence = f'The connection "{alias}" was lost: {reason.text}, {seconds(idle)} after the server'
    sentence += " was last heard"
    limit = math.inf if limits is None else limits.idle.seconds
    if limits is not None and idle >= limit and not math.isinf(limit):
        sentence += f" (longer than its idle limit of {seconds(limit)}: {limits.idle.source})"
    return sentence + "."


def lost(alias: str, reason: Reason, idle: float) -> str:
    """The note on an error that comes out after the loss: why, and what would have prevented it."""
    return f"{happened(alias, reason, idle, None)} To prevent it: {_PREVENTION[reason]}."


def interrupted(alias: str) -> str:
    """The same, of a connection that was given up."""
    return f'A statement on "{alias}" was interrupted half-way, so its connection was given up.'


def refused(alias: str, reason: Reason, idle: float, limits: Limits | None, why: str) -> str:
    """The note on an error that reaches the application."""
    return (
        f"{happened(alias, reason, idle, limits)} The statement was not run again: {why}."
        f" To prevent it: {_PREVENTION[reason]}."
    )


def transaction_lost(alias: str) -> str:
    """What every later statement of a lost transaction raises."""
    return (
        f'The connection "{alias}" was lost earlier in this transaction, which the server has'
        " rolled back: nothing of it has taken effect. Leave the atomic block, then run the whole"
        " transaction again."
    )


def split_transaction_lost(alias: str) -> str:
    """The same, where the application has ended a transaction inside its block."""
    return (
        f'The connection "{alias}" was lost in an atomic block whose transaction had been ended'
        " before, or may have been (COMMIT as text, the driver's own methods): what ran in it may"
        " have taken effect; check before running it again."
    )


def session_lost(alias: str, pinned_by: str) -> str:
    """What every later statement of a lost, pinned session raises."""
    return (
        f'The connection "{alias}" was lost together with session state that a new connection'
        f" would not have ({pinned_by}). Start clean with connection.close() or"
        " close_old_connections(), then do the work again."
    )


def pipeline_lost(alias: str) -> str:
    """What every later statement of a lost pipeline raises."""
    return (
        f'The connection "{alias}" was lost in the middle of a pipeline: what was sent in it may or'
        " may not have taken effect. Nothing of it is run on another connection; leave the"
        " pipeline, look for its effect, then do the work again."
    )


def not_restored(alias: str, words: str, sqlstate: str | None) -> str:
    """What every statement raises when a new session could not be made like the lost one."""
    said = f"SQLSTATE {sqlstate}" if sqlstate else "refused"
    return (
        f'A new connection "{alias}" could not be given what was set on the lost one: {words}'
        f" ({said}). It was given up. Start clean with connection.close() or"
        " close_old_connections(), then do the work again."
    )


def opening_refused(alias: str, words: str) -> str:
    """On the error of a setting that a lost transaction had begun with."""
    return (
        f'Connection "{alias}" was lost. On the new connection the server refused {words}, which'
        " the transaction had begun with. Nothing else of it was retried."
    )


def commit_unknown(alias: str, reason: Reason, xid: int | None = None) -> str:
    """What a lost COMMIT raises."""
    check = "look for its effect (a natural key, a unique token)"
    if xid is not None:
        check += f", or ask the server that had it: SELECT pg_xact_status('{xid}'),"
    return (
        f'The connection "{alias}" was lost during COMMIT ({reason.text}): the transaction may or'
        f" may not have taken effect. It was not run again; {check} before doing so."
    )


def delivered(alias: str, rows: int) -> str:
    """Why a server-side cursor is not opened again."""
    return (
        f'{rows} rows of this server-side cursor on "{alias}" had already been delivered; reading'
        " on elsewhere could skip or repeat rows. Start the loop again."
    )


def cursor_lost(alias: str, why: str) -> str:
    """What a fetch raises when another statement has got a new connection already."""
    reason = why if why.endswith(".") else f"The cursor was not opened again: {why}."
    return f'The connection "{alias}" of this server-side cursor was lost. {reason}'


def not_ended(alias: str, why: str) -> str:
    """Why what waits for locks is not retried, and what to do."""
    return (
        f'the lost session of "{alias}" may still hold its locks, and could not be terminated'
        f" ({why}); wait until the server has ended it (tcp_user_timeout,"
        " client_connection_check_interval), or allow its role to terminate it"
    )


def cancelled(alias: str) -> str:
    """Why a long statement is not retried that an administrator has terminated."""
    return (
        f'its session was terminated after it had run for long, and the server of "{alias}" lives'
        " on: somebody has stopped it (pg_terminate_backend)"
    )


def crashed(alias: str) -> str:
    """Why a statement that met a crash is not retried a second time."""
    return (
        f'the server of "{alias}" crashed when it was run before, so it may be what makes it crash'
    )


def standby(alias: str) -> str:
    """Why a connection that came about was not kept. ``reasons`` knows it by libpq's words."""
    return (
        f'The connection "{alias}" led to a standby (server is in hot standby mode), but this alias'
        " is to reach the primary; name all servers in HOST, or wait for the failover."
    )


def read_only(alias: str) -> str:
    """What it means that a primary refuses to write."""
    return (
        f'The server of "{alias}" is a primary, but its configuration makes transactions read-only'
        " (default_transaction_read_only): its disk is full, it is under maintenance, or it was"
        " fenced off for another server. No other server was found that takes writes. The"
        " connection is kept, and reads go on. To prevent it: look at the server's disk and at who"
        " has set default_transaction_read_only."
    )


def standby_again(alias: str) -> str:
    """Why a write that a standby refused was not run again."""
    return (
        f'the connection "{alias}" leads to a standby again, as it has since this process began;'
        ' set OPTIONS["resilience"]["primary"] to True if it is to reach the primary'
    )


def down(alias: str, said: str, due: float | None, *, waits: bool) -> str:
    """Why a thread has not asked a server; ``due``: seconds to the next attempt, None: now."""
    when = "is under way" if due is None else f"is due in {due:.2f} s"
    sentence = (
        f'The server of "{alias}" takes no connections ({said}); one thread at a time asks it'
    )
    if waits:
        return f"{sentence}. The next attempt {when}."
    return (
        f"{sentence}, and too many statements have waited for that already: this one fails at once."
        f" The next attempt {when}. Check that the server is up: manage.py checkdbconn."
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
    """Why there is no new connection; ``bound``: see :attr:`.retry.Budget.bound`."""
    return (
        f'Could not reconnect to "{alias}" within {seconds(waited)}: {bound} is used up. Check that'
        " the server is up: manage.py checkdbconn."
    )
