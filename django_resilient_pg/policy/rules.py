"""What may be retried, and for how long.

:func:`decide` is the table of design section 1 for statements, as a pure function. The rest
bounds it: one deadline for all waiting (:class:`Budget`), one bucket of tokens for all
threads of the process (:mod:`.token_bucket`), one thread at a time that asks a server that is down
(:mod:`.circuit_breaker`).
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from random import random
from typing import Final

from .. import deadlines
from ..conf.records import Record
from ..sql.kinds import Kind
from .verdicts import Verdict

# Rules of ``error_table.TABLE``: a statement that they have ended took too long.
_LIMITS: Final = frozenset({"transaction_timeout", "query_timeout"})

# Of the same: an administrator's ``pg_terminate_backend``, or a server's fast shutdown.
_TERMINATED: Final = "administrator command"
_CLOSED: Final = "closed by the server"
#: Seconds after which a statement that is terminated has run away: nobody ends a short one by hand.
RAN_AWAY: Final = 5.0

Clock = Callable[[], float]


class RetryRule(enum.Enum):
    """The rows of the guarantees by which a statement is retried."""

    NOTHING_SENT = "nothing was sent"
    REFUSED = "refused by a standby"
    FIRST = "first statement of the transaction"
    READ = "read"
    SETTING = "setting of the session"


class Circumstances(Record):
    """Where a statement stood when its connection was lost.

    Attributes:
        autocommit: the statement was a transaction of its own.
        untouched: its transaction had run nothing yet but what can be replayed: savepoints and
            settings of its own.
        raw_transaction: the application had sent BEGIN itself.
        repeatable: its parameters can be gone through again.
        savepoint: it is a savepoint statement of Django's own.
        pinned_by: see :attr:`.session.Session.pinned_by`.
        many: it was sent once for each of its rows (``executemany``).
        only_sets: all that it leaves is settings that every new session is given.
    """

    autocommit: bool
    untouched: bool
    raw_transaction: bool = False
    repeatable: bool = True
    savepoint: bool = False
    pinned_by: str = ""
    many: bool = False
    only_sets: bool = False


class Decision(Record):
    """By which rule a statement may be retried (``rule``), or why it may not (``why``)."""

    rule: RetryRule | None
    why: str


def decide(verdict: Verdict, kind: Kind, at: Circumstances) -> Decision:
    """What section 1 of the design says of one lost statement."""
    if at.pinned_by:
        return _refused(
            f"it was lost with session state that cannot be restored ({at.pinned_by}); call"
            " connection.close() to continue, then repeat the work"
        )
    if not at.repeatable:
        return _refused("its parameters are an iterator, which can be read only once; pass a list")
    if at.raw_transaction or not (at.autocommit or at.untouched):
        return _refused(
            "it was not the first statement of its transaction, which the server has rolled"
            " back; retry the whole transaction"
        )
    if at.many and (at.autocommit or kind is Kind.UNREPEATABLE):
        return _decide_many(verdict, kind)
    return _decide_one(verdict, kind, at)


def _decide_many(verdict: Verdict, kind: Kind) -> Decision:
    """Rows that were sent one by one: what is said of the last one says nothing of the others."""
    if kind is Kind.READ and not verdict.read_only and not _would_end_again(verdict):
        return Decision(RetryRule.READ, "")
    return _refused(
        "the write may already have been applied for some of its rows; check before you retry it,"
        " or put it into atomic()"
    )


def _decide_one(verdict: Verdict, kind: Kind, at: Circumstances) -> Decision:
    if verdict.read_only and kind is not Kind.UNREPEATABLE:
        return Decision(RetryRule.REFUSED, "")
    if verdict.write_retry_safe and not verdict.read_only:
        return Decision(RetryRule.NOTHING_SENT, "")
    if at.savepoint:
        return Decision(RetryRule.FIRST, "")
    if kind is Kind.UNREPEATABLE:
        return _refused(
            "the statement may have committed already (several statements, CALL, DO, COPY,"
            " transaction control); check before you retry it"
        )
    if _would_end_again(verdict) and (kind is Kind.READ or not at.autocommit):
        return _refused("a retry would run into the same timeout")
    if not at.autocommit:
        return Decision(RetryRule.FIRST, "")
    if at.only_sets:
        return Decision(RetryRule.SETTING, "")
    if kind is Kind.READ:
        return Decision(RetryRule.READ, "")
    return _refused("the write may already have been applied; check before you retry it")


def _would_end_again(verdict: Verdict) -> bool:
    """Whether a timeout has terminated it."""
    return verdict.lost and verdict.rule in _LIMITS


def was_terminated(verdict: Verdict, ran: float, *, hides_words: bool) -> bool:
    """Whether an administrator has ended this statement, if the server lives on.

    Args:
        verdict: on its loss.
        ran: seconds that it had run for.
        hides_words: the driver does not pass on what the server said, only that it took leave.
    """
    told = verdict.rule == _TERMINATED or (hides_words and verdict.rule == _CLOSED)
    return told and ran >= RAN_AWAY


def _refused(why: str) -> Decision:
    return Decision(None, why)


class Budget:
    """The seconds that may be spent on reconnecting and retrying, all together.

    The deadlines of its context (:mod:`.deadlines`) may leave less; they are asked each time.

    Args:
        seconds: from now.
        clock: for tests.
        words: for people: what has set it.
        strict: without any time left nothing is tried at all.
    """

    __slots__ = ("_clock", "_ends", "_words", "seconds", "strict")

    def __init__(
        self,
        seconds: float,
        clock: Clock = time.monotonic,
        *,
        words: str = "retry_deadline",
        strict: bool = False,
    ) -> None:
        self.seconds = seconds
        self.strict = strict
        self._words = words
        self._clock = clock
        self._ends = clock() + seconds

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, min(self._ends - self._clock(), deadlines.left()))

    @property
    def bound(self) -> str:
        """What leaves the least, for people."""
        tightest = deadlines.tightest()
        own = self._ends - self._clock()
        if tightest is None or own <= tightest.ends - time.monotonic():
            return self._words
        return tightest.words


#: Parts of an outage of which one is waited: most are restarts, and over within a second.
_PARTS: Final = 10


def pace(
    failures: int,
    lasted: float,
    *,
    base: float,
    most: float,
    random: Callable[[], float] = random,
) -> float:
    """Seconds from a failed attempt to connect to the next one of the process.

    Never less than half of their bound, so that the attempts per second have one.

    Args:
        failures: attempts that have failed.
        lasted: seconds since the first of them.
        base: bound of the first wait; it doubles.
        most: longest wait.
        random: from 0 to 1.
    """
    most = min(most, max(base, lasted / _PARTS))
    return backoff(failures, base=base, most=most, least=0.5, random=random)


def backoff(
    attempt: int,
    *,
    base: float,
    most: float,
    least: float = 0.0,
    random: Callable[[], float] = random,
) -> float:
    """Seconds before run number ``attempt`` + 1: at random below a bound that doubles.

    ``least``: the part of that bound that is always waited.
    """
    return min(most, base * 2.0 ** min(attempt - 1, 32)) * (least + (1 - least) * random())
