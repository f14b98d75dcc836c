"""What an alias is to reach, primary or standby, as its settings say. Pure."""

from __future__ import annotations

import enum
from typing import Final

from django.core.exceptions import ImproperlyConfigured

_PRIMARY: Final = frozenset({"primary", "read-write"})
_REPLICA: Final = frozenset({"standby", "read-only", "prefer-standby"})


class Wanted(enum.Enum):
    """What an alias is to reach."""

    PRIMARY = "primary"
    REPLICA = "replica"
    ANY = "any"


def wanted(alias: str, primary: bool | None, attributes: str) -> Wanted:
    """What the option ``primary`` and libpq's ``target_session_attrs`` say together.

    Raises:
        ImproperlyConfigured: they contradict each other.
    """
    if primary and attributes in _REPLICA:
        raise ImproperlyConfigured(
            f'The resilience option "primary" of the database "{alias}" is True, but its'
            f' target_session_attrs is "{attributes}". Remove one of them.'
        )
    if primary or (primary is None and attributes in _PRIMARY):
        return Wanted.PRIMARY
    return Wanted.REPLICA if attributes in _REPLICA else Wanted.ANY
