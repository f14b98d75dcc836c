"""What the demo concludes and shows, and the environment it gives to its processes."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from testproject import environment
from testproject.comparison import RESILIENT, Outcome, Side, complaints, progress
from testproject.demo import row
from testproject.ledger import Found, Kind, Ledger, judge
from testproject.screen import Cell, Line, plain_table, print_table

pytestmark = pytest.mark.once_per_driver


def good() -> Outcome:
    ledger = Ledger()
    ledger.attempt(Kind.READ, ledger.count_statement)
    result = judge([ledger], Found({}, {}, {}), engine="an.engine", seconds=1.0)
    return Outcome(Side("resilient", "an.engine"), result, kills=3, restarts=1, log=[])


def with_result(**counts: Any) -> Outcome:
    """The good outcome, but for these counts."""
    outcome = good()
    return replace(outcome, result=replace(outcome.result, **counts))


def test_engine_that_kept_its_promise_gives_no_complaint() -> None:
    assert complaints(good()) == []


@pytest.mark.parametrize("field", ["failed_reads", "doubled", "lost", "half_committed", "hung"])
def test_each_broken_promise_is_a_complaint(field: str) -> None:
    (text,) = complaints(with_result(**{field: 2}))
    assert text.startswith("an.engine: 2 ")


def test_under_retry_atomic_no_transaction_may_fail() -> None:
    outcome = with_result(failed_transactions=2)
    outcome = replace(outcome, side=replace(outcome.side, retries=True))
    (text,) = complaints(outcome)
    assert text == "an.engine: 2 transactions failed under retry_atomic."
    assert row(outcome)[3].good is False


def test_a_warning_for_what_was_healed_is_a_complaint() -> None:
    outcome = with_result(write_errors=1)
    outcome = replace(outcome, side=Side("resilient", RESILIENT), log=["one", "another"])
    (text,) = complaints(outcome)
    assert text == f"{RESILIENT}: 1 warnings were logged for what was healed."
    assert complaints(replace(outcome, log=["one"])) == []


@pytest.mark.parametrize("field", ["write_errors", "failed_transactions", "landed"])
def test_what_was_never_promised_is_no_complaint(field: str) -> None:
    assert complaints(with_result(**{field: 2})) == []


@pytest.mark.parametrize(
    "idle",
    [replace(good(), kills=0), replace(good(), restarts=0), with_result(statements={"read": 0})],
)
def test_run_without_faults_or_work_proves_nothing(idle: Outcome) -> None:
    (text,) = complaints(idle)
    assert "proves nothing" in text


def test_progress_fits_a_terminal() -> None:
    done = {"seconds": 10.5, "statements": 12345, "failed_reads": 123, "failed_writes": 45}
    assert len("resilient: " + progress(done, 11.0, 105)) <= 79


def test_row_is_red_where_the_promise_is_broken() -> None:
    cells = row(with_result(failed_reads=4))
    assert [cell.good for cell in cells] == [None, None, False, None, True, True, None, None]
    assert cells[2].text == "4"


def test_plain_table_is_aligned_below_headers_of_several_words() -> None:
    text = plain_table(["engine", "failed reads"], [["stock", "12"], ["ours", "0"]])
    assert text.splitlines() == [
        "        failed",
        "engine   reads",
        "------  ------",
        "stock       12",
        "ours         0",
    ]


def test_table_in_a_file_is_not_cut() -> None:
    stream = io.StringIO()
    headers = [f"heading{number:06}" for number in range(8)]
    print_table(headers, [[Cell("[x]", good=False)] * 8], stream)
    assert all(header in stream.getvalue() for header in headers)
    assert stream.getvalue().count("[x]") == 8


def test_line_comes_now_and_then_where_it_cannot_be_changed() -> None:
    stream = io.StringIO()
    times = iter([0.0, 0.0, 1.0, 4.0, 4.0])
    line = Line(stream, lambda: next(times))
    for text in ("first", "too soon", "second"):
        line.show(text)
    line.end("last")
    assert stream.getvalue().splitlines() == ["first", "second", "last"]


@pytest.mark.parametrize("age", [None, 0, 60])
def test_environment_gives_back_the_entry_it_was_made_of(age: int | None) -> None:
    entry = {
        "ENGINE": "some.engine",
        "HOST": "localhost",
        "PORT": "5433",
        "NAME": "name",
        "USER": "user",
        "PASSWORD": "secret",
        "CONN_MAX_AGE": age,
        "CONN_HEALTH_CHECKS": False,
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {"sslmode": "verify-full", "resilience": {"read_retries": 3}},
    }
    assert environment.database(environment.variables(entry)) == entry


def test_certificate_of_the_authority_turns_verification_on() -> None:
    entry = environment.database({"DATABASE_SSLROOTCERT": "/ca.pem", "ENGINE": "not ours"})
    assert entry["OPTIONS"] == {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}
    assert entry["ENGINE"] == "django_resilient_pg"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("DATABASE_CONN_MAX_AGE", "-1", 'DATABASE_CONN_MAX_AGE is "-1"; write whole seconds'),
        ("DATABASE_CONN_MAX_AGE", "1.5", 'DATABASE_CONN_MAX_AGE is "1.5"; write whole seconds'),
        ("DATABASE_ATOMIC_REQUESTS", "maybe", 'DATABASE_ATOMIC_REQUESTS is "maybe"; write "true"'),
        ("DATABASE_OPTIONS", "[1]", "DATABASE_OPTIONS is not a JSON object"),
        ("DATABASE_OPTIONS", "{'password': 'p'", "DATABASE_OPTIONS is not a JSON object"),
    ],
)
def test_wrong_variable_is_named(name: str, text: str, told: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="^" + told.replace("[", r"\[")):
        environment.database({name: text})
