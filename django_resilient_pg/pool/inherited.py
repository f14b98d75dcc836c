"""A pool in a forked child: nothing of the parent's is used there, or closed."""

from __future__ import annotations

import weakref
from typing import Any

from psycopg_pool import ConnectionPool

from ..driver.process import in_child


class Inheritable(ConnectionPool[Any]):
    """A pool that a forked child leaves to its parent.

    Args:
        pools: Django's, by alias; a pool that is over is taken out of them.
        alias: of this one.
        given: to psycopg_pool.

    Attributes:
        inherited: whether it is the parent's, in a forked child: its locks may be held by threads
            that are not here, and its workers are not here either.
    """

    def __init__(self, pools: dict[str, Any], alias: str, **given: Any) -> None:
        self.inherited = False
        self._pools, self._alias = pools, alias
        _MADE.add(self)
        super().__init__(**given)

    def leave(self) -> None:
        """In the child: a new pool is made when it is needed. ``fork`` lets the sockets go."""
        self.inherited = True
        self._withdraw()

    def close(self, timeout: float = 5.0) -> None:
        """As psycopg_pool's, but not of a parent's pool. Who needs another one makes it."""
        if not self.inherited:
            self._withdraw()  # first: it cannot be opened again
            super().close(timeout)

    def _withdraw(self) -> None:
        if self._pools.get(self._alias) is self:
            del self._pools[self._alias]

    def __del__(self) -> None:
        if not self.inherited:
            super().__del__()


_MADE: weakref.WeakSet[Inheritable] = weakref.WeakSet()


@in_child
def _leave_all() -> None:
    for pool in list(_MADE):
        pool.leave()
