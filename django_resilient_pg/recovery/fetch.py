"""What happens when the rows of a server-side cursor cannot be fetched any more.

Its statement has been run already, so nothing about the fetch says that it may be retried.
"""

from __future__ import annotations

import dataclasses
from typing import NoReturn

from django.db.utils import Error

from ..driver.exceptions import judge_error
from ..policy import messages
from ..policy.verdicts import Phase, Verdict
from ..state import announce
from ..state.collecting import collecting
from .announce_loss import announce_loss
from .statement import Recovery


class Fetching(Recovery):
    """One server-side cursor's way back. Made when a fetch has failed."""

    @collecting()
    def after_fetch(self, error: Error, rows: int, *, held: bool, moved: bool = False) -> None:
        """Open the cursor again if it was lost before its first row.

        Args:
            error: of the fetch.
            rows: how many were delivered.
            held: the cursor depends on no transaction (WITH HOLD).
            moved: it was scrolled.

        Raises:
            Error: ``error``, with a note saying why not.
        """
        db, alias = self._db, self._db.alias
        verdict = judge_error(self._link, error, Phase.FETCH)
        if not verdict.lost or self._link is None:
            raise error
        why = "" if held else "its transaction was lost"
        if moved:
            why = "it had been scrolled"
        if rows:
            why = messages.delivered(alias, rows)
        if self._link is not db._link:
            self._lost_before(error, why)
        if why:
            loss = announce_loss(db, verdict, error, "fetch")
            self._refuse(error, loss, why.rstrip("."))
        self.after(error)

    def _judge(self, error: Error) -> Verdict:
        """That this fetch was not sent says nothing of the statement, which was."""
        verdict = super()._judge(error)
        return verdict if self._attempts else dataclasses.replace(verdict, write_retry_safe=False)

    def _lost_before(self, error: Error, why: str) -> NoReturn:
        """Another statement has met with the loss; the new connection works and is left alone.

        Where nobody has, it was the application itself that closed the connection: it gets what
        the stock engine gives.
        """
        if self._link.announced:
            why = why or "another statement has got a new connection since"
            error.connection_lost = True  # type: ignore[attr-defined]
            error.add_note(messages.cursor_lost(self._db.alias, why))
            announce.surfaced(self._db, self._link.incident, f"Not retried: {why.rstrip('.')}.")
        raise error
