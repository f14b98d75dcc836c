"""Every table and quotation of guarantees, messages, records and counts is the code's own."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from django.dispatch import Signal

import django_resilient_pg
from django_resilient_pg import errors, signals
from django_resilient_pg.policy import messages, verdicts
from django_resilient_pg.policy.rules import Circumstances, RetryRule, decide
from django_resilient_pg.policy.verdicts import Failure, Phase, Reason
from django_resilient_pg.recovery.catalogue import (
    HARMLESS_FUNCTIONS,
    HARMLESS_OF_EXTENSIONS,
)
from django_resilient_pg.sql.statements import analyse
from django_resilient_pg.state.session import Session
from django_resilient_pg.state.shared import Stats
from tests.unit.pages import (
    NODES,
    OBSERVE,
    PROMISE,
    ROOT,
    TOPOLOGIES,
    blocks,
    listed_fields,
    page,
    section,
    table,
    titles,
    words,
)

pytestmark = pytest.mark.once


# -- the guarantees --------------------------------------------------------------------------------


def test_statements_are_retried_as_the_table_says() -> None:
    text = "server closed the connection unexpectedly"
    failure = Failure(Phase.STATEMENT, True, "OperationalError", None, None, text)
    verdict = verdicts.judge(failure)
    autocommit = Circumstances(autocommit=True, untouched=True)
    first = Circumstances(autocommit=False, untouched=True)
    rows = table(section(PROMISE, "Which statement is what"), "Statement")
    assert len(rows) > 10
    for sql, *documented in rows:
        decisions = [decide(verdict, analyse(sql).kind, at) for at in (autocommit, first)]
        actual = ["raised" if one.rule is None else "retried" for one in decisions]
        assert documented == actual, sql


def test_sessions_are_pinned_as_the_table_says() -> None:
    rows = table(section(PROMISE, "With session state"), "Statement")
    assert {answer for _, answer in rows} == {"replayed", "pins", "nothing"}
    for sql, answer in rows:
        session = Session()
        session.note(sql)
        kept = "replayed" if session.settings else "nothing"
        assert answer == ("pins" if session.pinned_by else kept), sql


def test_the_harmless_functions_are_all_listed() -> None:
    listed = blocks(PROMISE, "text")[0].split()
    of_extensions = {name.partition(".")[2] for name in HARMLESS_OF_EXTENSIONS}
    assert listed == sorted(HARMLESS_FUNCTIONS | of_extensions)


WRITE = decide(
    verdicts.judge(Failure(Phase.STATEMENT, True, "", None, None, "")),
    analyse("INSERT INTO t VALUES (1)").kind,
    Circumstances(autocommit=True, untouched=True),
)
LATE = decide(
    verdicts.judge(Failure(Phase.STATEMENT, True, "", None, None, "")),
    analyse("SELECT 1").kind,
    Circumstances(autocommit=False, untouched=False),
)
QUOTED = [
    (PROMISE, messages.refused("default", Reason.ADMINISTRATOR, 0.4, None, WRITE.why, "57P01")),
    (PROMISE, f"The statement was not retried: {LATE.why}."),
    (PROMISE, messages.transaction_lost("default")),
    (PROMISE, messages.session_lost("default", "LISTEN news")),
    (PROMISE, messages.commit_unknown("default", Reason.ADMINISTRATOR)),
    (PROMISE, messages.delivered("default", 300)),
    (PROMISE, messages.unreachable("default", 10.0, messages.bound("retry_deadline", 10.0))),
    (PROMISE, messages.down("default", "connection refused", 0.3, waits=False)),
    (PROMISE, messages.not_ended("default", "the role may not terminate it")),
    (PROMISE, messages.crashed("default")),
    (PROMISE, messages.cancelled("default")),
    (PROMISE, messages.never_connected("default")),
    (PROMISE, messages.long_down("default", 62.0, 10.0, 1796040184.0)),
    (TOPOLOGIES, messages.read_only("default")),
    (TOPOLOGIES, messages.IN_TESTCASE),
    (OBSERVE, messages.happened("default", Reason.SERVER_IDLE_TIMEOUT, 35.0, None)),
]


@pytest.mark.parametrize(("name", "sentence"), QUOTED)
def test_quoted_messages_are_the_engines_own(name: str, sentence: str) -> None:
    quoted = [words(block) for block in blocks(name, "text")]
    assert any(words(sentence) in block for block in quoted), sentence


def test_every_error_is_explained() -> None:
    text = page(PROMISE).astext()
    own = [name for name, one in vars(errors).items() if _defined_in(one, errors.__name__)]
    assert own
    for name in own:
        assert f"django_resilient_pg.errors.{name}" in text


def _defined_in(one: object, module: str) -> bool:
    return isinstance(one, type) and one.__module__ == module


# -- observing -------------------------------------------------------------------------------------


RECORD_CLASSES = [
    one
    for one in vars(signals).values()
    if _defined_in(one, signals.__name__) and is_dataclass(one)
]
# What docs/observe.rst says of each line of the log that is worth knowing.
LOGGED = {
    ("incidents", "info"): "A lost connection was healed",
    ("incidents", "warning"): "A lost connection surfaced",
    ("announce", "info"): "A transaction was retried after a conflict",
    ("announce", "warning"): "A request failed because its connection was lost",
    ("statement", "info"): "A statement was retried without a loss",
    ("replace", "warning"): "A statement was interrupted",
    ("unit_of_work", "warning"): "AttemptAbandoned",
    ("attempts", "info"): "A server is not accepting connections",
    ("settle", "info"): "CONN_MAX_AGE",
    ("fitness", "info"): "A pooled connection failed its check",
    ("views", "warning"): "A database is not ready when",
    ("views", "info"): "A database is ready again",
    ("loans", "warning"): "A pooled connection is held for longer than pool_leak_after",
}
_SAYS = r"(?<=logger\.)(?:error|warning|info)(?=\()|(?<=logging\.)(?:ERROR|WARNING|INFO)\b"


def test_every_level_of_the_log_is_documented_and_none_is_an_error() -> None:
    home = Path(str(django_resilient_pg.__file__)).parent
    written = {
        (path.stem, level)
        for path in home.rglob("*.py")
        for level in map(str.lower, re.findall(_SAYS, path.read_text(encoding="utf-8")))
    }
    assert written == set(LOGGED)
    told = words(section(OBSERVE, "Logger").astext())
    rows = {
        "warning": told[told.index("WARNING") : told.index("INFO")],
        "info": told[told.index("INFO") : told.index("DEBUG")],
    }
    assert [what for (_, level), what in LOGGED.items() if what not in rows[level]] == []


def test_every_field_of_a_line_is_documented() -> None:
    told = section(OBSERVE, "Logger").astext()
    assert [name for name in messages.FIELDS if name not in told] == []


@pytest.mark.parametrize("rule", RetryRule)
def test_every_rule_that_a_statement_runs_again_by_is_documented(rule: RetryRule) -> None:
    assert f'"{rule.value}"' in words(str(signals.StatementRetried.__doc__))
    assert f'"{rule.value}"' in words(page(OBSERVE).astext())


@pytest.mark.parametrize("record", RECORD_CLASSES, ids=lambda record: record.__name__)
def test_every_record_is_documented_field_by_field(record: Any) -> None:
    (title,) = [one for one in titles(OBSERVE) if one.endswith(f": {record.__name__}")]
    listed = listed_fields(section(OBSERVE, title))
    assert list(listed) == [field.name for field in fields(record)]
    assert isinstance(getattr(signals, title.partition(":")[0]), Signal)


def test_every_signal_is_documented() -> None:
    own = [name for name, one in vars(signals).items() if isinstance(one, Signal)]
    assert own
    for name in own:
        assert f"``{name}``" in (ROOT / OBSERVE).read_text(encoding="utf-8")


SENDING = re.compile(r"\bsend_robust$|^send$")


def test_every_argument_of_a_signal_is_documented() -> None:
    home = Path(str(django_resilient_pg.__file__)).parent
    given = {
        keyword.arg
        for path in home.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and any(SENDING.search(ast.unparse(one)) for one in (node.func, *node.args[:1]))
        for keyword in node.keywords
        if keyword.arg is not None
    }
    assert given == {"sender", "connection", "record", "request"}
    literals = {node.astext() for node in section(OBSERVE, "Signals").findall(NODES.literal)}
    assert given <= literals


def test_every_count_is_documented() -> None:
    counts = section(OBSERVE, "What the engine knows").findall(NODES.definition_list_item)
    assert [one[0].astext() for one in counts] == [field.name for field in fields(Stats)]


def test_every_reason_is_documented_with_its_text() -> None:
    rows = [row[:2] for row in table(section(OBSERVE, "Reasons"), "Name")]
    assert rows == [[reason.name, reason.text] for reason in Reason]
