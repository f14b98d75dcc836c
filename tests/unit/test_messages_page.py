"""docs/messages.rst: every sentence in the engine's code that people may read is on some page."""

from __future__ import annotations

import re

import pytest

from tests.unit import spoken
from tests.unit.pages import PAGES, page, words
from tests.unit.test_operations_page import bare, shown

pytestmark = pytest.mark.once

PAGE = "docs/messages.rst"
#: Whose texts have tests of their own, or are nobody's to read.
ELSEWHERE = (
    "apps.py",  # names in Django's registry
    "checks/",  # docs/units.rst, docs/servers.rst and docs/packages.rst, by their ids
    "diagnosis/",  # the report says itself what to do; docs/checks.rst has the findings
    "driver/literals.py",  # patterns
    "facts/",  # what the report and the status page quote as evidence
    "management/",  # help and progress of the command
    "metrics/",  # docs/metrics.rst
    "policy/error_table.py",  # the error catalogue
    "policy/lookup.py",  # where libpq finds a value, for the report
    "policy/messages.py",  # docs/operations.rst
    "providers/",  # docs/providers.rst
    "recovery/questions.py",  # SQL
    "sql/",  # names of what statements do
)
#: Texts for nobody, or somebody else's.
NOT_SAID = {
    "cannot assign to field ...": "dataclasses'",
    "cannot delete field ...": "dataclasses'",
    "module ... has no attribute ...": "Python's",
    "closed by the server": "an entry of the error table",
    "cancelled by recovery": "an entry of the error table",
    "unknown connection error": "an entry of the error table",
    "connection timeout expired": "psycopg's, in the error catalogue",
    "... Multiple connection attempts failed. All failures were:": "psycopg's",
    "EXTRACT(epoch FROM a.backend_start)": "SQL",
    "text/plain; charset=utf-8": "a header",
    "the server is not known to be down: connect": "a state",
    "it is down, and this is the one thread that asks: connect": "a state",
    "it is down, and another attempt is under way or not yet due": "a state",
}
WRITTEN = spoken.written(ELSEWHERE)
SAID = [said for said in WRITTEN if said.text not in NOT_SAID and "default-src" not in said.text]
TOLD = bare(" ".join(words(page(name).astext()) for name in PAGES if name.startswith("docs/")))


def test_what_is_said_is_found() -> None:
    """Otherwise the tests below would prove nothing."""
    assert len(SAID) > 130
    assert {text for text in NOT_SAID if text not in {said.text for said in WRITTEN}} == set()


@pytest.mark.parametrize("said", SAID, ids=lambda said: f"{said.place}: {said.text[:30]}")
def test_every_text_is_documented(said: spoken.Said) -> None:
    assert [part for part in said.text.split("...") if bare(part) not in TOLD] == []


def test_no_text_is_documented_that_is_not_written() -> None:
    written = bare(" ".join(spoken.strings()))
    for text in shown(page(PAGE)):
        for part in re.split(r"\.{3,}", text):
            assert len(bare(part).split()) < 3 or _is_in(bare(part), written), part


def _is_in(part: str, written: str) -> bool:
    """In one piece, or in two that are put together."""
    found = part.split()
    halves = ((" ".join(found[:at]), " ".join(found[at:])) for at in range(1, len(found)))
    return part in written or any(one in written and two in written for one, two in halves)
