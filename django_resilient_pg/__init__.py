"""A Django database engine for PostgreSQL that outlives its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.utils.connection import ConnectionProxy

    from .state.shared import Resilience

__all__ = ["__version__", "resilience_of"]

__version__ = "1.0.0"


def resilience_of(connection: BaseDatabaseWrapper | ConnectionProxy[Any] | str) -> Resilience:
    """What the engine knows about a connection: options, facts, limits and stats. Read-only.

    The same as ``connection.resilience``, for type checkers: Django's types do not know that.

    Args:
        connection: ``django.db.connection``, one of ``django.db.connections``, or an alias.

    Raises:
        TypeError: the connection has another engine.
    """
    from django.db import connections

    from .state.shared import Resilience

    if isinstance(connection, str):
        connection = connections[connection]
    found = getattr(connection, "resilience", None)
    if not isinstance(found, Resilience):
        alias = getattr(connection, "alias", connection)
        engine = getattr(connection, "settings_dict", {}).get("ENGINE", "")
        raise TypeError(
            f'The connection "{alias}" has the engine "{engine}", which knows no resilience: its'
            ' ENGINE must be "django_resilient_pg".'
        )
    return found
