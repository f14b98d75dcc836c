"""What pins a session, and what a healthy statement costs to know that it does not."""

from __future__ import annotations

import pytest

from django_resilient_pg import session
from django_resilient_pg.session import HARMLESS, Session


@pytest.fixture(autouse=True)
def forget() -> None:
    HARMLESS.clear()


@pytest.mark.parametrize(
    "sql", ["SELECT 1", b"SELECT 1", "/* tag */ select 1", "CREATE TABLE t ()"]
)
def test_an_ordinary_statement_is_remembered_as_harmless(sql: object) -> None:
    noted = Session()
    noted.note(sql)
    assert noted.pinned_by == ""
    assert len(HARMLESS) == 1


def test_savepoints_are_not_remembered() -> None:
    """Each has a name of its own: they would only push out what is worth knowing."""
    Session().note('SAVEPOINT "s1_x1"')
    assert not HARMLESS


def test_the_first_statement_that_pins_is_named() -> None:
    noted = Session()
    for sql in ["SELECT 1", "SET search_path TO a", "LISTEN b", "SELECT 2"]:
        noted.note(sql)
    assert noted.pinned_by == "SET search_path"


def test_a_word_that_looks_like_session_state_is_read_closely() -> None:
    noted = Session()
    noted.note("SELECT temperature FROM advisory_board")
    assert noted.pinned_by == ""


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_MOST_REMEMBERED", 10)
    noted = Session()
    for number in range(25):
        noted.note(f"SELECT {number}")
    noted.note("SELECT '" + "x" * 10_000 + "'")
    assert len(HARMLESS) <= 10
