"""The report for people: 80 columns, the verdict first, in the colours of Django's commands."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from django.core.management.color import Style

from ...policy.plain import plain
from ..findings import Finding, Level
from ..findings.base import PREFIX
from ..idle_probe import advice
from ..idle_probe.probe import ProbeResult
from ..path.sslmodes import Ladder
from ..path.stages import Outcome, Stage
from . import fixes
from .checklist import checklist
from .details import details
from .inspection import Inspection

WIDTH: Final = 80
_LABEL: Final = 23
_GOOD, _BAD, _WARN, _HEAD = "SUCCESS", "ERROR", "WARNING", "MIGRATE_HEADING"
_STYLES: Final = {Level.ERROR: _BAD, Level.WARNING: _WARN, Level.INFO: ""}
_HEADINGS: Final = {
    Level.ERROR: "Errors",
    Level.WARNING: "Warnings",
    Level.INFO: "Worth knowing",
}


class Line(NamedTuple):
    """One line of at most :data:`WIDTH` columns, and the name of its style in Django."""

    text: str
    style: str = ""


def report(
    inspection: Inspection,
    *,
    verbosity: int = 1,
    fix: bool = False,
    fail_level: int = Level.ERROR,
) -> list[Line]:
    """The report on one alias.

    Args:
        inspection: what was found.
        verbosity: 0: the verdict and what failed; 1: with what was asked for and what is worth
            knowing; 2: with the stages, the facts and the evidence of every finding.
        fix: with the settings to paste.
        fail_level: findings of this level or worse are told in any case.
    """
    lines = [*_verdict(inspection), *_extras(inspection)]
    lines += _findings(inspection, verbosity, fail_level)
    if fix:
        lines += _fix(inspection)
    if verbosity > 1:
        lines += [*_stages(inspection), *_facts(inspection), *_checklist(inspection)]
    elif verbosity == 1:
        if not inspection.reachable:
            lines += _stages(inspection)
        lines += _more()
    return [*lines, Line("")]


def _verdict(inspection: Inspection) -> Iterator[Line]:
    style = _BAD if inspection.count(Level.ERROR) else ""
    style = style or (_WARN if inspection.count(Level.WARNING) else _GOOD)
    yield from _wrapped(f'"{inspection.survey.alias}": {inspection.verdict}', style)


def _findings(inspection: Inspection, verbosity: int, fail_level: int) -> Iterator[Line]:
    for level in sorted(Level, reverse=True):
        own = [one for one in inspection.findings if one.level is level]
        if own and (verbosity > 0 or level >= min(Level.WARNING, fail_level)):
            yield from _heading(_HEADINGS[level])
            for one in own:
                yield from _finding(one, verbosity)


def _finding(one: Finding, verbosity: int) -> Iterator[Line]:
    number = one.id.removeprefix(PREFIX)
    yield from _wrapped(f"  {number}  {one.message}", _STYLES[one.level], 8)
    yield from _wrapped(f"        Fix: {one.hint}", "", 8)
    if one.evidence and (verbosity > 1 or one.level is Level.ERROR):
        yield from _wrapped(f"        Seen: {one.evidence}", "", 8)
    yield Line(f"        {one.page}")


def _more() -> Iterator[Line]:
    yield Line("")
    yield Line("Use -v 2 to see the connection stages, all facts and the evidence.")


def _fix(inspection: Inspection) -> Iterator[Line]:
    yield from _heading("Settings to paste")
    lines = fixes.snippet(inspection.survey.alias, inspection.findings)
    for line in lines or ["# No settings to change."]:
        yield Line(f"  {line}")


def _stages(inspection: Inspection) -> Iterator[Line]:
    walk = inspection.survey.walk
    if walk is None:
        return
    yield from _heading("Connection stages")
    for stage in walk.stages:
        style = _BAD if stage.outcome is Outcome.FAILED else ""
        yield from _pair(stage.name, _outcome(stage), style)


def _outcome(stage: Stage) -> str:
    if stage.outcome is Outcome.NOT_RUN:
        return "not run"
    word = "FAILED. " if stage.outcome is Outcome.FAILED else ""
    return f"{word}{stage.detail}"


def _facts(inspection: Inspection) -> Iterator[Line]:
    yield from _heading("Facts")
    for label, text in details(inspection.survey):
        yield from _pair(label, text)


def _checklist(inspection: Inspection) -> Iterator[Line]:
    yield from _heading("The seven questions")
    for number, step in enumerate(checklist(inspection.survey), 1):
        yield from _wrapped(f"  {number}. {step.question} {step.answer}", "", 5)
        if step.command:
            yield Line(f"     $ {step.command}")


def _extras(inspection: Inspection) -> Iterator[Line]:
    if inspection.ladder is not None:
        yield from _ladder(inspection.ladder)
    if inspection.probe is not None:
        yield from _heading("Measured idle timeout")
        yield from _probe(inspection, inspection.probe)
    if inspection.drill is not None:
        yield from _heading("Drill")
        for sentence in inspection.drill.sentences:
            yield from _wrapped(f"  {sentence}", "", 2)


def _probe(inspection: Inspection, probe: ProbeResult | str) -> Iterator[Line]:
    if isinstance(probe, str):
        yield from _wrapped(f"  Not measured: {probe}", "", 2)
        return
    for sentence in advice.sentences(probe):
        yield from _wrapped(f"  {sentence}", "", 2)
    project = inspection.survey.project
    own = advice.settings(probe, resilient=project.resilient, pool=project.pool)
    for line in fixes.pasteable(inspection.survey.alias, own):
        yield Line(f"  {line}")


def _ladder(ladder: Ladder) -> Iterator[Line]:
    yield from _heading("sslmode")
    for rung in ladder.rungs:
        word = {True: "connects", False: "refused", None: "not tried"}[rung.connects]
        how = {True: ", encrypted", False: ", NOT encrypted", None: ""}[rung.encrypted]
        style = _WARN if rung.connects is False else ""
        why = f". {rung.why_not}" if rung.why_not else ""
        yield from _pair(rung.mode, f"{word}{how}{why}", style)
    yield from _wrapped(f"  {ladder.conclusion}", _HEAD, 2)


def _heading(text: str) -> Iterator[Line]:
    yield Line("")
    yield Line(text, _HEAD)


def _pair(label: str, text: str, style: str = "") -> Iterator[Line]:
    room = max(_LABEL, len(label))
    yield from _wrapped(f"  {label:{room}} {text}", style, _LABEL + 3)


def _wrapped(text: str, style: str = "", indent: int = 0) -> Iterator[Line]:
    """Lines of at most :data:`WIDTH`; only a word that is longer (a path) is left whole."""
    room = textwrap.wrap(
        plain(text),
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield from (Line(line, style) for line in room)


def write(lines: Iterable[Line], out: Any, style: Style) -> None:
    """Write the lines in these styles: :func:`django.core.management.color.no_style` for none."""
    for line in lines:
        paint = getattr(style, line.style) if line.style and line.text else str
        out.write(f"{paint(plain(line.text))}\n")
