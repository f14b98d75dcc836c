"""Every option of ``OPTIONS["resilience"]``: declared once, parsed into a frozen object.

The reference page and the error messages are made from :func:`declarations`; a key, its default,
its unit and its bounds are written nowhere else. Strings are accepted because settings that come
from a URL or from the environment are strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import ImproperlyConfigured

from .records import Record

if TYPE_CHECKING:
    from .declarations import Declaration, Kind


def _key(kind: Kind, default: object, doc: str, **more: Any) -> Any:
    """Make the field of a dataclass that carries what its :class:`Declaration` needs."""
    return field(default=default, metadata={"kind": kind, "doc": doc, **more})


def _seconds(default: float | None, lowest: float, highest: float, doc: str) -> Any:
    more = {"unit": "seconds", "lowest": lowest, "highest": highest, "optional": default is None}
    return _key("number", default, doc, **more)


class Options(Record):
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
        "Fraction of the idle timeout after which a connection is recycled: CONN_MAX_AGE is clamped"
        " to it, and a connection idle for longer is replaced before use.",
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
        "boolean", True, "Peek at the socket before every unit of work, without a round trip."
    )
    ping_after: float = _seconds(
        30.0,
        0.0,
        31_536_000.0,
        "Seconds idle after which the check also reads TCP_INFO and, if that is inconclusive,"
        " pings.",
    )
    ping_timeout: float = _seconds(2.0, 0.01, 3600.0, "Ping timeout.")
    read_retries: int = _key(
        "integer", 2, "Times a read is retried.", unit="times", lowest=0, highest=100
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
        "First wait between attempts to connect; it doubles up to max_backoff, but not beyond a"
        " tenth of the outage. Up to half of each is left out, at random.",
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
    pool_leak_after: float | None = _seconds(
        None,
        0.001,
        86_400.0,
        "Seconds after which a connection that is still borrowed from the pool is reported, with"
        " who holds it and where it was borrowed; None: never.",
    )
    credentials: str | None = _key(
        "path",
        None,
        "Dotted path of a callable (alias) -> {'user': ..., 'password': ...}, asked before every"
        " physical attempt to connect (IAM tokens, Vault).",
        optional=True,
    )


#: What carries each key's declaration, whose place its default takes.
_CARRIERS: Final[dict[str, Any]] = {name: vars(Options)[name] for name in Options.__match_args__}
for _name, _carrier in _CARRIERS.items():
    setattr(Options, _name, _carrier.default)


@cache
def _declared() -> dict[str, Declaration]:
    """What is declared, by name; imported where something is given."""
    from .declarations import Declaration

    return {
        name: Declaration(name=name, default=carrier.default, **carrier.metadata)
        for name, carrier in _CARRIERS.items()
    }


def declarations() -> tuple[Declaration, ...]:
    """Return what is declared of every key, in the order of the reference page."""
    return tuple(_declared().values())


#: Where OPTIONS has this engine's own: a dict, and for settings that come from a URL, where nothing
#: can be nested, keys that begin so.
OWN: Final = "resilience"
PREFIX: Final = f"{OWN}__"


def is_own(key: object) -> bool:
    """Whether a key of OPTIONS is for this engine, and not for libpq."""
    return key == OWN or (isinstance(key, str) and key.startswith(PREFIX))


def given(alias: str, options: Mapping[Any, Any]) -> Any:
    """What OPTIONS gives to this engine, for :func:`parse`.

    Args:
        alias: for the messages.
        options: ``OPTIONS`` of an entry of DATABASES.

    Raises:
        ImproperlyConfigured: an option is given twice, or the prefix of one is misspelt.
    """
    nested, flat = options.get(OWN), {}
    for key in options:
        if isinstance(key, str) and "__" in key and (name := _without_prefix(alias, key)):
            flat[name] = options[key]
    if not flat:
        return nested
    if nested is not None and not isinstance(nested, Mapping):
        return nested  # which parse() refuses
    for key in flat.keys() & (nested or {}).keys():
        raise ImproperlyConfigured(
            f'OPTIONS of the database "{alias}" has the resilience option "{key}" twice: as'
            f' "{PREFIX}{key}" and in "{OWN}". Remove one of them.'
        )
    return {**(nested or {}), **flat}


def _without_prefix(alias: str, key: str) -> str:
    """Return the name of an option that has a key of its own in OPTIONS; "": it is another's."""
    from .declarations import closest

    prefix, _, name = key.partition("__")
    if prefix == OWN:
        return name
    if not closest(prefix, (OWN,)):
        return ""
    near = closest(name, _declared()) or "idle_timeout"
    raise ImproperlyConfigured(
        f'OPTIONS of the database "{alias}" has an unknown key {_named(key)}: did you mean'
        f' "{PREFIX}{near}"?'
    )


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
    values: dict[str, Any] = {k: _value(alias, _declared()[k], v) for k, v in known.items()}
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
    if isinstance(key, str) and key in _declared():
        return key
    from .declarations import suggestion

    raise ImproperlyConfigured(
        f'The database "{alias}" has an unknown resilience option'
        f" {_named(key)}: {suggestion(key, _declared())}"
    )


def _named(key: object) -> str:
    """A key for a message. What was pasted into the place of one may be a whole URL."""
    from .declarations import shown

    hidden = isinstance(key, str) and set(key) & set("@:=/")
    return "that is not shown" if hidden else shown(key)


def _value(alias: str, declared: Declaration, given: object) -> object:
    """Return the value of a key, or raise."""
    from .declarations import InvalidValue

    try:
        return declared.checked(given)
    except InvalidValue as error:
        raise ImproperlyConfigured(
            f'The resilience option "{declared.name}" of the database "{alias}" {error}'
        ) from None
