"""ResilientDatabaseMixin: what makes a resilient one of a Django PostgreSQL engine.

Compose it with any engine built on Django's::

    class DatabaseWrapper(ResilientDatabaseMixin, SomeEngine.DatabaseWrapper):
        pass
"""

from __future__ import annotations

from .hooks.connections import ConnectionHooks


class ResilientDatabaseMixin(ConnectionHooks):
    """Keeps an application working when its connections die.

    ``hooks``, ``cursors``, ``driver.link``, ``state.session`` and ``state.wrapper`` are the healthy
    path. Everything else is imported at the first connection or the first failure, so that
    importing the engine costs little more than importing Django's.
    """
