"""The error catalogue: what the table of errors knows, with cause and cure of each entry."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django_resilient_pg.policy.error_table import CONNECT, TABLE, Entry, Phase
from django_resilient_pg.policy.rules import Circumstances, decide
from django_resilient_pg.policy.verdicts import Failure, judge
from django_resilient_pg.sql.statements import analyse

from .words import block, escaped, heading

HERE: Final = Path(__file__).parent
REPORTED: Final = HERE.parents[1] / "tests" / "data" / "errors.json"

_PHASES: Final = {
    "idle": Phase.IDLE,
    "query": Phase.STATEMENT,
    "commit": Phase.COMMIT,
    "fetch": Phase.FETCH,
    "connect": Phase.CONNECT,
}
# No line of a text is longer on the page; the rest says what every such error says.
_LONGEST: Final = 160


@dataclass(frozen=True)
class Explained:
    """What the page says of one entry, written by hand in ``errors.toml``."""

    group: str
    name: str
    title: str
    cause: str
    cure: str
    engine: str = ""


def explained() -> list[Explained]:
    """Everything that is written by hand, in the order of the page."""
    groups = tomllib.loads((HERE / "errors.toml").read_text(encoding="utf-8"))
    return [Explained(group, **entry) for group, entries in groups.items() for entry in entries]


def reported() -> list[dict[str, Any]]:
    """The texts as they were measured or reported, each with what is known of it."""
    rows: list[dict[str, Any]] = json.loads(REPORTED.read_text(encoding="utf-8"))
    return rows


def rule_of(row: dict[str, Any]) -> str:
    """The name of the entry that decides about a reported text."""
    connecting = row["phase"] == "connect"
    return judge(
        Failure(
            phase=_PHASES[row["phase"]],
            connection_lost=None if connecting else row["connection_lost"],
            exception=row["exception"].rpartition(".")[2],
            sqlstate=None if connecting else row["sqlstate"],
            severity=None,
            text=row["text"],
        )
    ).rule


def text() -> str:
    """The page, from its first group on."""
    entries = {entry.name: entry for entry in TABLE}
    texts: dict[str, list[str]] = {}
    for row in reported():
        texts.setdefault(rule_of(row), []).append(row["text"])
    return "".join(_page(explained(), entries, texts))


def _page(
    every: list[Explained], entries: dict[str, Entry], texts: dict[str, list[str]]
) -> Iterator[str]:
    group = ""
    for one in every:
        if one.group != group:
            group = one.group
            yield heading(group, "=")
        yield heading(escaped(one.title), "-")
        entry = entries[one.name]
        yield block("text", list(_shown(entry, texts.get(one.name, []))))
        yield f":Cause: {_indented(one.cause)}\n"
        yield f":Cure: {_indented(one.cure)}\n"
        yield f":Engine: {_indented(one.engine or engine(entry))}\n"
        yield f":Reason: `{entry.reason.name} <observe.rst#reasons>`__\n"
        if codes := ", ".join(f"``{code}``" for code in dict.fromkeys(entry.codes + entry.under)):
            yield f":SQLSTATE: {codes}\n"
        yield "\n"


def _indented(said: str) -> str:
    return " ".join(said.split())


def _shown(entry: Entry, texts: list[str]) -> Iterator[str]:
    """Each text once, and of the table's own words those that no text has."""
    shown = list(dict.fromkeys(_short(one) for one in texts))
    whole = "\n".join(texts).lower()
    yield from shown
    yield from (part.strip('" ') for part in entry.texts if part not in whole)
    yield from () if entry.texts or texts else (f"SQLSTATE {code}" for code in entry.codes)


def _short(said: str) -> str:
    first = said.splitlines()[0]
    if first.endswith("Connection timed out") and len(said.splitlines()) > 1:
        first = " ".join(said.splitlines()[:2])
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST]}..."


def engine(entry: Entry) -> str:
    """What the engine does, as its own rules decide."""
    if entry.phases == CONNECT:
        if entry.transient:
            return "Retries the connection attempt until ``retry_deadline``."
        return "Raises the error at once: another attempt would end in the same way."
    if entry.final:
        return "Replaces the connection, and raises the error: a retry would end in the same way."
    verdict = judge(_sample(entry))
    autocommit = Circumstances(autocommit=True, untouched=True)
    first = Circumstances(autocommit=False, untouched=True)
    asked = [
        ("SELECT 1", autocommit),
        ("INSERT INTO t VALUES (1)", autocommit),
        ("SELECT 1", first),
    ]
    read, write, opening = (
        decide(verdict, analyse(sql).kind, at).rule is not None for sql, at in asked
    )
    return f"Replaces the connection. {_retried(read, write, opening)}"


def _retried(read: bool, write: bool, opening: bool) -> str:
    match read, write, opening:
        case True, True, True:
            return "Retries the statement, a write too: it reached no server."
        case True, False, True:
            return (
                "Retries a read, and the first statement of a transaction. Raises a write in"
                " autocommit."
            )
        case False, False, False:
            return "Raises the error: a retry would end in the same way."
    raise AssertionError((read, write, opening))


def _sample(entry: Entry) -> Failure:
    said = entry.texts[0] if entry.texts else ""
    code = next(iter(entry.under if said and entry.under else entry.codes), None)
    return Failure(Phase.STATEMENT, True, "OperationalError", code, None, said)
