"""docs/operations.rst: every sentence that the engine logs or adds to an error, at its level."""

from __future__ import annotations

import re
from typing import Any

import pytest

from django_resilient_pg.policy import messages
from django_resilient_pg.policy.verdicts import Reason
from tests.unit import spoken
from tests.unit.pages import NODES, page, section, table, words

pytestmark = pytest.mark.once

PAGE = "docs/operations.rst"
LINES = "Log lines"
LOGGED = spoken.logged()
NOTES = [text for texts in spoken.of_messages().values() for text in texts]


def shown(within: Any) -> dict[str, str]:
    """The sentences of a section, each with the levels it is documented at."""
    found: dict[str, str] = {}
    for item in within.findall(NODES.definition_list_item):
        text = spoken.plain(item[0].astext())
        levels = [node.astext() for node in item.children if isinstance(node, NODES.classifier)]
        found[text] = " ".join([found.get(text, ""), *levels])
    return found


def bare(text: str) -> str:
    """Without dots: a sentence may end with what varies, and another follow it."""
    return re.sub(r"\W+", " ", text).strip()


TOLD = bare(words(page(PAGE).astext()))


def test_the_log_is_found_where_it_is_written() -> None:
    """Otherwise the tests below would prove nothing."""
    assert len(LOGGED) > 25
    assert {said.place.split(":")[0] for said in LOGGED} >= {
        "connecting/attempts.py",
        "middleware.py",
        "pool/fitness.py",
        "recovery/commit.py",
        "state/unit_of_work.py",
    }


@pytest.mark.parametrize("said", LOGGED, ids=lambda said: f"{said.place}: {said.text[:30]}")
def test_every_line_of_the_log_is_documented(said: spoken.Said) -> None:
    assert bare(said.text) in TOLD


@pytest.mark.parametrize("said", LOGGED, ids=lambda said: f"{said.place}: {said.text[:30]}")
def test_a_line_has_the_level_that_is_documented(said: spoken.Said) -> None:
    levels = {bare(text): level for text, level in shown(section(PAGE, LINES)).items()}
    if bare(said.text) in levels:
        assert set(said.level.split("/")) & set(levels[bare(said.text)].split()) or not said.level


@pytest.mark.parametrize("text", NOTES)
def test_every_note_is_documented(text: str) -> None:
    assert [part for part in text.split("...") if bare(part) not in TOLD] == []


def test_no_line_is_documented_that_is_not_written() -> None:
    written = {bare(text) for text in [*NOTES, *(said.text for said in LOGGED)]}
    lines = {bare(text): text for text in shown(section(PAGE, LINES))}
    assert [text for short, text in lines.items() if short not in written] == []


def test_what_prevents_a_loss_is_documented_for_every_reason() -> None:
    rows = table(section(PAGE, "To prevent this"), "Reason")
    assert rows == [[reason.name, words(messages._PREVENTION[reason])] for reason in Reason]
