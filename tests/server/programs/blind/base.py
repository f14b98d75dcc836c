"""The engine as Django loads it."""

from __future__ import annotations

from typing import Any, Final

from django.db.backends.postgresql import base
from django.db.backends.utils import CursorWrapper
from django.db.utils import InterfaceError, OperationalError

_STATE: Final = ("in_atomic_block", "atomic_blocks", "savepoint_ids", "commit_on_exit")


class BlindCursor(CursorWrapper):
    """Runs a statement again after any loss."""

    db: Any

    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        try:
            return super()._execute(sql, params, *ignored)  # type: ignore[misc]
        except (OperationalError, InterfaceError):
            if not self.db.connection.closed:
                raise
            self._reconnect()
            return super()._execute(sql, params, *ignored)  # type: ignore[misc]

    def _reconnect(self) -> None:
        db = self.db
        state = {name: getattr(db, name) for name in _STATE}
        autocommit, db.connection = db.autocommit, None
        db.connect()
        db.set_autocommit(autocommit)
        for name, value in state.items():
            setattr(db, name, value)
        self.cursor = db.create_cursor()


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's, but for the cursor."""

    def make_cursor(self, cursor: Any) -> CursorWrapper:
        return BlindCursor(cursor, self)
