"""What of the pages is made from the package's own data, when the site is built.

A page asks for it by a comment, which GitHub does not show: ``.. made: providers``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

_ASKED: Final = re.compile(r"(?m)^\.\. made: (?P<name>\w+)$")
_ELSEWHERE: Final = re.compile(r"\s+It\s+is\s+on\s+the\s+site\s+alone:\s+https://\S+")


def _providers() -> str:
    from . import providers

    return providers.text()


def _errors() -> str:
    from . import errors

    return errors.text()


def _changes() -> str:
    return _of_the_top("CHANGELOG.rst")


def _contributing() -> str:
    return _of_the_top("CONTRIBUTING.rst")


def _of_the_top(name: str) -> str:
    """A page of the repository's top without its title, with its links as they are in docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\A=+\n.+\n=+\n", "", text)
    return text.replace("<docs/", "<").replace("<SECURITY", "<../SECURITY")


MADE: Final[Mapping[str, Callable[[], str]]] = {
    "changes": _changes,
    "contributing": _contributing,
    "errors": _errors,
    "providers": _providers,
}


def expand(text: str) -> str:
    """A page with all that it asks for, and without the hint for those who do not read the site."""
    text = _ELSEWHERE.sub("", text)
    return _ASKED.sub(lambda asked: MADE[asked["name"]](), text)
