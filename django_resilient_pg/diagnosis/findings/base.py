"""What a finding is, and the one registry of the rules that make them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..survey.survey import Survey

PREFIX: Final = "resilient_pg."
#: The page that explains every finding, which has its number as an anchor.
PAGE: Final = "https://django-resilient-pg.readthedocs.io/en/stable/checks.html"
#: Django's engines, and those of this package that can do all that they do.
COUNTERPARTS: Final = {
    "django.db.backends.postgresql": "django_resilient_pg",
    "django.contrib.gis.db.backends.postgis": "django_resilient_pg.postgis",
}


class Level(enum.IntEnum):
    """How bad it is, with Django's own numbers."""

    INFO = 20
    WARNING = 30
    ERROR = 40

    @property
    def word(self) -> str:
        """As ``--fail-level`` and the reports write it."""
        return self.name.lower()


class Found(NamedTuple):
    """What a rule says.

    Attributes:
        message: what is wrong, as a sentence.
        hint: what to do, as a sentence.
        evidence: what was measured or read, as a sentence.
        fix: entries to change in the alias' settings, ``{}`` if none would help.
    """

    message: str
    hint: str
    evidence: str
    fix: Mapping[str, object] = {}


class Finding(NamedTuple):
    """One thing that is wrong, or worth knowing; see :class:`Found`."""

    id: str
    level: Level
    message: str
    hint: str
    evidence: str
    fix: Mapping[str, object]

    @property
    def page(self) -> str:
        """Where it is explained."""
        return f"{PAGE}#{self.id.removeprefix(PREFIX).lower()}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the registry.

    Attributes:
        id: such as "resilient_pg.W101".
        title: a few words, the same in docs/checks.rst.
        connects: it judges what only connecting shows; else the settings are enough.
        judge: the rule; pure.
    """

    id: str
    title: str
    connects: bool
    judge: Callable[[Survey], Found | None]

    @property
    def level(self) -> Level:
        """The letter of the id says it."""
        letter = self.id.removeprefix(PREFIX)[0]
        return {"E": Level.ERROR, "W": Level.WARNING, "I": Level.INFO}[letter]


RULES: Final[dict[str, Rule]] = {}

_Judge = Callable[[Survey], Found | None]


def rule(number: str, title: str, *, connects: bool = False) -> Callable[[_Judge], _Judge]:
    """Enter a function into the registry under an id.

    Raises:
        ValueError: the id is taken.
    """

    def enter(judge: _Judge) -> _Judge:
        name = PREFIX + number
        if name in RULES:
            raise ValueError(f"the id {name} is taken by {RULES[name].judge.__name__}")
        RULES[name] = Rule(name, title, connects, judge)
        return judge

    return enter


def seconds(value: float | None) -> str:
    """A time in words: "20 s", "0.5 s", "unlimited"."""
    return "unlimited" if value is None else f"{value:g} s"
