"""The aliases of the project as far as Django can load their engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from .wrapper import Wrapper


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


def is_ours(wrapper: object) -> TypeGuard[Wrapper]:
    """Whether a wrapper has this engine.

    No driver is imported for that: a project on SQLite need not have one, though it has the app
    and the middleware for the place where it is served.
    """
    return isinstance(wrapper, Wrapper)


def ours() -> list[Wrapper]:
    """The wrappers with this engine, of those that can be loaded."""
    return [one for one in loaded() if is_ours(one)]
