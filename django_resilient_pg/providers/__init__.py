"""Known servers, poolers, proxies, clouds and middleboxes, and how each is recognised."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from itertools import takewhile
from typing import Final

from .table import CONNECT_TIMEOUT, PROVIDERS, Provider

__all__ = [
    "CONNECT_TIMEOUT",
    "MARKERS",
    "PROVIDERS",
    "Provider",
    "recognise_host",
    "recognise_markers",
]

_DEFAULT_PORT: Final = 5432


@lru_cache(maxsize=64)
def recognise_host(host: str, port: int | None) -> Provider | None:
    """Return the provider that a host name tells of, or None.

    The most specific entry wins: one that names the port, then the one that explains most of the
    name. ``port`` None stands for 5432.
    """
    name = host.strip().lower().rstrip(".")
    best, found = (False, 0), None
    for provider in PROVIDERS:
        if provider.ports and (port or _DEFAULT_PORT) not in provider.ports:
            continue
        explained = _explained(provider, name)
        if explained and (bool(provider.ports), explained) > best:
            best, found = (bool(provider.ports), explained), provider
    return found


def _explained(provider: Provider, name: str) -> int:
    """Return how many characters of a host name an entry explains; 0: it does not fit."""
    suffixes = (len(suffix) for suffix in provider.host_suffixes if name.endswith(suffix))
    possible = (pattern for pattern in provider.host_regexes if _may_match(pattern, name))
    matches = (re.search(pattern, name) for pattern in possible)
    spans = (match.end() - match.start() for match in matches if match)
    return max([0, *suffixes, *spans])


def _may_match(pattern: str, name: str) -> bool:
    """Whether a pattern is worth compiling, by its literal end and its beginning."""
    end = pattern.rpartition("\\.")[2]
    if end.endswith("$") and end[:-1].isalnum() and not name.endswith(end[:-1]):
        return False
    # Without the last character, which may be followed by a quantifier.
    beginning = "".join(takewhile(_is_literal, pattern.removeprefix("^")))[:-1]
    return not pattern.startswith("^") or name.startswith(beginning)


def _is_literal(character: str) -> bool:
    return character.isalnum() or character in "-/"


def _markers(provider: Provider) -> frozenset[str]:
    """Return the settings and functions that only this provider's servers have.

    Not PostgreSQL's own settings; nor patterns, which an extension may match anywhere.
    """
    if provider.name.startswith("PostgreSQL:"):
        return frozenset()
    functions = (name.removesuffix("()").rpartition(".")[2] for name in provider.functions)
    return frozenset([*(guc for guc in provider.gucs if "*" not in guc), *functions])


_MARKED: Final = [(one, marks) for one in PROVIDERS if (marks := _markers(one))]
#: Names of settings and of functions (without schema) to look for on a server.
MARKERS: Final[tuple[str, ...]] = tuple(sorted(frozenset().union(*(m for _, m in _MARKED))))


def recognise_markers(found: Collection[str]) -> Provider | None:
    """Return the provider that a server's settings and functions tell of, or None.

    Args:
        found: those of :data:`MARKERS` that the server has.

    The entry that most of them belong to wins: Aurora has the settings of RDS, too.
    """
    fitting = [(len(marks & set(found)), provider) for provider, marks in _MARKED]
    most = max(count for count, _ in fitting)
    return next((provider for count, provider in fitting if count == most), None) if most else None
