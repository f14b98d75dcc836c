"""A read is retried inside BEGIN READ ONLY, so that the server refuses whatever writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.utils import Error

from ..driver.exceptions import first_line, judge_error, sqlstate_of
from ..policy.verdicts import Phase
from ..sql.texts import text_of
from ..state.call import Call
from ..state.wrapper import Wrapper
from .announce_loss import announce_loss
from .catalogue import why_may_write

# SQLSTATE of a write refused inside READ ONLY (PostgreSQL manual, appendix A).
_READ_ONLY = "25006"


class NotAgain(Exception):
    """The statement must not be retried after all; the argument says why."""


class Cancelled(NotAgain):
    """No layer around it may retry it either: somebody has stopped it."""


class GuardedRead:
    """One statement that only reads, as far as its text says, on the connection at hand."""

    def __init__(self, db: Wrapper, call: Call) -> None:
        self._db, self._call = db, call
        link = db._link
        assert link is not None
        self._link = link

    def begin(self) -> None:
        """Begin the transaction that guards the read.

        Raises:
            NotAgain: the statement may write, or a pooler refuses transactions.
            Error: the connection was lost.
        """
        if self._call.asks_if_read_only():
            raise NotAgain("it asks whether its transaction is read-only, which a retry's is")
        if why := self.why_may_write():
            raise NotAgain(why)
        try:
            self._ask("BEGIN READ ONLY")
        except Error as error:
            verdict = judge_error(self._link, error, Phase.STATEMENT)
            if verdict.final:
                raise NotAgain(
                    f"it cannot be guarded by BEGIN READ ONLY: {verdict.reason.text}"
                ) from error
            raise

    def run(self, send: Callable[[], Any]) -> Any:
        """Send the statement, which returns its result, and end the transaction."""
        try:
            result = send()
        except Error as error:
            if not self._link.lost():
                self._ask("ROLLBACK")
                if sqlstate_of(error) == _READ_ONLY:
                    raise NotAgain("it writes (the server refused it as a read)") from error
            raise
        except BaseException:
            self._link.close()  # it is left in BEGIN READ ONLY
            raise
        self._end()
        return result

    def why_may_write(self) -> str:
        """Why the statement may do more than read, or ""."""
        try:
            with self._db.wrap_database_errors:
                text = text_of(self._call.sql, self._link.connection)
                return why_may_write(self._link, [text], alias=self._db.alias)
        except Error as error:
            if self._link.lost():
                raise
            line = first_line(error, self._db.settings_dict)
            return f"the server does not tell which functions it calls ({line})"

    def _end(self) -> None:
        """COMMIT a read whose rows are here.

        Raises:
            Error: the connection was lost and, with this driver or cursor, the rows with it.
        """
        db, link = self._db, self._link
        try:
            self._ask("COMMIT")
        except Error as error:
            link.close()
            if not link.keeps_rows or getattr(self._call.wrapper, "name", None):
                raise  # a server-side cursor has none yet, and is gone: opened again
            announce_loss(db, judge_error(link, error, Phase.STATEMENT), error, "statement")
            db._discard()

    def _ask(self, sql: str) -> None:
        with self._db.wrap_database_errors:
            self._link.ask(sql)
