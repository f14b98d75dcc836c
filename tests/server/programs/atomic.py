"""A model of ``atomic()``: how blocks are entered and left."""

from __future__ import annotations

from dataclasses import dataclass

from .postgres import Refused
from .wrapper import Wrapper


@dataclass(slots=True)
class Django(Wrapper):
    """Django's connection with its blocks."""

    @property
    def stuck(self) -> bool:
        """Autocommit being off, a block that failed to begin, or was closed in, is never left.

        That is Django's own way: nothing can be done with such a connection any more.
        """
        return self.in_atomic_block and not self.commit_on_exit and not self.savepoint_ids

    def enter(self, kind: str) -> None:
        self.ensure_connection()
        if kind in {"durable", "retry"} and self.in_atomic_block:
            raise Refused("RuntimeError")
        if kind == "retry" and not self.autocommit:
            raise Refused("RuntimeError")
        if not self.in_atomic_block:
            self.commit_on_exit, self.needs_rollback = True, False
            if not self.autocommit:
                self.in_atomic_block, self.commit_on_exit = True, False
        if self.in_atomic_block:
            named = kind != "no savepoint" and not self.needs_rollback
            self.savepoint_ids.append(self.savepoint() if named else None)
        else:
            self.driver.set_autocommit(False)
            self.autocommit, self.clean = False, True
            self.in_atomic_block = True

    def exit(self, *, failed: bool) -> None:
        """Leave the innermost block; ``failed``: by an exception."""
        name: str | None = None
        outermost = not self.savepoint_ids
        if outermost:
            self.in_atomic_block = False
        else:
            name = self.savepoint_ids.pop()
        try:
            if self.closed_in_transaction:
                pass
            elif outermost:
                self._exit_outermost(failed=failed)
            else:
                self._exit_inner(name, failed=failed)
        finally:
            self._after_exit()

    def _exit_outermost(self, *, failed: bool) -> None:
        if failed or self.needs_rollback:
            self.needs_rollback = False
            self.rollback()
            return
        try:
            self.commit()
        except Refused:
            self.rollback()
            raise

    def _exit_inner(self, name: str | None, *, failed: bool) -> None:
        if not (failed or self.needs_rollback):
            if name is not None:
                self._release(name)
            return
        self.needs_rollback = name is None
        if name is not None:
            try:
                self.savepoint_rollback(name)
                self.savepoint_commit(name)
            except Refused:
                self.needs_rollback = True

    def _release(self, name: str) -> None:
        try:
            self.savepoint_commit(name)
        except Refused:
            try:
                self.savepoint_rollback(name)
                self.savepoint_commit(name)
            except Refused:
                self.needs_rollback = True
            raise

    def _after_exit(self) -> None:
        if not self.in_atomic_block:
            if self.closed_in_transaction:
                self.connected = self.closed_in_transaction = False
                self.start_clean()
            else:
                self.set_autocommit(True)
        elif not (self.savepoint_ids or self.commit_on_exit or self.closed_in_transaction):
            self.in_atomic_block = False
