"""The settings of the middleware: declared once, checked, read into a frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from django.core.exceptions import ImproperlyConfigured

PREFIX: Final = "RESILIENT_PG_"
_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")


class Declaration(NamedTuple):
    """What one setting may be.

    Attributes:
        name: of the setting.
        default: its value when not given.
        allowed: in words.
        lowest, highest: of a number, both included.
    """

    name: str
    default: Any
    allowed: str
    lowest: float = 0.0
    highest: float = 0.0


RETRIES: Final = Declaration(
    f"{PREFIX}REQUEST_RETRIES", 1, "a whole number from 0 to 10 times", 0, 10
)
DEADLINE: Final = Declaration(
    f"{PREFIX}REQUEST_DEADLINE", 10.0, "a number from 0.1 to 3600 seconds", 0.1, 3600
)
METHODS: Final = Declaration(
    f"{PREFIX}REPLAY_METHODS",
    ("GET", "HEAD", "OPTIONS"),
    f"a list of some of {', '.join(_METHODS)}",
)
UNAVAILABLE: Final = Declaration(f"{PREFIX}UNAVAILABLE_RESPONSE", False, "True or False")
DECLARED: Final = (RETRIES, DEADLINE, METHODS, UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """What the middleware was told.

    Attributes:
        retries: how often a request may be run again.
        deadline: seconds after the start of a request up to which it is run again and its
            statements may wait for a connection.
        methods: of HTTP whose requests are run again without a mark on the view.
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

    def given(declared: Declaration) -> Any:
        return getattr(settings, declared.name, declared.default)

    return RequestSettings(
        retries=int(_number(RETRIES, given(RETRIES), whole=True)),
        deadline=_number(DEADLINE, given(DEADLINE)),
        methods=_methods(given(METHODS)),
        unavailable=_boolean(given(UNAVAILABLE)),
    )


def problems(settings: Any) -> dict[str, str]:
    """What :func:`read` would raise, by setting: all of it."""
    found: dict[str, str] = {}
    for declared in DECLARED:
        alone = {declared.name: getattr(settings, declared.name, declared.default)}
        try:
            read(type("Alone", (), alone))
        except ImproperlyConfigured as error:
            found[declared.name] = str(error)
    return found


def unknown(settings: Any) -> dict[str, str]:
    """Settings that begin as ours do and are none, each with the nearest that is, or ""."""
    names = [declared.name for declared in DECLARED]
    given = [name for name in dir(settings) if name.startswith(PREFIX) and name not in names]
    return {name: next(iter(get_close_matches(name, names, n=1)), "") for name in given}


def _number(declared: Declaration, given: object, *, whole: bool = False) -> float:
    try:
        if isinstance(given, bool) or not isinstance(given, (int, float, str)):
            raise ValueError
        value = float(given)
    except (ValueError, OverflowError):
        raise _wrong(declared, given) from None
    if value != value or (whole and value != int(min(max(value, -1e9), 1e9))):
        raise _wrong(declared, given)
    nearest = min(max(value, declared.lowest), declared.highest)
    if value != nearest:
        raise _wrong(declared, given, f" The nearest valid value is {nearest:g}.")
    return value


def _boolean(given: object) -> bool:
    word = str(given).strip().lower() if isinstance(given, (bool, int, str)) else ""
    if word not in _TRUE | _FALSE:
        raise _wrong(UNAVAILABLE, given)
    return word in _TRUE


def _methods(given: object) -> frozenset[str]:
    # A string is iterable too: "GET" would be three methods.
    if not isinstance(given, (list, tuple, set, frozenset)):
        raise _wrong(METHODS, given)
    for method in given:
        if method not in _METHODS:
            near = get_close_matches(str(method).upper(), _METHODS, n=1, cutoff=0.0)
            raise _wrong(METHODS, given, f' Instead of {method!r} say "{near[0]}" or nothing.')
    return frozenset(given)


def _wrong(declared: Declaration, given: object, advice: str = "") -> ImproperlyConfigured:
    shown = repr(given)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return ImproperlyConfigured(
        f"The setting {declared.name} is {shown}, but must be {declared.allowed}.{advice}"
    )
