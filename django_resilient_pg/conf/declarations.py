"""One checked declaration for each value that a user may set.

Options of an alias, settings of the middleware and arguments of ``retry_atomic`` are declared with
:class:`Declaration`. Each of these places knows the sentence and the exception in which a refusal
belongs; what is allowed, and what would be the nearest valid value, is decided here.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

Kind = Literal["number", "integer", "boolean", "path", "choices"]

# The type of a value of each kind; the others are texts and lists, which need more than that.
_TYPES: Final[dict[Kind, type[Any]]] = {"number": float, "integer": int, "boolean": bool}
_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_NONE: Final = frozenset({"none", "null", ""})
_DOTTED_PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
# The longest value that a message shows.
_SHOWN: Final = 60


class InvalidValue(Exception):
    """A value is not allowed. Its text goes on from a subject: "is -1, but must be ...".

    Attributes:
        wrong_kind: it is of another kind than declared, where a ``TypeError`` belongs. Otherwise
            the value is too small or too large.
    """

    def __init__(self, predicate: str, *, wrong_kind: bool) -> None:
        super().__init__(predicate)
        self.wrong_kind = wrong_kind


class Declaration(NamedTuple):
    """What one value may be.

    Attributes:
        name: of the option, setting or argument.
        kind: "path" is a dotted path to something importable, "choices" a list of some words.
        default: its value when not given.
        doc: one sentence.
        unit: of a number: "seconds", "times", or "" for a fraction.
        lowest, highest: of a number, both included.
        choices: the words of a list.
        optional: whether ``None`` is a value.
        strict: whether only Python values of the kind are taken. Otherwise a text that spells one
            is taken too: settings that come from a URL or from the environment are texts.
    """

    name: str
    kind: Kind
    default: Any
    doc: str = ""
    unit: str = ""
    lowest: float = -math.inf
    highest: float = math.inf
    choices: tuple[str, ...] = ()
    optional: bool = False
    strict: bool = False

    @property
    def allowed(self) -> str:
        """What is allowed, in words: "a number from 0.01 to 3600 seconds, or None"."""
        unit = f" {self.unit}" if self.unit else ""
        bounds = f"from {_written(self.lowest)} to {_written(self.highest)}{unit}"
        words: dict[Kind, str] = {
            "number": f"a number {bounds}",
            "integer": f"a whole number {bounds}",
            "boolean": "True or False",
            "path": 'a dotted path such as "project.db.login"',
            "choices": f"a list of some of {', '.join(self.choices)}",
        }
        return words[self.kind] + (", or None" if self.optional else "")

    def checked(self, given: Any) -> Any:
        """Return the value that was given, a text as what it spells.

        Raises:
            InvalidValue: naming what was given, what is allowed and the nearest valid value.
        """
        # First what is valid as it stands: retry_atomic.run() checks its arguments at every call.
        if type(given) is _TYPES.get(self.kind) and self.lowest <= given <= self.highest:
            return given
        text = given.strip() if isinstance(given, str) and not self.strict else None
        if self.optional and (given is None or (text is not None and text.lower() in _NONE)):
            return None
        if self.kind == "boolean":
            return self._boolean(given, text)
        if self.kind == "path":
            return self._path(given, text)
        if self.kind == "choices":
            return self._choices(given)
        return self._number(given, text)

    def _boolean(self, given: object, text: str | None) -> bool:
        # The "1" of a URL may have become an int.
        word = str(given if text is None else text).lower() if isinstance(given, (int, str)) else ""
        if self.strict or word not in _TRUE | _FALSE:
            raise self._invalid(given)
        return word in _TRUE

    def _path(self, given: object, text: str | None) -> str:
        if text is None or not _DOTTED_PATH.fullmatch(text):
            raise self._invalid(given)
        return text

    def _choices(self, given: object) -> frozenset[str]:
        # A text is iterable too: "GET" would be three words.
        if not isinstance(given, (list, tuple, set, frozenset)):
            raise self._invalid(given)
        for one in given:
            if one not in self.choices:
                unknown = f" {shown(one)} is unknown: {suggestion(one, self.choices)}"
                raise self._invalid(given, unknown)
        return frozenset(given)

    def _number(self, given: object, text: str | None) -> float | int:
        number: Any = given if text is None else text
        whole = self.kind == "integer"
        kinds = int if whole and self.strict else (int, float)
        if text is None and (isinstance(given, bool) or not isinstance(given, kinds)):
            raise self._invalid(given)
        try:
            value = float(number)
        except OverflowError:  # an int too large for a float
            value = math.inf if number > 0 else -math.inf
        except ValueError:
            raise self._invalid(given) from None
        if whole and math.isfinite(value) and not value.is_integer():
            raise self._invalid(given)
        if not self.lowest <= value <= self.highest:
            raise self._invalid(given, self._nearest(value), wrong_kind=False)
        return int(value) if whole else value

    def _nearest(self, value: float) -> str:
        if math.isnan(value):
            return ""
        bound = self.lowest if value < self.lowest else self.highest
        return f" The nearest valid value is {_written(bound)}."

    def _invalid(self, given: object, advice: str = "", *, wrong_kind: bool = True) -> InvalidValue:
        # Where the path of a callable is expected somebody may have put the credentials themselves.
        secret = self.kind == "path"
        what = f"a {type(given).__name__} that is not shown" if secret else shown(given)
        predicate = f"is {what}, but must be {self.allowed}.{advice}"
        return InvalidValue(predicate, wrong_kind=wrong_kind)


def checked_argument(function: str, declared: Declaration, given: Any) -> Any:
    """Return the value of an argument of a function of ours.

    Raises:
        TypeError, ValueError: as :class:`InvalidValue` has it, naming function and argument.
    """
    try:
        return declared.checked(given)
    except InvalidValue as error:
        kind = TypeError if error.wrong_kind else ValueError
        raise kind(f"{function}: {declared.name} {error}") from None


def closest(given: object, known: Iterable[str]) -> str:
    """Return the known name that is most like the given one, or "" if none is like it."""
    from difflib import get_close_matches  # only when something is wrong: the import takes time

    names = {name.lower(): name for name in known}
    asked = given if isinstance(given, str) else shown(given)
    near = get_close_matches(asked.lower(), names, n=1)
    return names[near[0]] if near else ""


def suggestion(given: object, known: Iterable[str]) -> str:
    """Return what to say of an unknown name: the closest known one, otherwise all of them."""
    names = tuple(known)
    near = closest(given, names)
    return f'did you mean "{near}"?' if near else f"use one of {', '.join(names)}."


def shown(given: object) -> str:
    """Show a value in a message, cut to a length that can be read."""
    try:
        text = repr(given)
    except ValueError:  # an int of more digits than Python likes to print
        return f"a very long {type(given).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _written(number: float) -> str:
    """A number without an exponent, as the reference page has it."""
    return f"{number:.15g}"
