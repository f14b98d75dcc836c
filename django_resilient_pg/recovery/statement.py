"""What happens after a statement has failed: judge, decide, retry or raise.

Off the healthy path by construction: nothing here runs unless an error came out of the driver.
"""

from __future__ import annotations

import dataclasses
import logging
from contextlib import nullcontext, suppress
from time import monotonic
from typing import Any, NoReturn

from django.db.utils import Error

from .. import signals
from ..connecting import primary
from ..connecting.attempts import ended_unheard
from ..connecting.budgets import pause, spending
from ..connecting.replace import replace, restore_opening
from ..driver.exceptions import first_line, judge_error
from ..driver.link import IN_TRANSACTION
from ..errors import ServerDown, SessionLost
from ..policy import messages
from ..policy.rules import Budget, Circumstances, Decision, RetryRule, decide
from ..policy.token_bucket import BUCKET
from ..policy.verdicts import Phase, Reason, Verdict
from ..sql.memory import LONGEST
from ..sql.statements import Kind
from ..sql.texts import certain_text
from ..state import announce
from ..state.call import Call
from ..state.incidents import Incident
from ..state.loss import Loss
from ..state.session import escapes
from ..state.transaction import MANUAL
from ..state.unit_of_work import UNIT
from ..state.wrapper import Wrapper
from .announce_loss import announce_loss, announce_refusal
from .guarded_read import Cancelled, GuardedRead, NotAgain

# The verdict's rule for a read that a standby cancelled (see ``error_table``).
_CANCELLED = "cancelled by recovery"
_RETRIED = {
    RetryRule.NOTHING_SENT: "an unsent statement",
    RetryRule.REFUSED: "a write that a standby had refused",
    RetryRule.FIRST: "the first statement of a transaction",
    RetryRule.READ: "a read",
    RetryRule.SETTING: "a setting of the session",
}
# New sessions in a row that may end at a statement, while the server answers on them before.
_MOST_UNHEARD = 2


def _said_of(error: Error) -> str:
    return " ".join([str(error), *getattr(error, "__notes__", ())])


class Recovery:
    """One statement's way back. Made when it has failed."""

    def __init__(self, db: Wrapper, call: Call) -> None:
        self._db, self._call = db, call
        self._began = monotonic()
        self._attempts = self._paid = self._rounds = 0
        self._crashed = False
        # Whether the server has answered on the connection in the place of the lost one; how many
        # it has ended before.
        self._heard, self._unheard = True, 0
        self._incidents: list[Incident] = []
        self._link = call.wrapper._link

    def after(self, error: Error) -> Any:
        """Retry the statement as the guarantees allow; returns what it returns.

        Raises:
            Error: ``error`` itself, with a note, where it must not be retried; or whatever
                the statement raises when it is retried and the connection lives.
        """
        db = self._db
        if db._connector.connecting:
            # The attempt to connect fails as a whole and is made again as a whole. A connection
            # made or dropped in the middle of it would be taken for its own.
            raise error
        with spending(db) as budget:
            while True:
                verdict = self._judge(error)
                if not verdict.lost:
                    return self._after_cancellation(error, verdict)
                loss = announce_loss(db, verdict, error, "statement", self._call)
                if loss.incident is not None:
                    self._incidents.append(loss.incident)
                self._check_final(error, verdict, loss)
                decision = self._decide(verdict)
                if decision.rule is None:
                    self._refuse(error, loss, decision.why)
                if why := self._exhausted(decision.rule, budget):
                    self._refuse(error, loss, why)
                self._pause(budget)
                try:
                    result = self._again(decision.rule, loss, budget)
                except NotAgain as refusal:
                    final = isinstance(refusal, Cancelled)
                    loss = dataclasses.replace(loss, final=final)
                    self._refuse(error, loss, str(refusal))
                except Error as next_error:
                    next_error.__context__ = error
                    error = next_error
                    continue
                self._announce(decision.rule)
                return result

    def _check_final(self, error: Error, verdict: Verdict, loss: Loss) -> None:
        """Give up where another attempt, of whatever unit, would end in the same way."""
        if self._has_met_crash(loss):
            final = Loss(Reason.CRASH, loss.idle, final=True, incident=loss.incident)
            self._refuse(error, final, messages.crashed(self._db.alias))
        why = "another attempt would end in the same way" if verdict.final else ""
        if not self._heard:
            ended_unheard(self._db, error)
            # Since then a connection is used only once the server has answered on it.
            self._unheard += 1
            if self._unheard > _MOST_UNHEARD:
                why = messages.EACH_SESSION_ENDS
        if why:
            self._refuse(error, dataclasses.replace(loss, final=True), why)

    def _has_met_crash(self, loss: Loss) -> bool:
        """Whether the server crashed when it ran this before, and said nothing this time either."""
        if loss.session is None:
            return False
        unit = UNIT.get()
        return self._crashed or (unit is not None and self._call.text in unit.crashes)

    def _judge(self, error: Error) -> Verdict:
        """The verdict; a standby that refuses to write is as good as lost."""
        db, link = self._db, self._db._link
        verdict = judge_error(link, error, Phase.STATEMENT)
        if verdict.lost or not verdict.read_only or link is None:
            return verdict
        untouched = self._call.first or db.autocommit
        refusal = primary.why_refused(db, link, untouched=untouched)
        fenced = refusal is primary.Refusal.FENCED
        lost = refusal is primary.Refusal.STANDBY or (fenced and primary.better_is_found(db))
        if fenced and not lost:
            error.add_note(messages.read_only(db.alias))
        return dataclasses.replace(verdict, lost=lost)

    def _after_cancellation(self, error: Error, verdict: Verdict) -> Any:
        """Run a read again that a standby cancelled for its WAL; the connection is intact.

        Raises:
            Error: ``error`` itself, for everything else: it is none of our business.
        """
        db, call = self._db, self._call
        if verdict.rule != _CANCELLED or not db.autocommit or call.status == IN_TRANSACTION:
            raise error
        readable = call.statement(self._link).kind is Kind.READ
        if not readable or self._exhausted(RetryRule.READ, Budget(1.0)):
            raise error
        try:
            result = self._guarded()
        except NotAgain:
            raise error from None
        except Error as next_error:
            return self.after(next_error)
        self._announce(RetryRule.READ)
        return result

    @property
    def _in_manual(self) -> bool:
        """Whether it ran in a transaction that Django has not begun."""
        return self._db._transaction.phase is MANUAL

    def _decide(self, verdict: Verdict) -> Decision:
        db, call = self._db, self._call
        if db._thread_sharing_count:
            return Decision(None, "the connection is shared between threads")
        if self._link.in_pipeline():
            return Decision(
                None,
                "it was sent in a pipeline, whose earlier statements may be missing; leave the"
                " pipeline, check for its effect, then repeat the work",
            )
        # The application may have set the driver's own: then each statement has committed.
        own_autocommit = bool(self._link.connection.autocommit)
        if own_autocommit and not db.autocommit:
            db._transaction.split()
        replays = db.resilience.options.replay_session
        at = Circumstances(
            autocommit=db.autocommit,
            untouched=call.first and not own_autocommit,
            raw_transaction=self._in_manual or (db.autocommit and not own_autocommit),
            repeatable=call.repeatable,
            savepoint=db._transaction.controlling,
            pinned_by=db._session.pinned_by,
            many=call.many,
            only_sets=db.autocommit and replays and self._only_sets(),
        )
        return decide(verdict, call.statement(self._link).kind, at)

    def _only_sets(self) -> bool:
        call, driver = self._call, self._link.connection
        text = certain_text(call.sql, driver)
        if not 0 < len(text) <= LONGEST or ("\\" in text and escapes(driver)):
            return False
        with suppress(OSError):  # no file descriptor is left
            from ..sql.session_effects import only_sets

            return only_sets(text, call.sql, call.params)
        return False

    def _exhausted(self, rule: RetryRule, budget: Budget) -> str:
        """Why there may be no further attempt, or ""."""
        options = self._db.resilience.options
        if budget.remaining() <= 0:
            return f"{budget.bound} is used up"
        # What had no effect is free; once, because it is the server that decides what is refused.
        if rule is RetryRule.NOTHING_SENT or (rule is RetryRule.REFUSED and not self._attempts):
            return ""
        if self._attempts >= options.read_retries:
            return f"it was retried {options.read_retries} times already (read_retries)"
        if self._paid > self._attempts:
            return ""  # lost again on the way: the server has had nothing of it yet
        if not BUCKET.take():
            return "too many retries are under way in this process"
        self._paid += 1
        return ""

    def _pause(self, budget: Budget) -> None:
        """At once the first time. A pooler without a server accepts, and ends what it accepted."""
        if self._rounds:
            pause(self._db, self._rounds, budget)
        self._rounds += 1

    def _again(self, rule: RetryRule, loss: Loss, budget: Budget) -> Any:
        db, call = self._db, self._call
        opening = list(db._transaction.opening)
        try:
            with primary.looking_for_primary(db) if rule is RetryRule.REFUSED else nullcontext():
                self._replace(rule, loss)
        except (ServerDown, SessionLost) as error:
            raise NotAgain(_said_of(error).rstrip(".")) from error
        except Error as error:
            waited = monotonic() - self._began
            line = first_line(error, db.settings_dict)
            sentence = messages.unreachable(db.alias, waited, budget.bound).rstrip(".")
            raise NotAgain(f"{sentence} ({line})") from error
        if loss.session is not None:
            self._crashed = self._crashed or loss.session.crashed
            if loss.session.cancelled:
                raise Cancelled(messages.cancelled(db.alias))
            if loss.session.why:
                if self._may_wait():
                    raise NotAgain(messages.not_ended(db.alias, loss.session.why))
                db._connector.settled(
                    [one for one in db._connector.lost if one is not loss.session]
                )
        self._heard = False
        restore_opening(db, opening)
        self._heard = bool(opening)
        call.wrapper._renew()
        if rule is RetryRule.READ:
            return self._guarded()
        db._transaction.dirtied()
        return self._run()

    def _may_wait(self) -> bool:
        """Whether it may wait for locks, or answer by them; asked outside of a transaction."""
        link = self._db._link
        assert link is not None
        read = GuardedRead(self._db, self._call)
        if self._call.statement(link).kind is Kind.READ and not read.why_may_write():
            if not self._db.autocommit:
                link.connection.rollback()  # the question has begun one
            return False
        return True

    def _replace(self, rule: RetryRule, loss: Loss) -> None:
        db = self._db
        if rule is RetryRule.REFUSED and db._link is not None:
            db._link.close()  # it works, and a pool would hand it out again
            if db._pooled:
                db.pool.distrust()  # as it would its others
        replace(db, loss.reason, loss.idle)
        if rule is RetryRule.REFUSED and db._link is not None and primary.is_standby(db, db._link):
            raise NotAgain(messages.standby_again(db.alias))

    def _run(self) -> Any:
        """Send the statement. Only this counts as an attempt: losses on the way to it do not."""
        self._attempts += 1
        return self._call.run(self._call.sql, self._call.params)

    def _guarded(self) -> Any:
        read = GuardedRead(self._db, self._call)
        read.begin()
        self._heard = True
        return read.run(self._run)

    def _refuse(self, error: Error, loss: Loss, why: str) -> NoReturn:
        db = self._db
        announce_refusal(db, error, loss, why)
        if db.autocommit and (unit := UNIT.get()) is not None:
            unit.took_effect(db.alias, self._call.sql)  # it may have
        raise error

    def _announce(self, rule: RetryRule) -> None:
        db, shared = self._db, self._db.resilience.shared
        took = monotonic() - self._began
        if self._paid:
            BUCKET.refund(BUCKET.COST)  # of the last retry: those before it were in vain
        shared.count("statement", rule.value)
        shared.count("retried", "statement")
        sentence = messages.retried(_RETRIED[rule], db.alias, took)
        for incident in self._incidents:
            incident.heal(sentence, "statement")
        if not self._incidents:
            announce.log(
                db, logging.INFO, "%s", sentence, retried_as="statement", took=took
            )  # no connection was lost
        record = signals.StatementRetried(db.alias, rule.value, self._attempts, took)
        announce.send(db, signals.statement_retried, record)
