"""The aliases of the project as far as Django can load their engines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

if TYPE_CHECKING:
    from .mixins import ResilientDatabaseMixin


def load(alias: str) -> tuple[Any, Exception | None]:
    """The wrapper of an alias, or why there is none.

    Raises:
        ConnectionDoesNotExist: there is no such alias.
    """
    try:
        return connections[alias], None
    except ConnectionDoesNotExist:
        raise
    except Exception as error:  # whatever its import raises; Django raises it at its first use
        return None, error


def loaded() -> Iterator[Any]:
    """The wrappers of all aliases that can be loaded: one that cannot is no reason to miss them."""
    for alias in connections:
        wrapper, _ = load(alias)
        if wrapper is not None:
            yield wrapper


def is_ours(wrapper: object) -> TypeGuard[ResilientDatabaseMixin]:
    """Whether a wrapper has this engine.

    Without importing it: that takes a driver, which a project on SQLite need not have, though it
    has the app and the middleware for the place where it is served.
    """
    mixins = sys.modules.get(f"{__package__}.mixins")
    return mixins is not None and isinstance(wrapper, mixins.ResilientDatabaseMixin)


def ours() -> list[ResilientDatabaseMixin]:
    """The wrappers with this engine, of those that can be loaded."""
    return [one for one in loaded() if is_ours(one)]
