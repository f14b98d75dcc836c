"""Texts beyond the collection, and what each entry of the table means and what leads there."""

from __future__ import annotations

import pytest

from django_resilient_pg.policy.error_table import TABLE, Entry
from django_resilient_pg.policy.verdicts import Phase, Reason
from tests.unit.failures import failed, verdict_fields

ODYSSEY = "Odyssey has dropped the connection\nDETAIL:  Connection was dropped by Odyssey due to"
# Texts that the collection lacks or words otherwise, with the rule that must catch each.
OTHERS = [
    ("idle transaction timeout", "58000", "idle in transaction"),  # pgcat
    ("terminating connection due to idle-in-transaction timeout", None, "idle in transaction"),
    ("disconnecting idle client", "57P05", "idle at PgDog"),
    ("child connection forced to terminate due to client_idle_limit", "57000", "idle at a pooler"),
    (f"{ODYSSEY} idle timeout", "08006", "idle at a pooler"),
    (f"{ODYSSEY} idle in transaction timeout", "08006", "idle in transaction"),
    ("Odyssey is gracefully shutting down", "08006", "pooler stopping"),
    ("failed to connect to remote server", "08006", "proxy cannot reach the server"),
    ("failed to connect to upstream", None, "proxy cannot reach the server"),
    ("could not get connection from the pool", "58000", "proxy cannot reach the server"),  # pgcat
    ("transaction timeout", "08P01", "transaction_timeout"),  # PgBouncer 1.25
    ("query_timeout", "08P01", "query_timeout"),  # PgBouncer, of a waiting client
    ("server shutting down", "08P01", "pooler stopping"),
    ("suspend_timeout", "08P01", "pooler stopping"),
    ("admin forced disconnect", "08P01", "pooler's administrator"),
    ("database removed", "08P01", "pooler's administrator"),
    ("database configuration changed", "08P01", "pooler's administrator"),
    ("server lifetime over", "08P01", "pooler's administrator"),
    ("pause failed", "08P01", "pooler's administrator"),
    ("server conn crashed?", "08P01", "pooler lost the server"),
    ("server connection closed", "08P01", "pooler lost the server"),
    ("something new", "08P01", "connection exception"),
    ("something new", "08000", "connection exception"),
    ("something new", "08001", "connection exception"),
    ("something new", "08003", "connection exception"),
    ("something new", "08006", "connection exception"),
    ("something new", "08007", "connection exception"),
    ("Timed-out waiting to acquire database connection.", "08000", "RDS Proxy borrow timeout"),
    ("server login has been failing, try again later (server_login_retry)", "08P01",
     "pooler cannot reach the server"),
    ("terminating connection due to unexpected postmaster exit", "57P01", "postmaster exit"),
    ("terminating connection due to immediate shutdown command", "57P01", "immediate shutdown"),
    ("canceling the wait for synchronous replication and terminating connection due to"
     " administrator command", "57P01", "ended while waiting for a standby"),
    ("... conflict with recovery\nDETAIL:  User was connected to a database that must be dropped.",
     None, "database dropped"),
    ("terminating connection due to conflict with recovery", "40P01", "session ended by recovery"),
    ("canceling statement due to conflict with recovery", "40P01", "cancelled by recovery"),
    ("consuming input failed: connection pointer is NULL", None, "closed meanwhile"),
    ("flushing failed: the connection is closed", None, "closed meanwhile"),
    ("cursor already closed", None, "misuse"),
    ("the cursor is closed", None, "misuse"),
    ("DatabaseWrapper objects created in a thread can only be used in that same thread.", None,
     "misuse"),
    ("You can't execute queries until the end of the 'atomic' block.", None, "misuse"),
    ("canceling statement due to user request", "57014", "cancelled or aborted"),
    ("current transaction is aborted", "25P02", "cancelled or aborted"),
    ('prepared statement "x" already exists', "42P05", "cancelled or aborted"),
    ("cannot execute UPDATE in a read-only transaction", None, "read only"),
    ("SSL SYSCALL error: Operation timed out", None, "unreachable"),
    ("could not send data to server: Host is down", None, "unreachable"),
    ("consuming input failed: SSL SYSCALL error: Connection reset by peer", None, "cut"),
    ("could not send data to server: Broken pipe", None, "cut"),
    ("Software caused connection abort (0x00002745/10053)", None, "cut"),
    ("terminating connection for a reason of tomorrow", None, "closed by the server"),
    ('lost synchronization with server: got message type "x"', None, "broken stream"),
    ("could not receive data from server: (0x00002746/10054)", None, "broken stream"),
    ("could not send data to server: Cannot allocate memory", None, "broken stream"),
    ("SSL SYSCALL error: Success", None, "broken stream"),
    ("unrecognized SSL error code: 6", None, "broken stream"),
    ("GSSAPI wrap error: ...", None, "broken stream"),
    ("GSSAPI unwrap error: ...", None, "broken stream"),
    ("no connection to the server", None, "broken stream"),
    ("connection not open", None, "broken stream"),
]  # fmt: skip
# The same for connection attempts: never with a SQLSTATE.
CONNECTING = [
    ("SSL error: certificate verify failed", "TLS refused"),
    ('server certificate for "a" does not match host name "b"', "TLS refused"),
    ("connection requires a valid client certificate", "TLS refused"),
    ("server does not support SSL, but SSL was required", "TLS refused"),
    ("This RDS Proxy requires TLS connections.", "TLS refused"),
    ("connection is insecure (try using `sslmode=require`)", "TLS refused"),
    ('root certificate file "/x" does not exist', "TLS refused"),
    ('could not load private key file "/x": No such file or directory', "TLS refused"),
    ('SCRAM authentication failed for user "app"', "wrong password"),
    ("fe_sendauth: no password supplied", "wrong password"),
    ("server login failed: wrong password type", "wrong password"),  # PgBouncer
    ('role "r" is not permitted to log in', "login refused"),
    ("This RDS proxy has no credentials for the role app.", "login refused"),
    ('no pg_hba.conf entry for host "1.2.3.4"', "login refused"),
    ('pg_hba.conf rejects connection for host "1.2.3.4"', "login refused"),
    ('permission denied for database "app"', "login refused"),
    ('database "nope" does not exist', "no such database or role"),
    ('database "x" is not currently accepting connections', "no such database or role"),
    ("no such database: x", "no such database or role"),
    ("bouncer config error", "no such database or role"),
    ("(ENOTFOUND) tenant/user postgres.abc not found", "no such database or role"),
    ("Tenant or user not found", "no such database or role"),
    ('invalid connection option "foo"', "wrong option"),
    ("invalid dsn: missing =", "wrong option"),
    ('unrecognized configuration parameter "x"', "wrong option"),
    ("unsupported startup parameter: options", "wrong option"),
    ("RDS Proxy currently doesn't support command-line options.", "wrong option"),
    ("ERROR:  The endpoint ID is not specified.", "wrong option"),
    ("invalid command-line argument for server process: search_path=foo", "wrong option"),
    ('invalid value for parameter "statement_timeout": "abc"', "wrong option"),
    ('-5 ms is outside the valid range for parameter "statement_timeout"', "wrong option"),
    ('parameter "enable_seqscan" requires a Boolean value', "wrong option"),
    ('parameter "shared_buffers" cannot be changed without restarting the server', "wrong option"),
    ('parameter "block_size" cannot be changed', "wrong option"),
    ('permission denied to set parameter "log_min_messages"', "wrong option"),
    ('invalid integer value "abc" for connection option "keepalives_idle"', "wrong option"),
    ("-c search_path requires a value", "wrong option"),
    ("keepalives parameter must be an integer", "wrong option"),
    ("the database system is not accepting connections", "starting or stopping"),
    ("the database system is not yet accepting connections", "starting or stopping"),
    ("session is not read-only", "wrong role"),
    ("server is not in hot standby mode", "wrong role"),
    ("no primary available for branch", "wrong role"),
    ("could not connect to server: Connexion refusée", "nothing listens"),
    ("Failed to acquire permit to connect to the database.", "too many connections"),  # Neon
    ("MaxClientsInSessionMode: max clients reached", "too many connections"),  # Supavisor
    ("too many tcp connections", "too many connections"),  # Odyssey
    ("could not fork new process for connection: ...", "short of resources"),
    ("server sent an error response during SSL exchange", "short of resources"),
    ("out of memory", "short of resources"),
    ("canceling authentication due to timeout", "login timed out"),
    ("server is not accepting clients", "starting or stopping"),  # CockroachDB
    ("Control plane request failed", "proxy cannot reach the server"),  # Neon
    ("failed to create a backend 0 connection", "proxy cannot reach the server"),  # pgpool
    ("all backend nodes are down, pgpool requires at least one valid node",
     "proxy cannot reach the server"),
    ("failed: Cannot assign requested address", "unreachable"),
]  # fmt: skip
# What each rule means: where it applies; what it says (L: lost, T: transient, R: a read may run
# again, W: a write may); why. Connection attempts: see the property test below.
MEANING = {
    "TLS refused": ("connect", "L", Reason.UNKNOWN),
    "wrong password": ("connect", "L", Reason.UNKNOWN),
    "login refused": ("connect", "L", Reason.UNKNOWN),
    "pooler's login refused": ("live", "L", Reason.LOGIN_REFUSED),
    "no such database or role": ("connect", "L", Reason.UNKNOWN),
    "wrong option": ("connect", "L", Reason.UNKNOWN),
    "standby without hot_standby": ("connect", "L", Reason.FAILOVER),
    "in recovery mode": ("any", "LTR", Reason.CRASH),
    "starting or stopping": ("any", "LTR", Reason.RESTART),
    "wrong role": ("connect", "LTRW", Reason.FAILOVER),
    "too many connections": ("connect", "LTRW", Reason.UNKNOWN),
    "pool gave none": ("connect", "TRW", Reason.UNKNOWN),
    "pooler cannot reach the server": ("any", "LTRW", Reason.RESTART),
    "proxy cannot reach the server": ("any", "LTR", Reason.RESTART),
    "short of resources": ("connect", "LTRW", Reason.UNKNOWN),
    "login timed out": ("connect", "LTRW", Reason.UNKNOWN),
    "database disabled": ("connect", "LTRW", Reason.ADMINISTRATOR),
    "query_wait_timeout": ("any", "LTRW", Reason.QUEUE_TIMEOUT),
    "Supavisor checkout timeout": ("any", "LTRW", Reason.QUEUE_TIMEOUT),
    "RDS Proxy borrow timeout": ("any", "LTRW", Reason.QUEUE_TIMEOUT),
    "statement pooling": ("any", "L", Reason.STATEMENT_POOLING),
    "ended while waiting for a standby": ("any", "LT", Reason.ADMINISTRATOR),
    "postmaster exit": ("any", "LTR", Reason.CRASH),
    "immediate shutdown": ("any", "LTR", Reason.RESTART),
    "administrator command": ("any", "LTR", Reason.ADMINISTRATOR),
    "crash of another process": ("any", "LTR", Reason.CRASH),
    "idle at PgDog": ("any", "LTR", Reason.PATH_IDLE_TIMEOUT),
    "idle_session_timeout": ("any", "LTR", Reason.SERVER_IDLE_TIMEOUT),
    "idle in transaction": ("any", "LT", Reason.TRANSACTION_TIMEOUT),
    "transaction_timeout": ("any", "L", Reason.TRANSACTION_TIMEOUT),
    "database dropped": ("any", "L", Reason.ADMINISTRATOR),
    "session ended by recovery": ("any", "LTR", Reason.FAILOVER),
    "idle at a pooler": ("any", "LTR", Reason.PATH_IDLE_TIMEOUT),
    "query_timeout": ("any", "L", Reason.UNKNOWN),
    "pooler stopping": ("any", "LTR", Reason.RESTART),
    "pooler's administrator": ("any", "LTR", Reason.ADMINISTRATOR),
    "pooler lost the server": ("any", "LTR", Reason.UNKNOWN),
    "closed meanwhile": ("any", "LTR", Reason.UNKNOWN),
    "closed before": ("any", "LTRW", Reason.UNKNOWN),
    "busy": ("live", "TRW", Reason.UNKNOWN),
    "lost inside atomic()": ("live", "LT", Reason.UNKNOWN),
    "misuse": ("live", "", Reason.UNKNOWN),
    "bad record mac": ("any", "LT", Reason.FORK),
    "descriptor closed": ("any", "LTR", Reason.UNKNOWN),
    "nothing listens": ("connect", "LTRW", Reason.RESTART),
    "no address": ("connect", "LTRW", Reason.NETWORK),
    "unreachable": ("any", "LTR", Reason.NETWORK),
    "cut": ("any", "LTR", Reason.NETWORK),
    "closed by the server": ("any", "LTR", Reason.UNKNOWN),
    "broken stream": ("any", "LTR", Reason.UNKNOWN),
    "connection exception": ("live", "LTR", Reason.UNKNOWN),
    "connecting failed": ("connect", "LTRW", Reason.UNKNOWN),
    "cancelled by recovery": ("any", "TR", Reason.FAILOVER),
    "transaction conflict": ("any", "TRW", Reason.UNKNOWN),
    "read only": ("any", "TW", Reason.FAILOVER),
    "cursor gone": ("any", "TR", Reason.UNKNOWN),
    "prepared statement gone": ("any", "R", Reason.UNKNOWN),
    "cancelled or aborted": ("any", "", Reason.UNKNOWN),
}


@pytest.mark.parametrize(("text", "sqlstate", "rule"), OTHERS)
def test_texts_of_servers_and_poolers_beyond_the_collection(
    text: str, sqlstate: str | None, rule: str
) -> None:
    assert failed(text, sqlstate=sqlstate).rule == rule


@pytest.mark.parametrize(("text", "rule"), CONNECTING)
def test_connection_errors_beyond_the_collection(text: str, rule: str) -> None:
    assert failed(text, Phase.CONNECT).rule == rule


def ways_into(entry: Entry) -> list[tuple[str, str | None, str]]:
    """Every (text, SQLSTATE, exception) that must lead to this entry and to no other."""
    return [
        *((text, None, "") for text in entry.texts),
        *(("...", code, "") for code in entry.codes),
        *((text, code, "") for text in entry.texts for code in entry.codes + entry.under),
        *(("...", None, exception) for exception in entry.exceptions),
    ]


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_every_way_into_an_entry_leads_there_and_means_what_it_should(entry: Entry) -> None:
    where, flags, reason = MEANING[entry.name]
    phase = Phase.CONNECT if where == "connect" else Phase.STATEMENT
    for text, sqlstate, exception in ways_into(entry):
        verdict = failed(text, phase, sqlstate=sqlstate, exception=exception)
        assert verdict.rule == entry.name
        said = zip("LTRW", verdict_fields(verdict).values(), strict=True)
        assert "".join(letter for letter, holds in said if holds) == flags
        assert verdict.reason is reason
        for other in Phase:
            applies = where == "any" or (where == "connect") == (other is Phase.CONNECT)
            verdict = failed(text, other, sqlstate=sqlstate, exception=exception)
            assert (verdict.rule == entry.name) is applies


def test_no_entry_is_missing() -> None:
    assert sorted(MEANING) == sorted(entry.name for entry in TABLE)


def test_the_table_is_well_formed() -> None:
    for entry in TABLE:
        assert all(text == text.lower().strip() for text in entry.texts), entry.name
        assert all(len(code) == 5 for code in entry.codes + entry.under), entry.name
        assert entry.texts or not entry.under, entry.name
