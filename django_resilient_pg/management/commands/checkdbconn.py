"""``manage.py checkdbconn``: what can terminate connections here, and what to change."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.management.color import no_style
from django.db import connections

from ...diagnosis.drill.drill import drill
from ...diagnosis.findings import Level
from ...diagnosis.idle_probe.probe import DEFAULT, LEAST, MOST, ProbeResult, Progress, probe_idle
from ...diagnosis.idle_probe.sessions import opener
from ...diagnosis.idle_probe.shares import share_of
from ...diagnosis.path.attempts import Connector, Refused
from ...diagnosis.path.sslmodes import not_tried, sslmodes
from ...diagnosis.path.tls_refusals import sentence
from ...diagnosis.report import as_json, as_text
from ...diagnosis.report.inspection import LEVELS, Inspection
from ...diagnosis.settings import bounds
from ...diagnosis.survey.gather import survey
from ...diagnosis.survey.survey import Survey
from ...diagnosis.survey.waiting import wait_for
from ...policy.plain import plain
from ...state.aliases import load

_LOGIN = 10.0
_INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT
_OTHERS = {"mysql", "oracle", "sqlite3", "spatialite"}
_SECONDS = {
    name: bounds.declared(name, "number", unit="seconds", lowest=lowest, highest=highest)
    for name, lowest, highest in (("probe_idle", LEAST, MOST), ("wait", 0, 86_400))
}
_FORMATS = ("text", "json")
# What ``call_command(..., format=None)`` means: not given.
_DEFAULTS: Mapping[str, object] = {
    "format": "text",
    "fail_level": Level.ERROR.word,
    "verbosity": 1,
}
_OTHER_VALUES: dict[str, Callable[[object], object]] = {
    "format": bounds.one_of(_FORMATS),
    "fail_level": bounds.in_any_case(LEVELS),
    "verbosity": bounds.declared("verbosity", "integer", lowest=0, highest=3),
}


class Command(BaseCommand):
    """Connects as the application does, and reports what it finds."""

    help = "Checks what can terminate PostgreSQL connections here, and recommends settings."
    # It must run while the database is down, whatever other apps' checks need.
    requires_system_checks = []  # noqa: RUF012  as Django declares it

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        add(
            "--database",
            action="append",
            choices=tuple(connections),
            help="alias to check; may be given several times (default: all PostgreSQL ones)",
        )
        add("--format", choices=_FORMATS, default="text", help="output format")
        add(
            "--fail-level",
            type=str.lower,
            choices=tuple(LEVELS),
            default=Level.ERROR.word,
            help="exit with status 1 for findings of this level or above (default: error)",
        )
        add("--fix", action="store_true", help="print the settings to change, ready to paste")
        add("--sslmodes", action="store_true", help="try every sslmode and recommend one")
        add(
            "--probe-idle",
            type=_SECONDS["probe_idle"],
            nargs="?",
            const=DEFAULT,
            metavar="SECONDS",
            help="measure the idle timeout of the path with idle sessions (default: %(const)g s)",
        )
        add(
            "--drill",
            action="store_true",
            help="terminate this command's own sessions and report what recovers",
        )
        add(
            "--wait",
            type=_SECONDS["wait"],
            metavar="SECONDS",
            help="wait until connections are accepted (total for all aliases)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Check each alias.

        Raises:
            CommandError: exit status 1: findings at the fail level, or not reachable for now;
                3: a configuration that waiting will not cure; 130: Ctrl-C.
        """
        self._options, self._waited = options, 0.0
        self._check_values()
        level = LEVELS[options["fail_level"]]
        self._misnamed: list[str] = []
        self._last: Survey | None = None
        done: list[Inspection] = []
        for alias in self._aliases():
            done.append(self._unless_interrupted(alias))
            if options["format"] == "text":
                self._print(done[-1], level)
        document = as_json.document(done, level)
        wrong = self._nothing_checked(done)
        if wrong:
            document["exit_status"] = 3
        if options["format"] == "json":
            self.stdout.write(json.dumps(document, indent=2))
        if wrong:
            raise CommandError(wrong, returncode=3)
        if status := document["exit_status"]:
            bad = [each.survey for each in done if each.exit_status(level)]
            names = ", ".join(f'"{each.alias}"' for each in bad)
            raise CommandError(f"Check failed: {names}.", returncode=status)

    def _nothing_checked(self, done: list[Inspection]) -> str:
        """A run that checks nothing must not succeed."""
        if self._misnamed:
            return f"{', '.join(self._misnamed)}: choose another --database."
        return "" if done else "Nothing was checked: no entry of DATABASES is PostgreSQL."

    def _check_values(self) -> None:
        """``call_command`` passes values that argparse has not checked."""
        known = {"database": bounds.every(bounds.one_of(tuple(connections)))}
        for name, parse in {**known, **_SECONDS, **_OTHER_VALUES}.items():
            if self._options[name] is None:
                self._options[name] = _DEFAULTS.get(name)
            else:
                try:
                    self._options[name] = parse(self._options[name])
                except ArgumentTypeError as error:
                    option = f"--{name.replace('_', '-')}"
                    raise CommandError(f"{option}: {error}", returncode=2) from None

    def _aliases(self) -> Iterator[str]:
        # Named twice, checked once.
        for alias in dict.fromkeys(self._options["database"] or connections):
            vendor = self._vendor(alias)
            if vendor == "postgresql":
                yield alias
            elif self._options["database"]:
                self._misnamed.append(f'"{alias}" is not PostgreSQL ({vendor})')
            else:
                self._say(f'"{alias}" is not PostgreSQL ({vendor}): skipped.')

    @staticmethod
    def _vendor(alias: str) -> str:
        """The survey reports what cannot be loaded, unless it cannot be PostgreSQL anyway."""
        wrapper, _ = load(alias)
        if wrapper is not None:
            return str(getattr(wrapper, "vendor", "unknown"))
        name = str(connections.settings[alias]["ENGINE"]).rpartition(".")[2]
        return name if name in _OTHERS else "postgresql"

    def _unless_interrupted(self, alias: str) -> Inspection:
        """``--wait`` and ``--probe-idle`` handle Ctrl-C themselves and report what is known."""
        try:
            return self._inspect(alias)
        except KeyboardInterrupt:
            said = f'Interrupted by Ctrl-C: the check of "{alias}" is incomplete.'
            raise CommandError(said, returncode=_INTERRUPTED) from None

    def _inspect(self, alias: str) -> Inspection:
        seen, options = self._survey(alias), self._options
        if seen.refused:
            return Inspection.of(seen)
        connect, walk = Connector.of(connections[alias]), seen.walk
        reachable = walk.failed is None
        probing = reachable and options["probe_idle"] is not None
        # First: the rules judge what it measures, too.
        found = Inspection.of(seen, self._probe(connect, seen) if probing else None)
        if options["sslmodes"]:
            ladder = not_tried(walk) or sslmodes(seen.target, connect, tls=walk.tls)
            found = replace(found, ladder=ladder)
        if options["drill"] and reachable:
            found = replace(found, drill=drill(seen, self._say))
        return found

    def _survey(self, alias: str) -> Survey:
        seconds = self._options["wait"]
        if seconds is None:
            return survey(alias)
        # The total for all aliases; each is tried at least once.
        left = max(0.0, seconds - self._waited)
        try:
            last, spent = wait_for(lambda patience: survey(alias, patience), left, self._waiting)
            self._waited += spent
            return last
        except KeyboardInterrupt:
            if self._last is None or self._last.alias != alias:
                raise CommandError(f'--wait: interrupted before "{alias}" answered.') from None
            return self._last

    def _waiting(self, last: Survey, left: float) -> None:
        self._last = last
        stage = last.failed.name if last.failed is not None else ""
        self._say(f'"{last.alias}": not reachable yet (stage {stage}), {left:.0f} s left.')

    def _probe(self, connect: Connector, seen: Survey) -> ProbeResult | str:
        """The result, or why there is none: the rest of the report is printed either way."""
        try:
            return probe_idle(
                opener(connect, _LOGIN, len(seen.target.hosts)),
                float(self._options["probe_idle"]),
                report=self._progress,
                share=share_of(seen),
            )
        except Refused as error:
            return sentence(f"could not open a session: {error}")

    def _say(self, text: str, ending: str = "\n") -> None:
        """Write progress to standard error, without the red that Django uses there."""
        self.stderr.write(plain(text), style_func=str, ending=ending)

    def _progress(self, progress: Progress) -> None:
        """Report to standard error: once a second on a terminal, otherwise only news."""
        if progress.told:
            self._say(f"{progress.seconds:5.0f} s: {progress.told}")
        elif self.stderr.isatty():
            text = f"{progress.seconds:5.0f} of {progress.until:.0f} s, {progress.alive} sessions"
            self._say(text, ending="\r")

    def _print(self, inspection: Inspection, fail_level: int) -> None:
        options = self._options
        lines = as_text.report(
            inspection, verbosity=options["verbosity"], fix=options["fix"], fail_level=fail_level
        )
        wanted = options["force_color"] or (not options["no_color"] and self.stdout.isatty())
        as_text.write(lines, self.stdout, self.style if wanted else no_style())
