"""Transactions that are retried as a whole: :data:`retry_atomic`."""

from __future__ import annotations

import functools
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar, overload

from asgiref.sync import iscoroutinefunction
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.transaction import atomic

from . import deadlines, signals
from .conf.declarations import Declaration, checked_argument, suggestion
from .connecting.budgets import spending
from .connecting.replace import lost_error
from .driver.exceptions import first_line, sqlstate_of, tells_of
from .policy import messages
from .policy.rules import Budget, backoff
from .replay import other_engines
from .state import announce
from .state.aliases import is_ours
from .state.collecting import collecting
from .state.unit_of_work import UNDER_WAY, UNIT, Unit, around, succeed
from .state.wrapper import Wrapper

P = ParamSpec("P")
T = TypeVar("T")

# serialization_failure and deadlock_detected (PostgreSQL manual, appendix A): the server has
# undone the transaction and says itself that it may be retried.
_CONFLICTS: Final = frozenset({"40001", "40P01"})
_RETRIES: Final = 2
_DEADLINE: Final = 10.0  # seconds
_DECLARED: Final = {
    "retries": Declaration(
        "retries", "integer", _RETRIES, unit="times", lowest=0, highest=100, strict=True
    ),
    "deadline": Declaration(
        "deadline", "number", _DEADLINE, unit="seconds", lowest=0, highest=86_400, strict=True
    ),
    "conflicts": Declaration("conflicts", "boolean", True, strict=True),
}
_DEFAULTS: Final[dict[str, Any]] = {
    "using": DEFAULT_DB_ALIAS,
    **{name: one.default for name, one in _DECLARED.items()},
}


class _RetryAtomic:
    """Run a function in ``atomic()``, and retry it when its transaction has had no effect.

    Used as a decorator with or without arguments, or as ``retry_atomic.run(function)``.

    Args:
        using: database alias.
        retries: how often the function may be retried (default 2).
        deadline: seconds after the start (default 10) up to which it is retried. All waiting
            (reconnecting, asking for the outcome of a COMMIT) ends there too, on every alias that
            the function uses. Allow more than one run takes, or there is no retry.
        conflicts: also after SQLSTATE 40001 and 40P01, with backoff (default True).

    The function is retried only if the server is known to have rolled its transaction back, and
    nothing that it did on other aliases has taken effect. After a lost COMMIT the server is asked.
    ``on_commit`` hooks run once, and after an error of theirs nothing is retried. What the
    function does outside of the database is repeated.

    Raises:
        TypeError: the function is a coroutine or generator function; there is no such argument, or
            it is of another type.
        ValueError: ``retries`` is not from 0 to 100, or ``deadline`` not from 0 to 86400 seconds.
        RuntimeError: inside another atomic block, which would own the transaction (not under
            Django's ``TestCase``), or while autocommit is off.
        CommitOutcomeUnknown: COMMIT was lost and nobody can say what became of it.
        Error: the last attempt's own error, with a note that says why there was no further retry.
    """

    @overload
    def __call__(self, function: Callable[P, T], /) -> Callable[P, T]: ...
    @overload
    def __call__(self, /, **options: Any) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
    def __call__(self, function: Callable[P, T] | None = None, /, **options: Any) -> Any:
        for name in options:
            if name != "using" and name not in _DECLARED:
                advice = suggestion(name, ("using", *_DECLARED))
                raise TypeError(f'retry_atomic has no argument "{name}": {advice}')
        _refuse_wrong_values(**options)
        if function is None:
            return functools.partial(self._wrap, options)
        return self._wrap(options, function)

    def _wrap(self, options: dict[str, Any], function: Callable[P, T]) -> Callable[P, T]:
        _refuse_what_runs_later(function)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._run(functools.partial(function, *args, **kwargs), **_DEFAULTS | options)

        return wrapper

    def run(
        self,
        function: Callable[[], T],
        *,
        using: str = DEFAULT_DB_ALIAS,
        retries: int = _RETRIES,
        deadline: float = _DEADLINE,
        conflicts: bool = True,
    ) -> T:
        """Run ``function`` now; see the class."""
        _refuse_wrong_values(retries=retries, deadline=deadline, conflicts=conflicts)
        _refuse_what_runs_later(function)
        return self._run(function, using, retries, deadline, conflicts)

    def _run(
        self, function: Callable[[], T], using: str, retries: int, deadline: float, conflicts: bool
    ) -> T:
        """Of a decorated function all has been checked where it was defined."""
        connection: Any = connections[using]
        if connection.in_atomic_block:
            if not connection.atomic_blocks[-1]._from_testcase:
                raise RuntimeError(
                    f'retry_atomic cannot run inside another atomic block on "{using}": only the'
                    " outermost transaction can be retried."
                )
            with atomic(using=using):
                return function()
        if not is_ours(connection):
            raise RuntimeError(
                f'retry_atomic needs the engine "django_resilient_pg"; "{using}" has'
                f" {connection.settings_dict['ENGINE']!r}."
            )
        _refuse_without_autocommit(connection)
        return _Attempts(connection, conflicts, retries, deadline).run(function)


def _refuse_wrong_values(*, using: object = None, **given: object) -> None:
    """What would otherwise mean "never again" without a word, or fail when it is too late."""
    for name, value in given.items():
        checked_argument("retry_atomic", _DECLARED[name], value)


def _refuse_what_runs_later(function: Callable[..., Any]) -> None:
    """Of a coroutine or generator function nothing would run before the transaction is over."""
    if name := deadlines.runs_later(function, iscoroutinefunction):
        raise TypeError(
            f"retry_atomic cannot run {name}(), whose body runs after the call; give it a plain"
            " function, under asyncio by sync_to_async(retry_atomic(function))."
        )


def _refuse_without_autocommit(db: Wrapper) -> None:
    """Where autocommit is off ``atomic()`` would neither begin the transaction nor commit it."""
    connected = db.connection is not None
    if not (db.autocommit if connected else db.settings_dict["AUTOCOMMIT"]):
        raise RuntimeError(
            f'retry_atomic cannot run on "{db.alias}" while autocommit is off: the transaction'
            " under way would be part of its own; end that one and turn autocommit on before."
        )


@contextmanager
def _counting(db: Wrapper) -> Iterator[list[Unit]]:
    """Count what takes effect on whatever alias, as the middleware does for a request.

    A request around it counts it too, and stays what session state is counted for. The last unit of
    the list is that of the run under way.
    """
    other_engines.watch_from_now()
    units = [Unit(around(), weakref.ref(db))]
    token = UNIT.set(units[0])
    UNDER_WAY.append(units[0])
    try:
        yield units
    finally:
        units[-1].ended = True
        UNDER_WAY.remove(units[-1])
        UNIT.reset(token)


@contextmanager
def _open_elsewhere(db: Wrapper) -> Iterator[None]:
    """Note apart what is run from now on in transactions that are open on other aliases.

    A transaction of ``db`` that is lost does not undo that: what was run stays in them.
    """
    around = [one._transaction for one in _with_transactions(db)]
    aside = [transaction.set_texts_aside() for transaction in around]
    try:
        yield
    finally:
        for transaction, texts in zip(around, aside, strict=True):
            transaction.take_texts_back(texts)


def _with_transactions(db: Wrapper) -> list[Wrapper]:
    return [
        one
        for one in connections.all(initialized_only=True)
        if is_ours(one) and one is not db and one.connection is not None and not one.autocommit
    ]


class _Attempts:
    """One transaction that may be retried."""

    def __init__(self, db: Wrapper, conflicts: bool, retries: int, deadline: float) -> None:
        self._db, self._conflicts = db, conflicts
        self._retries, self._deadline = retries, deadline
        # Of the except block it is called in, if any: not an error of the function.
        self._handled = sys.exception()
        self._hooks = {one.alias: len(one.run_on_commit) for one in _with_transactions(db)}

    def run(self, function: Callable[[], T]) -> T:
        db = self._db
        words = messages.bound("retry_atomic's deadline", self._deadline)
        with (
            collecting(),
            deadlines.bounding(self._deadline, words),
            spending(db, seconds=self._deadline, words=words) as budget,
            _counting(db) as units,
            _open_elsewhere(db),
        ):
            attempt = 1
            while True:
                try:
                    with atomic(using=db.alias, durable=True):
                        return self._whole(function())
                except Exception as error:
                    pause = self._pause(error, attempt, units[-1], budget)
                    if pause is None:
                        raise
                units.append(succeed(units[-1]))  # threads of the last one may be at it
                time.sleep(pause)
                attempt += 1

    def _whole(self, result: T) -> T:
        """Raise if the function has passed over the loss of its transaction."""
        if (error := lost_error(self._db)) is not None:
            raise error
        return result

    def _pause(self, error: Exception, attempt: int, unit: Unit, budget: Budget) -> float | None:
        """Seconds to wait before the retry; ``None``: there must be none."""
        options = self._db.resilience.options
        if tells_of(error, "transaction_lost", but=self._handled):
            pause = 0.0
        elif self._conflicts and sqlstate_of(error) in _CONFLICTS:
            pause = backoff(attempt, base=options.backoff, most=options.max_backoff)
        else:
            return None
        if why := self._exhausted(attempt, pause, budget) or self._why_not(unit):
            error.add_note(f"The transaction was not retried: {why}.")
            announce.not_retried(self._db, f"Not retried: {why}.")
            return None
        sentence = messages.retrying(self._db.alias, attempt, self._retries)
        record = signals.TransactionRetried(self._db.alias, attempt, sqlstate_of(error), pause)
        announce.retrying(self._db, record, sentence, first_line(error, self._db.settings_dict))
        return pause

    def _exhausted(self, attempt: int, pause: float, budget: Budget) -> str:
        """Why there may be no further attempt, or ""."""
        if attempt > self._retries:
            times = f"{self._retries} time{'' if self._retries == 1 else 's'}"
            return f"it was retried {times} already (retries)"
        return f"{budget.bound} is used up" if pause >= budget.remaining() else ""

    def _why_not(self, unit: Unit) -> str:
        """What the failed attempt did that a retry would double, or "".

        Hooks run while ``atomic()`` is left: their errors come out of it as those before COMMIT do.
        """
        if unit.has_committed:
            return "its transaction had been committed, or may have been"
        # With what is needed for requests.
        from .replay.decide import why_lasting, why_locked, why_open

        return unit.supersede(
            lambda: (
                why_lasting(unit)
                or why_open(_with_transactions(self._db), self._hooks)
                or why_locked(self._db)
            )
        )


retry_atomic = _RetryAtomic()
