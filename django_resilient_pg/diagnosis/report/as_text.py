"""The report for people: 80 columns, the verdict first, in the colours of Django's commands."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from django.core.management.color import Style

from ...policy.plain import plain
from ..findings import Finding, Level
from ..findings.base import PREFIX
from ..path.sslmodes import Ladder
from ..path.stages import Outcome
from . import fixes
from .checklist import checklist
from .details import details
from .inspection import Inspection

WIDTH: Final = 80
_wrap = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
_LABEL: Final = 23
_GOOD, _BAD, _WARN, _HEAD = "SUCCESS", "ERROR", "WARNING", "MIGRATE_HEADING"
_STYLES: Final = {Level.ERROR: _BAD, Level.WARNING: _WARN, Level.INFO: ""}
_HEADINGS: Final = {Level.ERROR: "Errors", Level.WARNING: "Warnings", Level.INFO: "Worth knowing"}


class Line(NamedTuple):
    """One line of at most :data:`WIDTH` columns, and the name of its style in Django."""

    text: str
    style: str = ""


_MORE: Final = Line("Use -v 2 to see the connection stages, all facts and the evidence.")


def report(
    inspection: Inspection, *, verbosity: int = 1, fix: bool = False, fail_level: int = Level.ERROR
) -> list[Line]:
    """The report on one alias.

    Args:
        inspection: what was found.
        verbosity: 0: the verdict and what failed; 1: with what was asked for and what is worth
            knowing; 2: with the stages, the facts and the evidence of every finding.
        fix: with the settings to paste.
        fail_level: findings of this level or worse are told in any case.
    """
    bad, doubtful = map(inspection.count, (Level.ERROR, Level.WARNING))
    style = _BAD if bad else _WARN if doubtful else _GOOD
    lines = [*_wrapped(f'"{inspection.survey.alias}": {inspection.verdict}', style)]
    lines += _extras(inspection)
    lines += _findings(inspection, verbosity, fail_level)
    if fix:
        lines += _fix(inspection)
    if verbosity > 1:
        lines += [*_stages(inspection), *_facts(inspection), *_checklist(inspection)]
    elif verbosity == 1:
        if not inspection.reachable:
            lines += _stages(inspection)
        lines += [Line(""), _MORE]
    return [*lines, Line("")]


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


def _fix(inspection: Inspection) -> Iterator[Line]:
    yield from _heading("Settings to paste")
    lines = fixes.snippet(inspection.survey.alias, inspection.findings)
    for line in lines or ["# No settings to change."]:
        yield Line(f"  {line}")


def _stages(inspection: Inspection) -> Iterator[Line]:
    yield from _heading("Connection stages")
    for stage in inspection.survey.walk.stages:
        failed = stage.outcome is Outcome.FAILED
        said = "not run" if stage.outcome is Outcome.NOT_RUN else stage.detail
        yield from _pair(
            stage.name, f"{'FAILED. ' if failed else ''}{said}", _BAD if failed else ""
        )


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
        yield from _sentences("Measured idle timeout", inspection.probe_sentences)
        for line in fixes.pasteable(inspection.survey.alias, inspection.probe_settings):
            yield Line(f"  {line}")
    if inspection.drill is not None:
        yield from _sentences("Drill", inspection.drill.sentences)


def _sentences(heading: str, sentences: Iterable[str]) -> Iterator[Line]:
    yield from _heading(heading)
    for sentence in sentences:
        yield from _wrapped(f"  {sentence}", "", 2)


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
    for line in _wrap(plain(text), WIDTH, subsequent_indent=" " * indent):
        yield Line(line, style)


def write(lines: Iterable[Line], out: Any, style: Style) -> None:
    """Write the lines in these styles: :func:`django.core.management.color.no_style` for none."""
    for line in lines:
        paint = getattr(style, line.style) if line.style and line.text else str
        out.write(f"{paint(plain(line.text))}\n")
