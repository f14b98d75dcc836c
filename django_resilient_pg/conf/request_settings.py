"""The settings of the middleware and of the health probes: declared once, checked, read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
#: Of the health probes (``django_resilient_pg.urls``).
READY_DEADLINE: Final = Declaration(
    f"{PREFIX}READY_DEADLINE", "number", 0.5, unit="seconds", lowest=0.05, highest=60
)
STATUS_TOKEN: Final = f"{PREFIX}STATUS_TOKEN"
#: Characters that a token has at least: nobody may guess it.
SHORTEST_TOKEN: Final = 20


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


def ready_deadline(settings: Any) -> float:
    """Seconds within which ``ready/`` answers.

    Raises:
        ImproperlyConfigured: as :func:`read`.
    """
    return float(_value(settings, READY_DEADLINE))


def status_token(settings: Any) -> str | None:
    """What a monitoring system shows to read ``status/``; ``None``: there is none.

    Raises:
        ImproperlyConfigured: it is no text, or one that can be guessed. It is not shown.
    """
    token = getattr(settings, STATUS_TOKEN, None)
    if token is None or token == "":
        return None
    if not isinstance(token, str) or len(token) < SHORTEST_TOKEN:
        what = f"a {type(token).__name__}" if not isinstance(token, str) else "too short"
        raise ImproperlyConfigured(
            f"The setting {STATUS_TOKEN} is {what}, but must be a text of at least"
            f" {SHORTEST_TOKEN} characters, or None."
        )
    return token


def problems(settings: Any) -> dict[str, str]:
    """What is wrong with the settings, by setting: all of it."""
    found: dict[str, str] = {}
    checks: dict[str, Callable[[], object]] = {
        declared.name: partial(_value, settings, declared)
        for declared in (*DECLARED, READY_DEADLINE)
    }
    checks[STATUS_TOKEN] = partial(status_token, settings)
    for name, check in checks.items():
        try:
            check()
        except ImproperlyConfigured as error:
            found[name] = str(error)
    return found


def unknown(settings: Any) -> dict[str, str]:
    """Settings that begin as ours do and are none, each with the nearest that is, or ""."""
    names = [*(declared.name for declared in (*DECLARED, READY_DEADLINE)), STATUS_TOKEN]
    given = [name for name in dir(settings) if name.startswith(PREFIX) and name not in names]
    return {name: closest(name, names) for name in given}


def _value(settings: Any, declared: Declaration) -> Any:
    try:
        return declared.checked(getattr(settings, declared.name, declared.default))
    except InvalidValue as error:
        raise ImproperlyConfigured(f"The setting {declared.name} {error}") from None
