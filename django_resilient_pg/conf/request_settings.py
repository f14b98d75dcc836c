"""The settings of the middleware: declared once, checked, read into a frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

from .declarations import Declaration, InvalidValue, closest

PREFIX: Final = "RESILIENT_PG_"

RETRIES: Final = Declaration(
    f"{PREFIX}REQUEST_RETRIES", "integer", 1, unit="times", lowest=0, highest=10
)
DEADLINE: Final = Declaration(
    f"{PREFIX}REQUEST_DEADLINE", "number", 10.0, unit="seconds", lowest=0.1, highest=3600
)
METHODS: Final = Declaration(
    f"{PREFIX}REPLAY_METHODS",
    "choices",
    ("GET", "HEAD", "OPTIONS"),
    choices=("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"),
)
UNAVAILABLE: Final = Declaration(f"{PREFIX}UNAVAILABLE_RESPONSE", "boolean", False)
DECLARED: Final = (RETRIES, DEADLINE, METHODS, UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """What the middleware was told.

    Attributes:
        retries: how often a request may be replayed.
        deadline: seconds after the start of a request up to which it is replayed and its
            statements may wait for a connection.
        methods: of HTTP whose requests are replayed without a mark on the view.
        unavailable: whether to answer with 503 when it gives up.
    """

    retries: int
    deadline: float
    methods: frozenset[str]
    unavailable: bool


def read(settings: Any) -> RequestSettings:
    """Read Django's settings.

    Raises:
        ImproperlyConfigured: naming the setting, its value, what is allowed and the nearest.
    """
    return RequestSettings(
        retries=_value(settings, RETRIES),
        deadline=_value(settings, DEADLINE),
        methods=_value(settings, METHODS),
        unavailable=_value(settings, UNAVAILABLE),
    )


def problems(settings: Any) -> dict[str, str]:
    """What :func:`read` would raise, by setting: all of it."""
    found: dict[str, str] = {}
    for declared in DECLARED:
        try:
            _value(settings, declared)
        except ImproperlyConfigured as error:
            found[declared.name] = str(error)
    return found


def unknown(settings: Any) -> dict[str, str]:
    """Settings that begin as ours do and are none, each with the nearest that is, or ""."""
    names = [declared.name for declared in DECLARED]
    given = [name for name in dir(settings) if name.startswith(PREFIX) and name not in names]
    return {name: closest(name, names) for name in given}


def _value(settings: Any, declared: Declaration) -> Any:
    try:
        return declared.checked(getattr(settings, declared.name, declared.default))
    except InvalidValue as error:
        raise ImproperlyConfigured(f"The setting {declared.name} {error}") from None
