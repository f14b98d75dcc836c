"""What happens when the rows of a server-side cursor cannot be fetched any more.

Its statement has been run already, so nothing about the fetch says that it may be run again.
"""

from __future__ import annotations

import dataclasses
from typing import NoReturn

from django.db.utils import Error

from . import notes
from .connecting import spending
from .losses import judge_error
from .recovery import NotAgain, Recovery
from .retry import Row
from .verdicts import Phase, Verdict
from .watching import note_loss


class Fetching(Recovery):
    """One server-side cursor's way back. Made when a fetch has failed."""

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
        replaced = self._link is not db._link
        # Closed by the application itself: it gets what the stock engine gives.
        if not verdict.lost or self._link is None or (replaced and not self._link.dropped):
            raise error
        why = "" if held else "its transaction was lost"
        if moved:
            why = "it had been scrolled"
        if rows:
            why = notes.delivered(alias, rows)
        if replaced:
            self._elsewhere(error, why)
        elif why:
            loss = note_loss(db, verdict, error, "fetch")
            self._give_up(error, loss, why.rstrip("."))
        else:
            self.after(error)

    def _judge(self, error: Error) -> Verdict:
        """That this fetch was not sent says nothing of the statement, which was."""
        verdict = super()._judge(error)
        return verdict if self._attempts else dataclasses.replace(verdict, write_retry_safe=False)

    def _elsewhere(self, error: Error, why: str) -> None:
        """Another statement has met with the loss, and the connection is a new one already."""
        db, call = self._db, self._call
        if not why and not db.autocommit:
            why = "a transaction was begun since"
        if why:
            self._refuse(error, why)
        with spending(db) as budget:
            decision = self._decide(dataclasses.replace(self._judge(error), write_retry_safe=False))
            if why := decision.why or self._exhausted(Row.READ, budget):
                self._refuse(error, why)
            try:
                call.wrapper._renew()
                self._guarded()
            except NotAgain as refusal:
                self._refuse(error, str(refusal))
            except Error as next_error:
                next_error.__context__ = error
                self.after(next_error)
                return
        self._announce(Row.READ)

    def _refuse(self, error: Error, why: str) -> NoReturn:
        """The new connection works and is left alone."""
        error.connection_lost = True  # type: ignore[attr-defined]
        error.add_note(notes.cursor_lost(self._db.alias, why))
        self._db.resilience.shared.count("refused")
        raise error
