"""Meeting a statement before it is sent, so that the relay loses exactly that one."""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from .errors import OutageError
from .faults import Fault, text_of
from .pair import PATIENCE, Plan
from .relay import Relay
from .route import port_of
from .terminate import Terminator

_IDLE: Final = 0  # PQTRANS_IDLE, of both drivers

Execute = Callable[..., Any]


class Hooks:
    """Sees the statements of all connections that an alias makes while it is connected.

    Args:
        relay: what they go through.
        settings: the alias' settings, which its connections share and no other connection has.
    """

    def __init__(self, relay: Relay, settings: dict[str, Any], terminator: Terminator) -> None:
        self.faults: list[Fault] = []
        self.error: OutageError | None = None
        self._relay, self._settings, self._terminator = relay, settings, terminator
        self._wrappers: list[BaseDatabaseWrapper] = []

    def connect(self, connection: Any) -> None:
        """Begin; ``connection`` has the driver."""
        connection_created.connect(self._created, weak=False)
        extensions = getattr(connection.Database, "extensions", None)
        if extensions is not None:
            options = self._settings["OPTIONS"]
            base = options.get("connection_factory") or extensions.connection
            options["connection_factory"] = _with_commit(base, self)

    def disconnect(self) -> None:
        """End, on all connections."""
        connection_created.disconnect(self._created)
        for wrapper in self._wrappers:
            if self._statement in wrapper.execute_wrappers:
                wrapper.execute_wrappers.remove(self._statement)
            vars(wrapper).pop("commit", None)

    def _created(self, connection: BaseDatabaseWrapper, **_: object) -> None:
        if connection.settings_dict is not self._settings:
            return
        if self._statement not in connection.execute_wrappers:
            connection.execute_wrappers.append(self._statement)
            self._wrappers.append(connection)
            # Django's own, before the engine has looked at the connection for the last time.
            vars(connection)["commit"] = partial(self._before_commit, connection, connection.commit)
        made = connection.connection
        if hasattr(made, "pgconn"):
            # Of what is prepared the first request would be no more than that.
            made.prepare_threshold = None
            made.commit = partial(self.commit, made, type(made).commit.__get__(made))

    def _statement(
        self, execute: Execute, sql: Any, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        """For ``execute_wrapper``."""
        made = context["connection"].connection
        run = partial(execute, sql, params, many, context)
        if made is None or made.closed or not self._armed():
            return run()
        begins = not made.autocommit and made.info.transaction_status == _IDLE
        text = text_of(sql, made)
        for fault in self._armed():
            if fault.is_begin and begins and fault.meets("begin"):
                return self._lose(made, fault, 1, run)
            if fault.meets(text):
                return self._lose(made, fault, 1 + begins, run, many=many)
        return run()

    def _before_commit(self, connection: BaseDatabaseWrapper, run: Callable[[], object]) -> None:
        """In the place of Django's ``commit``."""
        made = connection.connection
        for fault in self._meeting_commit(made):
            if fault.point == "before" and fault.meets("commit"):
                self._lose_before(made, fault)
        run()

    def commit(self, made: Any, run: Callable[[], object]) -> None:
        """In the place of the driver's ``commit``."""
        for fault in self._meeting_commit(made):
            if fault.point != "before" and fault.meets("commit"):
                self._lose(made, fault, 1, run)
                return
        run()

    def _meeting_commit(self, made: Any) -> list[Fault]:
        sends = made and not made.closed and made.info.transaction_status != _IDLE
        return self._armed() if sends else []

    def _armed(self) -> list[Fault]:
        return [fault for fault in self.faults if fault.armed]

    def _lose(
        self, made: Any, fault: Fault, request: int, run: Callable[[], Any], *, many: bool = False
    ) -> Any:
        """Run what the fault meets."""
        if fault.point == "before":
            self._lose_before(made, fault)
            return run()
        if many and fault.point == "after":
            self.error = OutageError(
                "after() cannot be used for executemany(): use during() instead"
            )
            return run()
        port = port_of(made)
        self._relay.plan(port, self._plan(made, fault, request))
        try:
            return run()
        finally:
            # What was not sent, for whatever reason, must not be the fault of another request.
            self._relay.plan(port, None)

    def _plan(self, made: Any, fault: Fault, request: int) -> Plan:
        end = partial(self._terminator, made.info.backend_pid) if fault.by == "server" else None
        answered = fault.point == "after"
        return Plan(request, answered=answered, lost=fault.happened, terminate=end)

    def _lose_before(self, made: Any, fault: Fault) -> None:
        """Returns when the client's kernel knows of the loss."""
        if fault.by == "server":
            self._terminator(made.info.backend_pid)
        else:
            self._relay.lose(port_of(made))
        poll = select.poll()
        poll.register(made.fileno(), select.POLLIN)
        if poll.poll(PATIENCE * 1000):
            fault.happened()


def _with_commit(base: Any, hooks: Hooks) -> Any:
    """A class of connections for psycopg2, whose own take no attributes."""

    def commit(self: Any) -> None:
        hooks.commit(self, partial(base.commit, self))

    return type("Connection", (base,), {"commit": commit})
