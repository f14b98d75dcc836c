"""Django's system checks: the findings of ``checkdbconn``, under the same ids.

``manage.py check`` judges the settings and connects to nothing. ``manage.py check --database
default`` (and ``migrate``, and the test runner) connects, and adds what only a connection shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.core import checks
from django.db import connections

from ..state.aliases import load

if TYPE_CHECKING:
    from ..diagnosis.findings import Finding
    from ..diagnosis.survey.survey import Survey

#: ``manage.py check --tag resilient_pg``: the settings alone.
TAG: Final = "resilient_pg"
# By Django's own numbers, which ``Level`` has.
_CLASSES: Final[dict[int, Callable[..., checks.CheckMessage]]] = {
    checks.ERROR: checks.Error,
    checks.WARNING: checks.Warning,
    checks.INFO: checks.Info,
}


def register() -> None:
    """Enter both checks into Django's registry; once more changes nothing."""
    checks.register(check_settings, TAG)
    checks.register(check_databases, checks.Tags.database)


def check_settings(**given: Any) -> list[checks.CheckMessage]:
    """Judge the settings of every PostgreSQL alias. Nothing is connected to."""
    from ..diagnosis.findings import findings
    from ..diagnosis.survey.gather import from_settings

    return [
        _message(alias, one)
        for alias in _postgresql(connections)
        for one in findings(from_settings(alias), connects=False)
    ]


def check_databases(
    databases: Sequence[str] | None = None, **given: Any
) -> list[checks.CheckMessage]:
    """Connect to these aliases, and tell what the settings alone did not show.

    Not what is only worth knowing: ``migrate`` and the test runner would print it every time.
    A database that cannot be reached is a finding too. It is given as long as this engine would
    give it (``retry_deadline``): ``migrate`` must not fail here where its first query would not.
    """
    from ..diagnosis.findings import Level, findings
    from ..diagnosis.survey.gather import from_settings

    messages = []
    for alias in _postgresql(databases or ()):
        known = from_settings(alias)
        told = {one.id for one in findings(known, connects=False)}
        found = [one for one in findings(_patiently(known)) if one.level > Level.INFO]
        messages += [_message(alias, one) for one in found if one.id not in told]
    return messages


def _patiently(known: Survey) -> Survey:
    from ..diagnosis.survey.gather import survey
    from ..diagnosis.survey.waiting import wait_for

    patience = known.options.retry_deadline if known.project.resilient else 0.0
    return wait_for(lambda timeout: survey(known.alias, timeout), patience)[0]


def _postgresql(aliases: Iterable[str]) -> list[str]:
    """Those of the aliases that are PostgreSQL."""
    return [alias for alias in aliases if _vendor(alias) == "postgresql"]


def _vendor(alias: str) -> str:
    wrapper, _ = load(alias)
    # No such ENGINE, or no driver for it: Django says so itself, at the first use.
    return str(getattr(wrapper, "vendor", ""))


def _message(alias: str, finding: Finding) -> checks.CheckMessage:
    evidence = f" {finding.evidence}" if finding.evidence else ""
    return _CLASSES[finding.level](
        f"{finding.message}{evidence}",
        hint=finding.hint,
        obj=f'The database "{alias}"',
        id=finding.id,
    )
