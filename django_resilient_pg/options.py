"""Every option of ``OPTIONS["resilience"]``: declared once, parsed into a frozen object.

The reference page and the error messages are made from :func:`declarations`; a key, its default,
its unit and its bounds are written nowhere else. Strings are accepted because settings that come
from a URL or from the environment are strings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple

from django.core.exceptions import ImproperlyConfigured

_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_NONE: Final = frozenset({"none", "null", ""})
_DOTTED_PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
# The longest value that an error message shows of what was given.
_SHOWN: Final = 40


class Declaration(NamedTuple):
    """What one key may be.

    Attributes:
        name: the key.
        kind: "number", "integer", "boolean" or "path" (dotted, of something importable).
        default: its value when not given.
        unit: of a number: "seconds", "times", or "" for a part of one.
        lowest, highest: of a number, both included.
        optional: whether ``None`` is a value.
        doc: one sentence.
    """

    name: str
    kind: str
    default: object
    doc: str
    unit: str = ""
    lowest: float = -math.inf
    highest: float = math.inf
    optional: bool = False

    @property
    def allowed(self) -> str:
        """What is allowed, in words: "a number from 0.01 to 3600 seconds, or None"."""
        words = {"boolean": "True or False", "path": 'a dotted path such as "project.db.login"'}
        unit = f" {self.unit}" if self.unit else ""
        bounds = f"from {_written(self.lowest)} to {_written(self.highest)}{unit}"
        words |= {"number": f"a number {bounds}", "integer": f"a whole number {bounds}"}
        return words[self.kind] + (", or None" if self.optional else "")


def _key(kind: str, default: object, doc: str, **more: Any) -> Any:
    """Make the field of a dataclass that carries what its :class:`Declaration` needs."""
    return field(default=default, metadata={"kind": kind, "doc": doc, **more})


def _seconds(default: float | None, lowest: float, highest: float, doc: str) -> Any:
    more = {"unit": "seconds", "lowest": lowest, "highest": highest, "optional": default is None}
    return _key("number", default, doc, **more)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one alias, checked. Times are in seconds. See :func:`declarations`."""

    idle_timeout: float | None = _seconds(
        None,
        0.1,
        31_536_000.0,
        "Seconds after which the path to the server drops an idle connection; None: detect it.",
    )
    idle_margin: float = _key(
        "number",
        0.5,
        "Part of the idle timeout that a connection may use: CONN_MAX_AGE is clamped to it, and"
        " a connection idle for longer is replaced before use.",
        lowest=0.01,
        highest=1.0,
    )
    age_jitter: float = _key(
        "number",
        0.1,
        "The effective age is shortened by up to this part, at random, so that workers do not"
        " reconnect together.",
        lowest=0.0,
        highest=1.0,
    )
    peek: bool = _key(
        "boolean", True, "Look at the socket before every unit of work, without a round trip."
    )
    ping_after: float = _seconds(
        30.0,
        0.0,
        31_536_000.0,
        "Seconds idle after which the look is backed by TCP_INFO, and by a ping if that is no"
        " proof of life.",
    )
    ping_timeout: float = _seconds(2.0, 0.01, 3600.0, "Hard limit of that ping.")
    read_retries: int = _key(
        "integer", 2, "Times a read is run again.", unit="times", lowest=0, highest=100
    )
    retry_deadline: float = _seconds(
        10.0,
        0.0,
        86_400.0,
        "Seconds that one statement may spend on reconnecting and retrying, all together.",
    )
    backoff: float = _seconds(
        0.05,
        0.001,
        3600.0,
        "First wait between attempts to connect; it doubles up to max_backoff. Up to half of each"
        " is left out, at random.",
    )
    max_backoff: float = _seconds(
        0.5, 0.001, 3600.0, "Longest wait between attempts to connect; not below backoff."
    )
    commit_outcome: bool = _key(
        "boolean",
        False,
        "Learn the id of every writing transaction before its COMMIT (one round trip), so that the"
        " server can be asked what became of a COMMIT that was lost.",
    )
    primary: bool | None = _key(
        "boolean",
        None,
        "True: this alias must be a primary; False: it need not be; None: it must if"
        " target_session_attrs says so.",
        optional=True,
    )
    replay_session: bool = _key("boolean", True, "Replay SETs that were made on the lost session.")
    credentials: str | None = _key(
        "path",
        None,
        "Dotted path of a callable (alias) -> {'user': ..., 'password': ...}, asked before every"
        " physical attempt to connect (IAM tokens, Vault).",
        optional=True,
    )


_DECLARED: Final = {
    key.name: Declaration(name=key.name, default=key.default, **key.metadata)
    for key in fields(Options)
}


def declarations() -> tuple[Declaration, ...]:
    """Return what is declared of every key, in the order of the reference page."""
    return tuple(_DECLARED.values())


def parse(alias: str, raw: Mapping[str, object] | None) -> Options:
    """Check ``OPTIONS["resilience"]`` of the database ``alias``.

    Args:
        alias: for the messages.
        raw: as found in the settings; ``None`` stands for nothing given.

    Raises:
        ImproperlyConfigured: naming the alias, the key, the value, what is allowed and the
            nearest valid key or value.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        raise ImproperlyConfigured(
            f'OPTIONS["resilience"] of the database "{alias}" is a {type(raw).__name__}: make it'
            ' a dict such as {"read_retries": 2}.'
        )
    known = {_known(alias, key): value for key, value in raw.items()}
    values: dict[str, Any] = {k: _value(alias, _DECLARED[k], v) for k, v in known.items()}
    options = Options(**values)
    if options.max_backoff < options.backoff:
        raise ImproperlyConfigured(
            f'The resilience options of the database "{alias}" contradict each other: max_backoff'
            f" is {options.max_backoff:g} s, backoff is {options.backoff:g} s. Set max_backoff to"
            f" {options.backoff:g} or more."
        )
    return options


def of_entry(alias: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return OPTIONS of an entry of DATABASES, whose types Django does not check.

    Raises:
        ImproperlyConfigured: OPTIONS or CONN_MAX_AGE are of a wrong type; else the first
            connection (or the first request after it) would raise something cryptic.
    """
    options, age = entry.get("OPTIONS", {}), entry.get("CONN_MAX_AGE", 0)
    if not isinstance(options, Mapping):
        what = "None" if options is None else f"a {type(options).__name__}"
        raise ImproperlyConfigured(
            f'OPTIONS of the database "{alias}" is {what}: take it out, or make it a dict such as'
            ' {"connect_timeout": 5}.'
        )
    if age is not None and not isinstance(age, (int, float)):
        raise ImproperlyConfigured(_wrong_age(alias, age))
    return options


def _wrong_age(alias: str, age: object) -> str:
    what = f'"{age}", a text' if isinstance(age, str) else f"a {type(age).__name__}"
    text = str(age).strip()
    number = f"the number {text}, without quotes" if text.isdecimal() else "a number of seconds"
    return f'CONN_MAX_AGE of the database "{alias}" is {what}: set {number}.'


def _known(alias: str, key: object) -> str:
    """Return a key that is declared, or raise with the nearest one."""
    if isinstance(key, str) and key in _DECLARED:
        return key
    from difflib import get_close_matches  # only when something is wrong: an import takes time

    # What was pasted into the place of a key may be a whole URL.
    shown = "that is not shown" if isinstance(key, str) and set(key) & set("@:=/") else _shown(key)
    near = get_close_matches(str(key).lower(), _DECLARED, n=1)
    advice = f'did you mean "{near[0]}"?' if near else f"use one of {', '.join(_DECLARED)}."
    raise ImproperlyConfigured(
        f'The database "{alias}" has an unknown resilience option {shown}: {advice}'
    )


def _value(alias: str, declared: Declaration, given: object) -> object:
    """Return the value of a key, or raise."""
    text = given.strip() if isinstance(given, str) else None
    if declared.optional and (given is None or (text is not None and text.lower() in _NONE)):
        return None
    value: bool | str | None
    if declared.kind == "boolean":
        value = _boolean(given if text is None else text)
    elif declared.kind == "path":
        value = text if text is not None and _DOTTED_PATH.fullmatch(text) else None
    else:
        return _number(alias, declared, given if text is None else text)
    if value is None:
        raise _wrong(alias, declared, given)
    return value


def _boolean(given: object) -> bool | None:
    """Return a truth value, or None if it is none. A URL's "1" may have become an int."""
    word = str(given).lower() if isinstance(given, (bool, int, str)) else ""
    return True if word in _TRUE else False if word in _FALSE else None


def _number(alias: str, declared: Declaration, given: object) -> float | int:
    """Return a number within the bounds, or raise with the nearest one."""
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise _wrong(alias, declared, given)
    try:
        value = float(given)
    except OverflowError:  # an int too big for a float
        value = math.inf if int(given) > 0 else -math.inf
    except ValueError:
        raise _wrong(alias, declared, given) from None
    whole = declared.kind == "integer"
    if not math.isfinite(value) or (whole and not value.is_integer()):
        raise _wrong(alias, declared, given)
    nearest = min(max(value, declared.lowest), declared.highest)
    if value != nearest:
        raise _wrong(alias, declared, given, f" The nearest valid value is {_written(nearest)}.")
    return int(value) if whole else value


def _wrong(
    alias: str, declared: Declaration, given: object, advice: str = ""
) -> ImproperlyConfigured:
    # Where a callable's path is expected somebody may have put the credentials themselves.
    secret = f"a {type(given).__name__} that is not shown"
    shown = secret if declared.kind == "path" else _shown(given)
    return ImproperlyConfigured(
        f'The resilience option "{declared.name}" of the database "{alias}" is {shown}, but must'
        f" be {declared.allowed}.{advice}"
    )


def _written(number: float) -> str:
    """A number without an exponent, as the reference page has it."""
    return f"{number:.15g}"


def _shown(given: object) -> str:
    """Show a value in a message, cut to a length that can be read."""
    try:
        shown = repr(given)
    except ValueError:  # an int of more digits than Python likes to print
        return f"a very long {type(given).__name__}"
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."
