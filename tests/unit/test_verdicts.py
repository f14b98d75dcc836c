"""The one table: every error text collected in the wild gets the verdict it deserves."""

from __future__ import annotations

import errno
import itertools
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_resilient_pg.diagnosis.path.login_stages import RULES as ADVICE
from django_resilient_pg.driver.link import IDLE, UNKNOWN
from django_resilient_pg.policy.error_table import NOTHING, TABLE, Entry
from django_resilient_pg.policy.verdicts import Failure, Phase, Reason, Verdict, code_in, judge
from django_resilient_pg.state.call import Call

ROWS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "errors.json").read_text(encoding="utf-8")
)
PHASES = {"query": Phase.STATEMENT} | {phase.value: phase for phase in Phase}
FIELDS = ("connection_lost", "transient", "read_retry_safe", "write_retry_safe")
PREFIXES = ("connection failed: ", "connection is bad: ")

# Where the data is not followed: (text, phase, field) and why. Each must differ from the data.
REASONED_EXCEPTIONS = {
    ("connection socket closed", "query", "write_retry_safe"): (
        "psycopg says the same when the descriptor is closed while the server executes: measured"
        " with PostgreSQL 18 and psycopg 3.3.9, the INSERT took effect."
    ),
}


def texts(row: dict[str, Any], driver: str) -> list[str]:
    """The text as this driver words it, where the data tells only the other one's wording."""
    text: str = row["text"]
    bare = next((text.removeprefix(p) for p in PREFIXES if text.startswith(p)), text)
    if row["phase"] == "connect" and bare.startswith("connection to server"):
        return [bare] if driver == "psycopg2" else [prefix + bare for prefix in PREFIXES]
    return [text]


def failures(row: dict[str, Any]) -> list[Failure]:
    """The row as each of its drivers shows it; neither has a SQLSTATE for a connect error."""
    connecting = row["phase"] == "connect"
    drivers = ["psycopg2", "psycopg3"] if connecting else row["driver"].split(",")
    return [
        Failure(
            phase=PHASES[row["phase"]],
            connection_lost=known,
            exception=row["exception"].rpartition(".")[2],
            sqlstate=None if connecting else row["sqlstate"],
            severity=None,
            text=text,
        )
        for driver in drivers
        for text in texts(row, driver)
        for known in (None, row["connection_lost"])
    ]


def verdict_fields(verdict: Verdict) -> dict[str, bool]:
    return {
        "connection_lost": verdict.lost,
        "transient": verdict.transient,
        "read_retry_safe": verdict.read_retry_safe,
        "write_retry_safe": verdict.write_retry_safe,
    }


CASES = [
    pytest.param(row, failure, id=f"{number}-{row['text'][:40]!r}-{failure.connection_lost}")
    for number, row in enumerate(ROWS)
    for failure in failures(row)
]


def test_the_data_is_all_there() -> None:
    assert len(ROWS) == 122
    assert len(CASES) >= 2 * len(ROWS)


@pytest.mark.parametrize(("row", "failure"), CASES)
def test_every_collected_error_gets_the_verdict_of_the_data(
    row: dict[str, Any], failure: Failure
) -> None:
    expected = {
        field: not row[field]
        if (row["text"], row["phase"], field) in REASONED_EXCEPTIONS
        else row[field]
        for field in FIELDS
    }
    assert verdict_fields(judge(failure)) == expected, judge(failure).rule


@pytest.mark.parametrize("key", REASONED_EXCEPTIONS)
def test_every_exception_is_still_needed(key: tuple[str, str, str]) -> None:
    text, phase, field = key
    rows = [row for row in ROWS if (row["text"], row["phase"]) == (text, phase)]
    assert rows, "the data has no such row any more"
    for row in rows:
        for failure in failures(row):
            assert verdict_fields(judge(failure))[field] != row[field]


def failed(
    text: str = "",
    phase: Phase = Phase.STATEMENT,
    *,
    lost: bool | None = None,
    sqlstate: str | None = None,
    severity: str | None = None,
    exception: str = "OperationalError",
) -> Verdict:
    return judge(Failure(phase, lost, exception, sqlstate, severity, text))


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


# -- reasons -------------------------------------------------------------------------------------

REASONS = [
    ("terminating connection due to idle-session timeout", "57P05", Reason.SERVER_IDLE_TIMEOUT),
    ("client_idle_timeout", "08P01", Reason.PATH_IDLE_TIMEOUT),
    ("terminating connection due to administrator command", "57P01", Reason.ADMINISTRATOR),
    ("the database system is shutting down", "57P03", Reason.RESTART),
    ("server shutting down", "08P01", Reason.RESTART),
    ("FATAL:  server login has been failing, try again later", None, Reason.RESTART),
    ("terminating connection because of crash of another server process", "57P02", Reason.CRASH),
    ("the database system is in recovery mode", "57P03", Reason.CRASH),
    ("cannot execute INSERT in a read-only transaction", "25006", Reason.FAILOVER),
    ("terminating connection due to conflict with recovery", "40001", Reason.FAILOVER),
    ("could not receive data from server: Connection timed out", None, Reason.NETWORK),
    ("could not receive data from server: No route to host", None, Reason.NETWORK),
    ("SSL SYSCALL error: EOF detected", None, Reason.NETWORK),
    ("SSL error: decryption failed or bad record mac", None, Reason.FORK),
    ("terminating connection due to idle-in-transaction timeout", "25P03",
     Reason.TRANSACTION_TIMEOUT),
    ("terminating connection due to transaction timeout", "25P04", Reason.TRANSACTION_TIMEOUT),
    ("idle transaction timeout", "08P01", Reason.TRANSACTION_TIMEOUT),
    ("server closed the connection unexpectedly", None, Reason.UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sqlstate", "reason"), REASONS)
def test_reason(text: str, sqlstate: str | None, reason: Reason) -> None:
    assert failed(text, Phase.IDLE, lost=True, sqlstate=sqlstate).reason is reason


@pytest.mark.parametrize("text", ["session is read-only", "server is in hot standby mode"])
def test_connecting_during_a_failover(text: str) -> None:
    assert failed(text, Phase.CONNECT).reason is Reason.FAILOVER


def test_the_text_alone_tells_the_reason_where_the_driver_hides_the_code() -> None:
    for text, sqlstate, reason in REASONS:
        if sqlstate != "25006":
            assert failed(text, Phase.IDLE, lost=True).reason is reason, text


def test_reasons_are_parts_of_a_sentence_and_survive_pickling() -> None:
    for reason in Reason:
        assert reason.value == reason.name.lower()
        assert reason.text
        assert reason.text[-1] not in ".,"
        assert pickle.loads(pickle.dumps(reason)) is reason


# -- precedence: state, then SQLSTATE and severity, then text ------------------------------------


def test_a_connection_that_calls_itself_lost_is_lost_whatever_the_error_says() -> None:
    for verdict in (
        failed("cursor already closed", lost=True),
        failed("syntax error", lost=True, sqlstate="42601", severity="ERROR"),
        failed("canceling statement due to statement timeout", lost=True, sqlstate="57014"),
        failed("", lost=True),
    ):
        assert verdict.lost
        assert not verdict.write_retry_safe


def test_an_unknown_loss_lets_only_reads_run_again() -> None:
    verdict = failed("etwas Unerwartetes", lost=True)
    assert verdict == Verdict(True, True, True, False, Reason.UNKNOWN, "unknown loss")


def test_an_open_connection_outranks_the_code() -> None:
    """A foreign server's 08006 (dblink, postgres_fdw) leaves our own connection alone."""
    text = 'could not connect to server "shard1"\nDETAIL:  server closed the connection'
    for lost in (None, False):
        verdict = failed(text, lost=lost, sqlstate="08006", severity="ERROR")
        assert verdict == Verdict(False, False, False, False, Reason.UNKNOWN, "not ours")


def test_a_session_the_server_has_ended_is_lost_before_the_driver_notices() -> None:
    verdict = failed("Verbindung wird abgebrochen", lost=False, sqlstate="57P01", severity="FATAL")
    assert verdict.lost
    assert verdict.reason is Reason.ADMINISTRATOR


def test_an_open_connection_outranks_the_text() -> None:
    verdict = failed("server closed the connection unexpectedly", lost=False)
    assert not verdict.lost
    assert not verdict.read_retry_safe


@pytest.mark.parametrize("text", ["connection socket closed", "Bad file descriptor"])
def test_a_closed_descriptor_is_believed_against_the_driver(text: str) -> None:
    verdict = failed(text, lost=False)
    assert verdict.lost
    assert verdict.read_retry_safe
    assert not verdict.write_retry_safe


@pytest.mark.parametrize("lost", [None, False, True])
def test_the_code_outranks_the_text(lost: bool | None) -> None:
    """What an application raises or quotes is not what a pooler says."""
    for text in ("query_wait_timeout", "the connection is closed", "administrator command"):
        verdict = failed(text, lost=lost, sqlstate="P0001", severity="ERROR")
        assert not verdict.write_retry_safe
        assert verdict.reason is Reason.UNKNOWN
        assert verdict.lost is bool(lost)


def test_severity_tells_a_dead_recovery_conflict_from_a_cancelled_statement() -> None:
    text = "... due to conflict with recovery"
    ended = failed(text, sqlstate="40001", severity="FATAL")
    cancelled = failed(text, lost=False, sqlstate="40001", severity="ERROR")
    assert (ended.lost, cancelled.lost) == (True, False)
    for verdict in (ended, cancelled):
        assert verdict.read_retry_safe
        assert not verdict.write_retry_safe


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03", "25006"])
def test_an_error_of_a_living_connection_proves_nothing_about_a_dead_one(sqlstate: str) -> None:
    assert failed(sqlstate=sqlstate, lost=False, severity="ERROR").write_retry_safe
    assert not failed(sqlstate=sqlstate, lost=True, severity="ERROR").write_retry_safe
    assert not failed(sqlstate=sqlstate, lost=None, severity="FATAL").write_retry_safe


def test_fatal_with_a_code_nobody_knows_may_still_be_told_by_its_text() -> None:
    verdict = failed("client_idle_timeout", sqlstate="08999", severity="FATAL")
    assert verdict.reason is Reason.PATH_IDLE_TIMEOUT


@pytest.mark.parametrize(("sqlstate", "flag"), [("25006", True), ("40001", False), (None, False)])
def test_read_only_is_flagged(sqlstate: str | None, flag: bool) -> None:
    assert failed("x", lost=False, sqlstate=sqlstate, severity="ERROR").read_only is flag


# -- other languages -----------------------------------------------------------------------------

LOCALISED_REFUSALS = [
    "Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen",
    "authentification par mot de passe échouée pour l'utilisateur « app »",
    "la autentificación password falló para el usuario «app»",
    'ユーザー"app"のパスワード認証に失敗しました',
    "пользователь 'app' не прошёл проверку подлинности (по паролю)",
    "das Datenbanksystem startet",
]


@pytest.mark.parametrize("text", LOCALISED_REFUSALS)
def test_a_connect_error_in_another_language_is_not_tried_again(text: str) -> None:
    address = f'connection to server at "127.0.0.1", port 5432 failed: FATAL:  {text}'
    for full in (address, f"connection failed: {address}"):
        verdict = failed(full, Phase.CONNECT)
        assert verdict.lost
        assert not verdict.transient
        assert not verdict.read_retry_safe


@pytest.mark.parametrize("text", ["ZEITÜBERSCHREITUNG", "délai dépassé"])
def test_a_connect_timeout_in_another_language_is_tried_again(text: str) -> None:
    verdict = failed(text, Phase.CONNECT, exception="ConnectionTimeout")
    assert verdict.transient
    assert verdict.reason is Reason.NETWORK


@pytest.mark.parametrize(
    ("sqlstate", "reason", "again"),
    [
        ("57P01", Reason.ADMINISTRATOR, True),
        ("57P02", Reason.CRASH, True),
        ("57P05", Reason.SERVER_IDLE_TIMEOUT, True),
        ("25P03", Reason.TRANSACTION_TIMEOUT, False),
        ("57P04", Reason.ADMINISTRATOR, False),
    ],
)
@pytest.mark.parametrize("text", ["breche Verbindung ab", "接続を終了しています", ""])
def test_last_words_in_another_language_are_told_by_their_code(
    text: str, sqlstate: str, reason: Reason, again: bool
) -> None:
    verdict = failed(text, sqlstate=sqlstate, severity="FATAL")
    assert (verdict.lost, verdict.reason, verdict.read_retry_safe) == (True, reason, again)


# What an own probe of the protocol learns and the drivers keep to themselves.
PROBED = {
    "starting or stopping": ["57P03"],
    "too many connections": ["53300", "53200", "53400"],
    "connecting failed": ["08001", "08006", "58000", "58030"],
    "wrong password": ["28P01"],
    "login refused": ["28000", "42501"],
    "short of resources": ["53000", "53100"],
    "no such database or role": ["3D000", "55000"],
    "wrong option": ["42704", "22023", "0A000", "55P02"],
    "unknown connection error": ["99999", "08P01", "XX000"],
}


@pytest.mark.parametrize(
    ("rule", "sqlstate"), [(rule, code) for rule, codes in PROBED.items() for code in codes]
)
def test_a_code_from_a_probe_decides_a_localised_connect_error(rule: str, sqlstate: str) -> None:
    verdict = failed("システム", Phase.CONNECT, sqlstate=sqlstate, severity="FATAL")
    assert verdict.rule == rule
    passes = rule in {
        "starting or stopping", "too many connections", "connecting failed", "short of resources",
    }  # fmt: skip
    assert verdict.transient is verdict.write_retry_safe is passes


# -- several attempts in one message -------------------------------------------------------------

REFUSED = "Connection refused\n\tIs the server running on that host?"
STARTING = "FATAL:  the database system is starting up"
WRONG = 'FATAL:  password authentication failed for user "app"'
MISSING = 'FATAL:  database "app" does not exist'
NEW = f"FATAL:  {LOCALISED_REFUSALS[0]}"


def both_wordings(*attempts: tuple[str, str, str]) -> list[str]:
    """Attempts (host, address, what was said) as libpq joins them, and as psycopg 3 lists them."""
    joined = "\n".join(
        f'connection to server at "{host}" ({address}), port 5432 failed: {said}'
        for host, address, said in attempts
    )
    own = [
        f'connection failed: connection to server at "{address}", port 5432 failed: {said}'
        for _, address, said in attempts
    ]
    listed = "\n".join(
        f"- host: '{host}', port: '5432', hostaddr: '{address}': {said}"
        for (host, address, _), said in zip(attempts, own, strict=True)
    )
    head = "Multiple connection attempts failed. All failures were:"
    return [joined, f"{own[-1]}\n{head}\n{listed}"]


def classes(*attempts: tuple[str, str, str]) -> set[str]:
    """The class of a refusal in either wording."""
    found: set[str] = set()
    for text in both_wordings(*attempts):
        verdict = failed(text, Phase.CONNECT)
        assert not (verdict.transient and verdict.final)
        found.add("transient" if verdict.transient else "final" if verdict.final else "unknown")
    return found


def test_one_attempt_is_of_the_class_of_what_it_says() -> None:
    says = (REFUSED, "transient"), ("", "transient"), (MISSING, "final"), (NEW, "unknown")
    for said, expected in says:
        assert classes(("a", "::1", said)) == {expected}


@pytest.mark.parametrize("other", [REFUSED, STARTING, MISSING, NEW])
def test_a_wrong_password_is_final_whatever_else_is_said(other: str) -> None:
    for attempts in (
        [("a", "::1", other), ("a", "x", WRONG)],
        [("a", "x", WRONG), ("b", "y", other)],
    ):
        assert classes(*attempts) == {"final"}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (REFUSED, STARTING, "transient"),
        (REFUSED, MISSING, "unknown"),
        (REFUSED, NEW, "unknown"),
        (MISSING, MISSING, "final"),
        (MISSING, NEW, "unknown"),
        (NEW, NEW, "unknown"),
    ],
)
def test_what_an_address_says_outweighs_that_another_one_of_its_host_is_not_reached(
    first: str, second: str, expected: str
) -> None:
    assert classes(("localhost", "::1", first), ("localhost", "x", second)) == {expected}
    assert classes(("localhost", "::1", second), ("localhost", "x", first)) == {expected}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (REFUSED, STARTING, "transient"),
        (STARTING, MISSING, "transient"),
        (REFUSED, NEW, "transient"),
        (MISSING, MISSING, "final"),
        (MISSING, NEW, "unknown"),
    ],
)
def test_what_a_host_says_is_final_for_that_host_alone(
    first: str, second: str, expected: str
) -> None:
    assert classes(("a", "x", first), ("b", "y", second)) == {expected}
    assert classes(("a", "x", second), ("b", "y", first)) == {expected}


def test_a_timeout_of_one_host_does_not_stand_for_the_other_one() -> None:
    text = (
        "connection timeout expired\nMultiple connection attempts failed. All failures were:\n"
        "- host: 'a', port: '5432', hostaddr: 'x': connection failed: connection to server at"
        f' "x", port 5432 failed: {WRONG}\n'
        "- host: 'b', port: '5432', hostaddr: 'y': connection timeout expired"
    )
    assert failed(text, Phase.CONNECT, exception="ConnectionTimeout").final
    listed = text.replace(WRONG, "Connection refused")
    assert failed(listed, Phase.CONNECT, exception="ConnectionTimeout").transient


def test_the_systems_errors_are_known_in_the_language_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = {errno.ECONNREFUSED: "Verbindungsaufbau abgelehnt", errno.ENOENT: "Nicht gefunden"}
    monkeypatch.setattr(os, "strerror", lambda number: words.get(number, f"Fehler {number}"))
    for said in words.values():
        verdict = failed(f'connection to server at "x", port 1 failed: {said}', Phase.CONNECT)
        assert (verdict.rule, verdict.transient) == ("nothing listens", True)
    file = f'could not open file "x": {words[errno.ENOENT]}'
    assert not failed(file, Phase.CONNECT).transient


# -- final: no unit of work is retried -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ('password authentication failed for user "app"', "08P01"),
        ('password authentication failed for user "app"', "28P01"),
        ("server login failed: wrong password type", "08P01"),
        ("no such database: app", "08P01"),
        ("Passwort-Authentifizierung fehlgeschlagen", "28P01"),
        ("transaction blocks not allowed in statement pooling mode", "08P01"),
        ("query_wait_timeout", "08P01"),
    ],
)
def test_what_a_pooler_refuses_after_the_login_is_final(text: str, sqlstate: str) -> None:
    verdict = failed(text, lost=True, sqlstate=sqlstate, severity="FATAL")
    assert (verdict.lost, verdict.final) == (True, True)
    assert verdict.reason is not Reason.UNKNOWN
    foreign = failed(text, lost=False, sqlstate="08001", severity="ERROR")  # by dblink
    assert (foreign.lost, foreign.final) == (False, False)


# -- what holds for every failure there is -------------------------------------------------------

PARTS = [text for entry in TABLE for text in entry.texts]
CODES = sorted({code for entry in TABLE for code in entry.codes + entry.under})

any_text = st.lists(st.sampled_from([*PARTS, "connection to server ", "\n- host: "]) | st.text(),
                    max_size=4).map(" ".join)  # fmt: skip
any_failure = st.builds(
    Failure,
    phase=st.sampled_from(Phase),
    connection_lost=st.none() | st.booleans(),
    exception=st.sampled_from(["OperationalError", "ConnectionTimeout", "PoolTimeout", ""]),
    sqlstate=st.none() | st.sampled_from(CODES) | st.text(max_size=5),
    severity=st.none() | st.sampled_from(["ERROR", "FATAL", "PANIC", "WARNING", "FEHLER"]),
    text=any_text,
)


@given(any_failure)
def test_whatever_comes_gets_a_verdict(failure: Failure) -> None:
    verdict = judge(failure)
    # More than a read may run again only where a read may; but a refused write is no read.
    assert verdict.read_retry_safe or not verdict.write_retry_safe or verdict.read_only
    assert verdict.lost or not failure.connection_lost
    if failure.severity in {"FATAL", "PANIC"} and failure.phase is not Phase.CONNECT:
        assert verdict.lost


@given(any_failure, st.sampled_from([Phase.COMMIT, Phase.FETCH]))
def test_nothing_is_safe_in_commit_and_fetch(failure: Failure, phase: Phase) -> None:
    verdict = judge(replace(failure, phase=phase))
    assert not verdict.read_retry_safe
    assert not verdict.write_retry_safe


@given(any_failure)
def test_a_connect_failure_is_tried_again_exactly_when_it_passes(failure: Failure) -> None:
    verdict = judge(replace(failure, phase=Phase.CONNECT))
    assert verdict.read_retry_safe is verdict.write_retry_safe is verdict.transient


@given(any_failure)
def test_a_write_runs_again_after_a_loss_only_where_nothing_was_sent(failure: Failure) -> None:
    verdict = judge(failure)
    if verdict.lost and verdict.write_retry_safe and failure.phase is not Phase.CONNECT:
        assert verdict.rule in {
            "closed before", "query_wait_timeout", "Supavisor checkout timeout",
            "RDS Proxy borrow timeout", "pooler cannot reach the server",
        }  # fmt: skip


def test_the_case_of_a_text_does_not_matter() -> None:
    for row, change in itertools.product(ROWS, (str.upper, str.lower)):
        for failure in failures(row):
            assert judge(replace(failure, text=change(failure.text))) == judge(failure)


def test_importing_it_needs_no_django() -> None:
    code = "import sys, django_resilient_pg.policy.verdicts as v; print('django' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("code", ["22003", "23505", "42P01", "42601", "42501", "44000", "P0001"])
def test_an_error_of_the_statement_alone_is_none_of_ours(code: str) -> None:
    """Which ``Call.is_wrong`` tells by the class of its SQLSTATE, without asking here."""
    wrong = Call(None, print, "", None, True, IDLE)  # type: ignore[arg-type]
    words = [text for entry in TABLE for text in entry.texts]
    error = SimpleNamespace(sqlstate=code)
    assert wrong.is_wrong(error, IDLE)
    assert not wrong.is_wrong(error, UNKNOWN)
    for phase, text in itertools.product((Phase.STATEMENT, Phase.COMMIT), words):
        failure = Failure(phase, False, "Error", code, "ERROR", text)
        assert judge(failure).rule == "not ours"


def test_nothing_is_done_about_what_is_wrong_with_a_statement() -> None:
    later = [one for one in TABLE if Phase.STATEMENT in one.phases and one.again is not NOTHING]
    codes = {code for entry in later for code in (*entry.codes, *entry.under)}
    wrong = Call(None, print, "", None, True, IDLE)  # type: ignore[arg-type]
    assert not [code for code in codes if wrong.is_wrong(SimpleNamespace(sqlstate=code), IDLE)]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("terminating connection due to administrator command", "57P01"),
        ("FATAL:  terminating connection due to idle-session timeout\n", "57P05"),
        ("Terminating connection because of crash of another server process", "57P02"),
        ("TERMINATING CONNECTION DUE TO ADMINISTRATOR COMMAND", "57P01"),
        ("Verbindung wird abgebrochen aufgrund von Anweisung des Administrators", None),
        ("server closed the connection unexpectedly", None),
        ("", None),
    ],
)
def test_the_code_of_a_last_message_that_came_without_one(text: str, code: str | None) -> None:
    assert code_in(text) == code


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_any_of_the_texts_of_a_last_message_tells_its_code(entry: Entry) -> None:
    for part in entry.texts if len(entry.codes) == 1 and entry.lost else ():
        assert code_in(f"FATAL:  {part}") is not None


def test_the_diagnosis_advises_on_entries_that_there_are() -> None:
    """Its advice goes by their names."""
    own = {"settings", "credentials", "unreadable", "flood"}
    assert set(ADVICE) - own <= {entry.name for entry in TABLE}
