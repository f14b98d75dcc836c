"""``--fix``: the settings to paste, only what differs."""

from __future__ import annotations

import pprint
from collections.abc import Iterable, Mapping
from typing import Any

from ..findings import Finding

WIDTH = 78
# Where two findings differ, the shorter time is right for both.
_SMALLEST = {"CONN_MAX_AGE", "keepalives_idle", "keepalives_interval"}
_POOL = "pool"


def merged(findings: Iterable[Finding]) -> dict[str, Any]:
    """All fixes in one; where two differ, the worse finding (the first) wins.

    But of two times the shorter one, whoever asks for it: under ASGI nothing is kept, and what the
    server allows may be less than what the provider does.
    """
    whole: dict[str, Any] = {}
    for finding in sorted(findings, key=lambda one: -one.level):
        _fill(whole, finding.fix)
    return whole


def _fill(whole: dict[str, Any], fix: Mapping[str, Any]) -> None:
    for name, value in fix.items():
        if isinstance(value, Mapping):
            _fill(whole.setdefault(name, {}), value)
        elif name in _SMALLEST and name in whole:
            whole[name] = min(whole[name], value)
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
    nested = {name: value for name, value in options.items() if isinstance(value, Mapping)}
    kept = {name: options[name] for name in options if name not in {*gone, *nested}}
    lines = [f"{place}[{_quoted(name)}] = {_quoted(value)}" for name, value in whole.items()]
    if kept:
        lines += _updated(f'{place}.setdefault("OPTIONS", {{}})', kept)
    elif nested:
        lines.append(f'{place}.setdefault("OPTIONS", {{}})')
    for name, value in nested.items():
        lines += _within(f'{place}["OPTIONS"]', name, value)
    lines += [f'{place}["OPTIONS"].pop({_quoted(name)}, None)' for name in gone]
    return lines


def _within(options: str, name: str, value: Mapping[str, Any]) -> list[str]:
    """What changes in a dict of the user's own, whose other keys stay (a login, a pool's name)."""
    place = f"{options}.setdefault({_quoted(name)}, {{}})"
    if name != _POOL:
        return _updated(place, value)
    # True stands for a pool with its defaults, and has no keys.
    return [
        f"if {place} is True:",
        f"    {options}[{_quoted(name)}] = {{}}",
        *_updated(f"{options}[{_quoted(name)}]", value),
    ]


def _updated(place: str, values: Mapping[str, Any]) -> list[str]:
    body = pprint.pformat(dict(values), width=WIDTH - 4, sort_dicts=False).replace("'", '"')
    return [f"{place}.update(", *(f"    {line}" for line in body.splitlines()), ")"]


def _quoted(value: object) -> str:
    return repr(value).replace("'", '"') if isinstance(value, str) else repr(value)
