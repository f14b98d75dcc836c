"""The one table: every error text collected in the wild gets the verdict it deserves."""

from __future__ import annotations

import itertools
import json
import pickle
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
from tests.children import python
from tests.unit.failures import failed, verdict_fields

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


# -- reasons ---------------------------------------------------------------------------------------


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


# -- precedence: state, then SQLSTATE and severity, then text --------------------------------------


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


def test_an_unknown_loss_of_an_idle_connection_lets_only_reads_run_again() -> None:
    verdict = judge(Failure(Phase.IDLE, True, "OperationalError", None, None, "never heard of"))
    assert (verdict.read_retry_safe, verdict.write_retry_safe) == (True, False)


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


# -- final: no unit of work is retried -------------------------------------------------------------


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


# -- what holds for every failure there is ---------------------------------------------------------


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
    done = python("-c", code)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


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
