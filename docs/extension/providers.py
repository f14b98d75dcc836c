"""The page of clouds, poolers, proxies and devices, with what the engine makes of each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from django_resilient_pg import facts
from django_resilient_pg.conf.options import Options
from django_resilient_pg.policy.limits import Limits, limits
from django_resilient_pg.policy.lookup import Lookup
from django_resilient_pg.policy.parameters import additions
from django_resilient_pg.providers import CONNECT_TIMEOUT, MARKERS, PROVIDERS, Provider

from .words import block, escaped, heading

COLLECTED: Final = Path(__file__).resolve().parents[2] / "tests" / "data" / "idle_timeouts.json"

KINDS: Final = {
    "cloud": "Managed PostgreSQL",
    "pooler": "Poolers",
    "proxy": "Proxies",
    "middlebox": "NAT gateways, load balancers and firewalls",
    "server": "Servers",
}
# What the engine makes of the server's own settings, which no host name tells of.
_OF_THE_SERVER: Final = {
    "idle_session_timeout": "Nothing to set: the engine reads it at a process' first connection,"
    " and replaces connections before it.",
    "idle_in_transaction_session_timeout": "Keep slow work out of ``atomic()``. Nothing can prevent"
    " this timeout from outside of the transaction.",
    "transaction_timeout": "Keep transactions shorter than the timeout.",
    "authentication_timeout": "Nothing to set: it holds for the login alone.",
    "tcp_keepalives_idle": "Set 60 or so on the server, so that it notices disconnected clients.",
    "tcp_user_timeout": "Set 30 s or so on the server, so that a lost session soon releases its"
    " locks.",
    "client_connection_check_interval": "Set 10 s or so on the server, so that it stops the"
    " statements of disconnected clients.",
}
_SHORTENED: Final = [(r"\bunsourced\b", "not confirmed"), (r"^n/a$", "")]


def collected() -> dict[str, dict[str, Any]]:
    """What was found out about each, by its name."""
    rows = json.loads(COLLECTED.read_text(encoding="utf-8"))
    return {row["name"]: row for row in rows}


def text() -> str:
    """The page, from its first kind on."""
    return "".join(_page(collected()))


def _page(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    for kind, title in KINDS.items():
        every = [provider for provider in PROVIDERS if provider.kind == kind]
        yield heading(title, "=")
        yield from _table(every)
        for provider in every:
            yield from _section(provider, found[provider.name])


def _table(every: list[Provider]) -> Iterator[str]:
    """All of a kind in short, each with a link to its section."""
    yield ".. list-table::\n   :header-rows: 1\n   :widths: 50 25 25\n\n"
    yield "   * - Name\n     - Idle timeout\n     - Keepalives count\n"
    for one in every:
        idle = "" if one.idle_timeout is None else duration(one.idle_timeout)
        kept = {True: "yes", False: "no", None: ""}[one.keepalives_help]
        yield f"   * - `{escaped(one.name)}`_\n     - {idle}\n     - {kept}\n"
    yield "\n"


def _section(provider: Provider, found: dict[str, Any]) -> Iterator[str]:
    yield heading(escaped(provider.name), "-")
    yield f":Idle timeout: {_idle(provider)}\n"
    yield f":What happens: {_said(found['at_timeout'])}\n"
    yield f":Configured by: {_said(found['configurable'])}\n"
    if found["notes"]:
        yield f":Notes: {_said(found['notes'])}\n"
    if provider.max_lifetime:
        yield f":Longest life: {duration(provider.max_lifetime)} for a connection, used or not.\n"
    yield f":Recognised by: {_marks(provider)}\n"
    yield f":This engine: {this_engine(provider)}\n"
    if yours := _with_django(found["recommended"]):
        yield f":Django's engine: {yours}\n"
    yield f":Source: {_said(provider.source)}\n\n"
    if lines := settings(provider):
        yield block("py", lines)


def _said(text: str) -> str:
    for pattern, better in _SHORTENED:
        text = re.sub(pattern, better, text)
    shown = (one if "://" in one else escaped(one) for one in text.split())
    said = " ".join(shown).rstrip(".")
    return f"{_capital(said)}." if said else "Not known."


def _capital(text: str) -> str:
    return text if text.startswith("http") else f"{text[:1].upper()}{text[1:]}"


def duration(seconds: float) -> str:
    """Seconds as people write them: "350 s", "30 min", "5 days"."""
    for name, unit in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit and seconds % unit == 0 and seconds >= 600:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def _idle(provider: Provider) -> str:
    if provider.idle_timeout is None:
        return "Off, not published, or only as configured."
    kept = {True: "Keepalives count.", False: "Keepalives do not count.", None: ""}
    said = f"{duration(provider.idle_timeout)}. {kept[provider.keepalives_help]}"
    return said.strip()


def _marks(provider: Provider) -> str:
    ports = " or ".join(map(str, provider.ports))
    names = ", ".join(f"``*{suffix}``" for suffix in provider.host_suffixes) or "its host names"
    has_host = provider.host_suffixes or provider.host_regexes
    by = [f"{names}{f' with port {ports}' if ports else ''}"] if has_host else []
    if asked := own_markers(provider):
        by.append(f"{', '.join(f'``{name}``' for name in asked)} of the server")
    return f"{_capital('; '.join(by))}." if by else "Nothing that the engine could see."


def own_markers(provider: Provider) -> list[str]:
    """The settings and functions of the server by which the engine recognises it."""
    names = [*provider.gucs, *(name.rpartition(".")[2].rstrip("()") for name in provider.functions)]
    own = not provider.name.startswith("PostgreSQL:")
    return [name for name in names if own and name in MARKERS]


def is_recognised(provider: Provider) -> bool:
    """Whether the engine sees by itself that this is on the path."""
    return bool(provider.host_suffixes or provider.host_regexes or own_markers(provider))


def limits_at(provider: Provider, options: Options | None = None) -> Limits:
    """The limits of a connection there with the engine's own keepalives, as the engine has them."""
    added = additions(Lookup({"host": "db.example.org"}, {}))
    own = facts.SocketOptions(
        bool(added["keepalives"]),
        float(str(added["keepalives_idle"])),
        float(str(added["keepalives_interval"])),
        int(str(added["keepalives_count"])),
        float(str(added["tcp_user_timeout"])) / 1000,
    )
    ends = facts.Endpoint("192.0.2.1", 40000), facts.Endpoint("192.0.2.2", 5432)
    view = facts.SocketView(1, *ends, unix=False, keepalives=own)
    known = facts.Facts(180000, facts.Path.UNKNOWN, "", provider, view)
    return limits(options or Options(), known, None, None)


def this_engine(provider: Provider) -> str:
    """What the engine does by itself there, or what has to be set."""
    if provider.name.startswith("PostgreSQL:"):
        name = provider.gucs[0] if provider.gucs else ""
        return _OF_THE_SERVER.get(name, "Recovers from it: see `Guarantees <promise.rst>`__.")
    said = " ".join(filter(None, (_idle_of(provider), _life_of(provider), _start_of(provider))))
    return (
        said
        or "Nothing to set. If you configure an idle timeout there, set ``idle_timeout`` to it."
    )


def _idle_of(provider: Provider) -> str:
    if provider.idle_timeout is None:
        return ""
    if provider.keepalives_help:
        return "Nothing to set: its keepalives, every 20 s, keep connections alive."
    if not is_recognised(provider):
        return "Set ``idle_timeout``, as below: nothing tells the engine that this is on the path."
    seconds = limits_at(provider).idle.seconds
    return f"Nothing to set: connections idle for longer than {duration(seconds)} are replaced."


def _life_of(provider: Provider) -> str:
    if provider.max_lifetime is None:
        return ""
    if not is_recognised(provider):
        return f"Set ``CONN_MAX_AGE`` below {duration(provider.max_lifetime)}."
    age = limits_at(provider).age
    assert age is not None
    return f"A connection is kept for at most {duration(math.floor(age))}."


def _start_of(provider: Provider) -> str:
    if provider.connect_timeout == CONNECT_TIMEOUT:
        return ""
    return f"``connect_timeout`` is {provider.connect_timeout:g} s, because it may have to wake up."


def _with_django(recommended: dict[str, float | None]) -> str:
    """The settings that help where this engine is not used."""
    idle, keepalives = recommended["max_idle_s"], recommended["keepalives_idle_s"]
    said = []
    if idle is not None:
        said.append(f"``CONN_MAX_AGE`` of at most {idle:g}")
    if keepalives is not None:
        said.append(f"``keepalives_idle`` of {keepalives:g}")
    return f"{', '.join(said)}." if said else ""


def settings(provider: Provider) -> list[str]:
    """The lines of settings.py that this engine needs there; none where it needs none."""
    if provider.idle_timeout is None or provider.keepalives_help or is_recognised(provider):
        return []
    if provider.name.startswith("PostgreSQL:"):
        return []
    return [
        'resilience = DATABASES["default"]["OPTIONS"].setdefault("resilience", {})',
        f'resilience["idle_timeout"] = {provider.idle_timeout:g}',
    ]
