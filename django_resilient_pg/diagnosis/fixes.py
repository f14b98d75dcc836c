"""``--fix``: the settings to paste, only what differs."""

from __future__ import annotations

import pprint
from collections.abc import Iterable, Mapping
from typing import Any

from .findings import Finding

WIDTH = 78
_KEPT_BY_NONE = "resilient_pg.W124"


def merged(findings: Iterable[Finding]) -> dict[str, Any]:
    """All fixes in one; where two differ, the worse finding (the first) wins.

    But under ASGI nothing is kept, whatever age would be right elsewhere.
    """
    whole: dict[str, Any] = {}
    for finding in sorted(findings, key=lambda one: (-one.level, one.id != _KEPT_BY_NONE)):
        _fill(whole, finding.fix)
    return whole


def _fill(whole: dict[str, Any], fix: Mapping[str, Any]) -> None:
    for name, value in fix.items():
        if isinstance(value, Mapping):
            _fill(whole.setdefault(name, {}), value)
        else:
            whole.setdefault(name, value)


def snippet(alias: str, findings: Iterable[Finding]) -> list[str]:
    """The lines to paste into settings.py; none if nothing differs."""
    return pasteable(alias, merged(findings))


def pasteable(alias: str, entries: Mapping[str, Any]) -> list[str]:
    """The lines that put these entries into the alias' settings."""
    whole = dict(entries)
    options = dict(whole.pop("OPTIONS", {}))
    place = f"DATABASES[{alias!r}]".replace("'", '"')
    gone = [name for name, value in options.items() if value is None]
    kept = {name: value for name, value in options.items() if value is not None}
    lines = [f"{place}[{_quoted(name)}] = {_quoted(value)}" for name, value in whole.items()]
    if kept:
        body = pprint.pformat(kept, width=WIDTH - 4, sort_dicts=False).replace("'", '"')
        first, *rest = body.splitlines()
        own = f'{place}.setdefault("OPTIONS", {{}}).update('
        lines += [own, f"    {first}", *(f"    {line}" for line in rest), ")"]
    lines += [f'{place}["OPTIONS"].pop({_quoted(name)}, None)' for name in gone]
    return lines


def _quoted(value: object) -> str:
    return repr(value).replace("'", '"') if isinstance(value, str) else repr(value)
