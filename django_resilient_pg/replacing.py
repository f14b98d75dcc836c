"""Putting a new connection in the place of a lost one, and giving up where that is not allowed.

Only through the outermost ``close()``, ``ensure_connection()`` and ``cursor()``: other engines
and ``connection_created`` receivers hang their own session state there.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from django.db.utils import Error

from . import notes, signals
from .ageing import jittered
from .drivers import IDLE, UNKNOWN, Link
from .facts import Path
from .liveness import Vital, inspect
from .providers import CONNECT_TIMEOUT
from .recovery import Loss, judge_error
from .resilience import Resilience, gather_facts, logger
from .retry import Budget, backoff, connect_again
from .session import Session
from .verdicts import Failure, Phase, Reason, Verdict, judge

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper as Base
else:
    Base = object

# An idle connection found dead sooner than this teaches nothing: restarts look the same.
_LEARN_FROM = 1.0


@dataclass(frozen=True, slots=True)
class Lost:
    """A loss that may not be papered over: ``pinned_by`` is "" when it was a transaction."""

    reason: Reason
    pinned_by: str


class _Atomic:
    """Django's transaction state, which ``connect()`` would reset."""

    _NAMES = tuple(
        "in_atomic_block savepoint_ids atomic_blocks needs_rollback commit_on_exit run_on_commit"
        " savepoint_state rollback_exc run_commit_hooks_on_set_autocommit_on".split()
    )

    def __init__(self, db: Any) -> None:
        self._values = {name: getattr(db, name) for name in self._NAMES if hasattr(db, name)}

    def restore(self, db: Any) -> None:
        for name, value in self._values.items():
            setattr(db, name, value)


class ReplacingMixin(Base):
    """The part of the mixin that acts when something is wrong."""

    resilience: Resilience
    _link: Link | None
    _bound_to: Any
    _session: Session
    _status: Callable[[], int]
    _heard_at: float
    _seen_at: float
    _quiet: float
    _untouched: bool
    _savepoints: list[str]
    _connecting = False
    _lost: Lost | None = None
    _budget: Budget | None = None
    _wake: float = 0.0

    lost_error: Callable[[], Error | None]
    _bind: Callable[[], None]

    # -- looking closer ---------------------------------------------------------------------

    def _look_closer(self, status: int, now: float) -> None:
        """Something arrived, or the connection was idle for long, or it is in no state to use."""
        if (error := self.lost_error()) is not None:
            self.errors_occurred = True
            raise error
        link = self._link
        if link is None or self.closed_in_transaction or status not in {IDLE, UNKNOWN}:
            return
        if status == IDLE and (self._thread_sharing_count or link.busy()):
            return
        vital = self._inspect(now)
        if vital is Vital.ALIVE:
            self._seen_at = now
            return
        idle = now - self._heard_at
        reason = self._reason_of(link) if vital is Vital.LOST else None
        begun = not self.autocommit and status != IDLE and not self._untouched
        if self._session.pinned_by or begun:
            pinned_by = "" if begun else self._session.pinned_by
            self._lost = Lost(reason or Reason.UNKNOWN, pinned_by)
            link.close()
            self._look_closer(status, now)
        self._replace(reason, idle)

    def _inspect(self, now: float) -> Vital:
        """Look into the connection; a loss is counted, announced and learned from."""
        link = self._link
        assert link is not None
        idle = now - self._heard_at
        resilience = self.resilience
        options, facts = resilience.options, resilience.facts
        # State that would be lost with the session outweighs an idle limit.
        limit = math.inf if self._session.pinned_by else resilience.limits.idle.seconds
        vital = inspect(
            link,
            idle=idle,
            idle_limit=limit,
            ping_after=options.ping_after,
            ping_timeout=options.ping_timeout,
            path=Path.UNKNOWN if facts is None else facts.path,
        )
        if vital is Vital.LOST:
            self._note_idle_loss(link, idle)
        elif vital is Vital.ALIVE and idle > options.ping_after:
            self._heard_at = now
        return vital

    def _reason_of(self, link: Link) -> Reason:
        word = link.last_word
        if word is None:
            return Reason.UNKNOWN
        failure = Failure(
            phase=Phase.IDLE,
            connection_lost=True,
            exception="",
            sqlstate=word.sqlstate,
            severity=word.severity,
            text=word.text,
        )
        return judge(failure).reason

    def _note_idle_loss(self, link: Link, idle: float) -> None:
        word = link.last_word
        if word is None and idle >= _LEARN_FROM and self._status() in {IDLE, UNKNOWN}:
            self.resilience.shared.learned.note(idle)
        text = word.text if word is not None else "the socket was closed without a word"
        sqlstate = word.sqlstate if word is not None else None
        self._announce_loss(self._reason_of(link), sqlstate, text, idle, "before sending")

    def _note_loss(self, verdict: Verdict, error: BaseException, noticed: str) -> Loss:
        """Count, log and announce a loss that an error told of."""
        link = self._link
        reason = verdict.reason
        if reason is Reason.UNKNOWN and link is not None:
            reason = self._reason_of(link)
        idle = monotonic() - self._heard_at
        cause = error.__cause__
        sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
        self._announce_loss(reason, sqlstate, str(error).partition("\n")[0], idle, noticed)
        return Loss(reason, idle)

    def _announce_loss(
        self, reason: Reason, sqlstate: str | None, text: str, idle: float, noticed: str
    ) -> None:
        self.resilience.shared.count("lost", reason.name)
        logger.warning("%s", notes.happened(self.alias, reason, idle, self.resilience.limits))
        record = signals.ConnectionLost(self.alias, reason, sqlstate, text, idle, noticed)
        signals.connection_lost.send_robust(sender=type(self), connection=self, record=record)

    # -- replacing --------------------------------------------------------------------------

    def _replace(self, reason: Reason | None, idle: float) -> None:
        """Close, connect and restore Django's transaction state; BEGIN comes by itself.

        Raises:
            Error: no new connection could be made. Inside a transaction the old, closed one
                stays in place, so that nothing can run outside of it.
        """
        began = monotonic()
        atomic, autocommit = _Atomic(self), self.autocommit
        old, old_link = self.connection, self._link
        characteristics = _characteristics(old_link)
        self.in_atomic_block = False
        try:
            self._drop()
            self.ensure_connection()
        except BaseException:
            if not autocommit:
                self.connection = self._bound_to = old
                self._link = old_link
                self._lost = Lost(reason or Reason.UNKNOWN, "")
            raise
        finally:
            atomic.restore(self)
        assert self._link is not None
        self._link.adopt(characteristics)
        if not autocommit:
            self._set_autocommit(False)
            self.autocommit = False
        self._announce_replaced(reason, idle, monotonic() - began)

    def _announce_replaced(self, reason: Reason | None, idle: float, took: float) -> None:
        self.resilience.shared.count("replaced")
        level = logging.DEBUG if reason is None else logging.WARNING
        logger.log(
            level,
            'The connection "%s" was replaced in %s%s.',
            self.alias,
            notes.seconds(took),
            "" if reason is not None else f" before use, after {notes.seconds(idle)} idle",
        )
        record = signals.ConnectionReplaced(self.alias, reason, idle, took)
        signals.connection_replaced.send_robust(sender=type(self), connection=self, record=record)

    def _drop(self) -> None:
        """Close the connection the outermost way, whatever it says."""
        if self._link is not None and self._link.lost():
            self._link.close()
        with contextlib.suppress(Error):
            self.close()
        self.connection = self._link = self._bound_to = None

    def _restore_savepoints(self, savepoints: list[str]) -> None:
        if not savepoints:
            return
        assert self._link is not None
        with self.wrap_database_errors:
            for sid in savepoints:
                self._link.ask(self.ops.savepoint_create_sql(sid))
        self._savepoints = savepoints

    def _abandon(self, reason: Reason, *, raw_transaction: bool) -> None:
        """Give a lost connection up: for good, or until what depended on it has been left."""
        pinned_by = self._session.pinned_by or ("BEGIN" if raw_transaction else "")
        if self.autocommit and not pinned_by:
            self._drop()
            return
        self._lost = Lost(reason, pinned_by if self.autocommit else "")
        self._seen_at = -math.inf  # the next statement looks, and is told
        self.errors_occurred = True
        if self._link is not None:
            self._link.close()

    def _abandon_interrupted(self) -> None:
        logger.warning(
            'A statement on "%s" was interrupted half-way; its connection is given up.', self.alias
        )
        if self._link is not None:
            self._link.close()
        self._abandon(Reason.UNKNOWN, raw_transaction=False)

    def _end_quietly(self, link: Link) -> None:
        """COMMIT a read whose rows are here; if that fails the next look will see why."""
        try:
            link.ask("COMMIT")
        except link.connection.Error:
            link.close()

    def _leave_lost_transaction(self) -> None:
        """Turn autocommit on without the connection, which the next statement makes anew."""
        self.validate_no_atomic_block()
        hooks, due = self.run_on_commit, self.run_commit_hooks_on_set_autocommit_on
        self._drop()
        self.autocommit = True
        if due:
            self.run_on_commit = hooks
            self.run_commit_hooks_on_set_autocommit_on = False
            self.run_and_clear_commit_hooks()

    # -- connecting -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _spending(self, already: float = 0.0) -> Iterator[Budget]:
        """One budget for all that is waited for until the outermost user is done.

        ``already`` seconds were spent before; a budget under way has counted them itself.
        """
        if self._budget is not None:
            yield self._budget
            return
        self._budget = Budget(self._deadline() - already)
        try:
            yield self._budget
        finally:
            self._budget = None

    def _deadline(self) -> float:
        """Seconds for reconnecting: no less than a sleeping server needs to wake."""
        deadline = self.resilience.options.retry_deadline
        return max(deadline, self._wake + CONNECT_TIMEOUT) if self._wake else deadline

    def _bounded(self, params: dict[str, Any]) -> dict[str, Any]:
        """No single attempt may outlast the budget (libpq takes whole seconds)."""
        if self._budget is not None and "connect_timeout" in params:
            left = max(1, math.ceil(self._budget.remaining()))
            configured = int(params["connect_timeout"])
            params["connect_timeout"] = min(configured, left) if configured > 0 else left
        return params

    def _connect_again(self, error: Error, began: float, connect: Callable[[], None]) -> None:
        """Try again after a first failure, if it may pass."""
        options = self.resilience.options

        def passing(failed: BaseException) -> bool:
            return isinstance(failed, Error) and judge_error(None, failed, Phase.CONNECT).transient

        def announce(attempt: int, wait: float, failed: BaseException) -> None:
            line = str(failed).partition("\n")[0]
            self.resilience.shared.count("connect")
            record = signals.ConnectRetried(self.alias, attempt, wait, line)
            signals.connect_retried.send_robust(sender=type(self), connection=self, record=record)

        if not passing(error):
            raise error
        with self._spending(monotonic() - began) as budget:
            try:
                connect_again(
                    connect,
                    error,
                    passing=passing,
                    wait=lambda attempt: backoff(
                        attempt,
                        base=options.backoff,
                        most=options.max_backoff,
                        random=random.random,
                    ),
                    budget=budget,
                    announce=announce,
                )
            except Error as last:
                waited = monotonic() - began
                if passing(last):
                    last.add_note(notes.unreachable(self.alias, waited, self._deadline()))
                raise

    def _settle(self) -> None:
        """After connecting: learn the facts once, then set how long this connection may live."""
        gather_facts(self)  # type: ignore[arg-type]
        resilience = self.resilience
        limits, options = resilience.limits, resilience.options
        self._quiet = min(limits.idle.seconds, options.ping_after)
        if limits.age is None or (self.close_at is None and math.isinf(limits.age)):
            return
        age = jittered(limits.age, options.age_jitter, random.random)
        self.close_at = monotonic() + age
        configured = self.settings_dict["CONN_MAX_AGE"]
        shared = resilience.shared
        if not shared.age_logged and (configured is None or configured > limits.age):
            shared.age_logged = True
            logger.info(
                'CONN_MAX_AGE of "%s" is %s; connections are kept for %s at most: %s.',
                self.alias,
                "unlimited" if configured is None else notes.seconds(configured),
                notes.seconds(limits.age),
                limits.age_source,
            )


def _characteristics(link: Link | None) -> dict[str, object]:
    if link is None:
        return {}
    try:
        return link.characteristics()
    except link.connection.Error:
        # psycopg2 does not say for a closed connection.
        return {}
