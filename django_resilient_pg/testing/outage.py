"""An outage of one alias: what a test asks for, and how it comes about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .errors import FaultNotReached
from .faults import By, Fault
from .hooks import Hooks
from .relay import Relay
from .route import Route, check, close
from .terminate import Terminator, check_direct


class Outage:
    """Loses the connections of one alias, in blocks of ``with``.

    A block begins with a new connection, which goes through a relay on this machine, and closes it
    in the end. The settings of the alias are changed for the block, for all threads. What Django or
    the driver sends is not touched.

    Args:
        using: the database alias.
    """

    def __init__(self, using: str = DEFAULT_DB_ALIAS) -> None:
        self.using = using
        self._broken: _Broken | None = None

    def before(
        self, statement: str | None = None, *, nth: int = 1, by: By = "path"
    ) -> AbstractContextManager[None]:
        """Lose the connection before a statement is sent.

        Args:
            statement: a part of its text, in any case; "BEGIN" and "COMMIT" mean what Django sends
                for ``atomic()``. ``None``: the first statement.
            nth: which of the statements that match.
            by: "path": the connection is reset. "server": the session is terminated.
        """
        return self._lost(Fault("before", statement, nth, by))

    def during(
        self, statement: str | None = None, *, nth: int = 1, by: By = "path"
    ) -> AbstractContextManager[None]:
        """Lose the connection with a statement under way, which has no effect.

        Arguments: see :meth:`before`.
        """
        return self._lost(Fault("during", statement, nth, by))

    def after(self, statement: str | None = None, *, nth: int = 1) -> AbstractContextManager[None]:
        """Lose the answer to a statement that the server has run.

        Arguments: see :meth:`before`.
        """
        return self._lost(Fault("after", statement, nth, "path"))

    @contextmanager
    def away(self, seconds: float | None = None) -> Iterator[None]:
        """End all connections and refuse new ones.

        Args:
            seconds: for how long; ``None``: until the block is left.
        """
        with self._broken_alias() as broken:
            broken.relay.refuse(seconds)
            yield

    @contextmanager
    def dropped(self, seconds: float) -> Iterator[None]:
        """Let nothing through for so long, then reset what there is, as a NAT gateway does.

        Args:
            seconds: for how long; an application that waits for an answer hangs until then.
        """
        with self._broken_alias() as broken:
            broken.relay.fall_silent(seconds)
            yield

    @contextmanager
    def _lost(self, fault: Fault) -> Iterator[None]:
        with self._broken_alias() as broken:
            if fault.by == "server":
                check_direct(broken.connection)
            broken.hooks.faults.append(fault)
            try:
                yield
            except BaseException as error:
                if not fault.reached:
                    error.add_note(f"In this outage of {self.using!r} {fault}.")
                raise
            finally:
                broken.hooks.faults.remove(fault)
            broken.raise_error()
            if not fault.reached:
                raise FaultNotReached(f"In this outage of {self.using!r} {fault}.")

    @contextmanager
    def _broken_alias(self) -> Iterator[_Broken]:
        """Blocks within one another share a relay."""
        if self._broken is not None:
            yield self._broken
            return
        self._broken = _Broken(connections[self.using])
        try:
            self._broken.begin()
            yield self._broken
        finally:
            broken, self._broken = self._broken, None
            broken.end()


class _Broken:
    """An alias whose connections go through a relay."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        check(connection)
        self.connection = connection
        self._route = Route(connection)
        self._terminator = Terminator(connection, self._route.before)
        self.relay = Relay(self._route.connect)
        self.hooks = Hooks(self.relay, connection.settings_dict, self._terminator)

    def begin(self) -> None:
        """Make a connection that goes through it."""
        close(self.connection)
        self._route.lead_through(self.relay.port)
        self.hooks.connect(self.connection)
        self.connection.ensure_connection()

    def end(self) -> None:
        """Leave the alias as it was, without a connection."""
        self.hooks.disconnect()
        self._route.lead_back()
        close(self.connection)
        self.relay.retire()

    def raise_error(self) -> None:
        """Raise what has gone wrong with the outage itself."""
        error = self._terminator.error or self.hooks.error
        if error is not None:
            raise error
