"""The values on the command line, checked before anything runs.

``call_command`` passes values that argparse has not seen: they are checked here too.
"""

from __future__ import annotations

import difflib
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection
from typing import Any

from ...conf.declarations import Declaration, InvalidValue, Kind


def declared(name: str, kind: Kind, **bounds: Any) -> Callable[[object], Any]:
    """Return what argparse's ``type`` wants: it takes what is declared so, and nothing else."""
    declaration = Declaration(name, kind, None, **bounds)

    def parse(given: object) -> Any:
        try:
            return declaration.checked(given)
        except InvalidValue as error:
            raise ArgumentTypeError(f"the value {error}") from None

    return parse


def one_of(known: Collection[str]) -> Callable[[object], str]:
    """As :func:`declared`, of a few words."""

    def parse(given: object) -> str:
        if isinstance(given, str) and given in known:
            return given
        (near,) = difflib.get_close_matches(str(given), known, 1, cutoff=0) or [""]
        raise ArgumentTypeError(f'unknown value "{given}"; the closest valid value is "{near}".')

    return parse


def in_any_case(known: Collection[str]) -> Callable[[object], str]:
    """As :func:`one_of`, of words in lower case."""
    parse = one_of(known)
    return lambda given: parse(given.lower() if isinstance(given, str) else given)


def every(parse: Callable[[object], str]) -> Callable[[object], list[str]]:
    """As :func:`declared`, of one value or several."""

    def parse_all(given: object) -> list[str]:
        values = given if isinstance(given, (list, tuple, set)) else [given]
        return [parse(value) for value in values]

    return parse_all
