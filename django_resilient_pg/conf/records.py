"""Frozen dataclasses that cost little to import.

``dataclass(frozen=True)`` compiles six methods for each class, which takes about a millisecond. In
the first query of a process that adds up, so these share theirs.

For the same reason modules with named tuples do without ``from __future__ import annotations``:
``NamedTuple`` compiles every annotation that is a text.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any, ClassVar, Self, dataclass_transform


class _Fields:
    """``__dataclass_fields__`` of a record, made when somebody asks for them."""

    def __get__(self, record: object, owner: type[Record]) -> Any:
        if owner is Record:
            raise AttributeError("__dataclass_fields__")
        dataclass(init=False, repr=False, eq=False)(owner)
        return owner.__dataclass_fields__


@dataclass_transform(frozen_default=True)
class Record:
    """What is derived from it is a frozen dataclass: equal by its class and its values."""

    __dataclass_fields__: ClassVar[Any] = _Fields()
    __match_args__: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        cls.__match_args__ = tuple(cls.__annotations__)  # type: ignore[misc]

    def __init__(self, *values: object, **named: object) -> None:
        names = self.__match_args__
        given = dict(zip(names, values, strict=False)) | named
        missing = [one for one in names if one not in given and not hasattr(type(self), one)]
        # A name that is unknown or given twice makes the counts differ.
        if missing or len(values) + len(named) != len(given.keys() & set(names)):
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}")
        self.__dict__.update(given)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def _replace(self, **named: object) -> Self:
        """The same with other values, as a named tuple has it."""
        return replace(self, **named)

    def __repr__(self) -> str:
        shown = zip(self.__match_args__, self._values(), strict=True)
        return (
            f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in shown)})"
        )

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")
