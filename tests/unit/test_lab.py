"""What the outage lab concludes: its accounts, its event log, its bins; and what it vendors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from testproject.lab.accounts import Account
from testproject.lab.faults import FAULTS
from testproject.lab.feed import BIN, SLOW, Feed, Place
from testproject.lab.journal import MOST, Journal
from testproject.lab.settings import STATIC

pytestmark = pytest.mark.once
LIBRARY = STATIC / "lab" / "uplot"
#: As npm has them: uplot@1.6.32.
SHA256 = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def compared(rows: Mapping[str, tuple[int, int]], *acknowledged: str) -> tuple[set[str], set[str]]:
    account = Account()
    for token in acknowledged:
        account.acknowledge(token)
    account.compare(account.due(), rows)
    return account.doubled, account.lost


def test_orders_are_doubled_lost_or_neither() -> None:
    assert compared({"a": (1, 1)}, "a") == (set(), set())
    assert compared({"a": (2, 2)}) == ({"a"}, set())
    assert compared({}, "a") == (set(), {"a"})
    assert compared({"a": (1, 0)}, "a") == (set(), {"a"}), "an order without its line"


def test_an_order_that_nobody_acknowledged_is_not_lost() -> None:
    assert compared({}) == (set(), set())


def test_lines_that_differ_in_numbers_alone_are_one_entry() -> None:
    journal = Journal()
    for idle in ("0.2 s", "31 ms", "4 s"):
        journal.write(1.0, "resilient", "INFO", f'Connection "default" lost after {idle} idle.')
    journal.write(1.0, "stock", "ERROR", "OperationalError: gone")
    first, second = journal.since(0)
    assert (first["count"], first["text"]) == (3, 'Connection "default" lost after 0.2 s idle.')
    assert second["count"] == 1
    assert journal.since(journal.changes) == []
    journal.begin_chapter()
    journal.write(2.0, "stock", "ERROR", "OperationalError: gone")
    assert [entry["count"] for entry in journal.since(4)] == [1]


def test_the_log_does_not_grow_for_ever() -> None:
    journal = Journal()
    for number in range(MOST * 2):
        journal.write(1.0, "lab", "INFO", "x" * (number + 1))
    assert len(journal.since(0)) == MOST


def told(feed: Feed, place: Place | None = None) -> dict[str, Any]:
    return feed.news(place or Place())[0]


def test_requests_are_answered_slow_or_failed() -> None:
    feed = Feed()
    done = [[10.0, 0.01, True, ""], [10.0, SLOW, True, ""], [10.2, 9.0, False, "t"]]
    feed.take("stock", {"done": done, "healed": 0, "waiting": 2, "log": []})
    side = told(feed)["sides"]["stock"]
    assert side["bins"] == {int(10 / BIN): [1, 1, 1]}
    assert side["counters"]["failed"] == side["counters"]["slow"] == 1
    assert side["waiting"] == 2


def test_an_account_replaces_the_one_before() -> None:
    feed = Feed()
    feed.account("stock", doubled=2, lost=0)
    feed.account("stock", doubled=3, lost=1)
    counters = told(feed)["sides"]["stock"]["counters"]
    assert (counters["doubled"], counters["lost"]) == (3, 1)


def test_a_reader_gets_what_is_new() -> None:
    feed = Feed()
    feed.begin("restart", "Restart", 2.0)
    news, place = feed.news(Place())
    assert news["status"]["fault"] == "restart"
    assert [entry["text"] for entry in news["log"]] == ["Restart"]
    feed.end("over")
    feed.ready(standby=True)
    news, _ = feed.news(place)
    assert [entry["text"] for entry in news["log"]] == ["over"]
    assert news["status"]["fault"] is None
    assert news["marks"][0]["ended"] >= news["marks"][0]["began"]


def test_each_fault_is_explained_in_one_sentence() -> None:
    for fault in FAULTS.values():
        assert fault.sentence.count(".") == fault.sentence.endswith("."), fault.name


def test_the_library_is_as_it_was_published_and_has_its_licence() -> None:
    for name, digest in SHA256.items():
        assert hashlib.sha256((LIBRARY / name).read_bytes()).hexdigest() == digest
    assert "MIT License" in (LIBRARY / "LICENSE").read_text()
