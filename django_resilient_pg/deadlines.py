"""How long the engine may wait: :class:`deadline`, and the deadlines of requests and transactions.

A context variable holds the innermost one, which knows those around it. So a deadline holds on
every alias, crosses ``sync_to_async`` and goes with tasks and threads that run in a copy of the
context. The tightest one wins. One that is over has no effect: tasks may outlive it in their
copies of its context.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast

from asgiref.sync import iscoroutinefunction

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that :class:`deadline` leaves one attempt to connect, or one ping, when it is used up: an
#: attempt that has no time at all could never succeed.
LEAST: Final = 0.1
_MARK: Final = "_django_resilient_pg_deadline"


class Bound:
    """One deadline under way.

    Attributes:
        words: for people: what bounds.
        hard: it also bounds the first attempt to connect, and pings.
        around: the deadline that this one is set in, if any.
        ended: what it was set for is over.
    """

    __slots__ = ("around", "ended", "ends", "hard", "words")

    def __init__(self, ends: float, words: str, *, hard: bool, around: Bound | None) -> None:
        self.ends, self.words, self.hard, self.around = ends, words, hard, around
        self.ended = False

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.ends - time.monotonic())


_BOUND: Final[ContextVar[Bound | None]] = ContextVar("django_resilient_pg_deadline", default=None)


def tightest(*, hard: bool = False) -> Bound | None:
    """The deadline of this context that ends first; ``hard``: of those that are."""
    found, bound = None, _BOUND.get()
    while bound is not None:
        counts = not bound.ended and (bound.hard or not hard)
        if counts and (found is None or bound.ends < found.ends):
            found = bound
        bound = bound.around
    return found


def left(*, hard: bool = False) -> float:
    """Seconds that the deadlines of this context leave; see :func:`tightest`."""
    if _BOUND.get() is None:
        return math.inf
    found = tightest(hard=hard)
    return math.inf if found is None else found.remaining()


def bounded() -> bool:
    """Whether this context has any deadline."""
    return _BOUND.get() is not None


def allowed(seconds: float) -> float:
    """As much of these seconds as a hard deadline leaves one round trip."""
    return min(seconds, max(left(hard=True), LEAST))


@contextlib.contextmanager
def bounding(seconds: float, words: str, *, hard: bool = False) -> Iterator[Bound]:
    """A deadline that begins now.

    Args:
        seconds: after which it is used up.
        words, hard: see :class:`Bound`.
    """
    with _within(Bound(time.monotonic() + seconds, words, hard=hard, around=_BOUND.get())) as bound:
        yield bound


@contextlib.contextmanager
def resumed(bound: Bound | None) -> Iterator[None]:
    """Within it a deadline holds that has been left."""
    if bound is None:
        yield
        return
    with _within(Bound(bound.ends, bound.words, hard=bound.hard, around=_BOUND.get())):
        yield


@contextlib.contextmanager
def only_hard() -> Iterator[None]:
    """Within it only the deadlines hold that :class:`deadline` has set."""
    hard = tightest(hard=True)
    alone = None if hard is None else Bound(hard.ends, hard.words, hard=True, around=None)
    token = _BOUND.set(alone)
    try:
        yield
    finally:
        _BOUND.reset(token)


@contextlib.contextmanager
def _within(bound: Bound) -> Iterator[Bound]:
    token = _BOUND.set(bound)
    try:
        yield bound
    finally:
        bound.ended = True
        _BOUND.reset(token)


def deadline_of(error: BaseException) -> Bound | None:
    """The :class:`deadline` that this error has left, if any."""
    return cast("Bound | None", getattr(error, _MARK, None))


def _note_left(error: BaseException, bound: Bound) -> None:
    earlier = deadline_of(error)
    if earlier is None or bound.ends < earlier.ends:
        with contextlib.suppress(AttributeError):  # a class with slots
            setattr(error, _MARK, bound)


class deadline:
    """Bound how long the engine waits in a block or a function, on every alias.

    A context manager, and a decorator for functions and coroutine functions::

        with deadline(0.2):
            ...

        @deadline(0.2)
        def health(request): ...

    It bounds connecting (each attempt, and all of them together), retrying, waiting for a
    connection of a pool, and pings. It does not bound how long a statement runs. Nested deadlines,
    that of the request and ``retry_deadline`` hold too: the tightest one wins.

    Args:
        seconds: from the start of the block or call, from 0 to 86400. With 0 nothing is waited for
            or retried: at most one attempt to connect is made. One attempt, or one ping, may always
            take 0.1 s.

    Raises:
        TypeError: ``seconds`` is no number; or what is decorated is a class, or a generator
            function, whose body runs after the call.
        ValueError: ``seconds`` is not from 0 to 86400.
    """

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float) -> None:
        from .conf.declarations import Declaration, checked_argument

        declared = Declaration(
            "seconds", "number", None, unit="seconds", lowest=0, highest=86_400, strict=True
        )
        self._seconds: float = checked_argument("deadline", declared, seconds)

    def __enter__(self) -> None:
        _BOUND.set(_Entered(self, self._seconds))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Kept in the context, not here: several threads may use the same object.
        bound = _BOUND.get()
        while bound is not None and not (isinstance(bound, _Entered) and bound.by is self):
            bound = bound.around
        if bound is not None:
            bound.ended = True
            _BOUND.set(bound.around)
            if error is not None:
                _note_left(error, bound)

    def __call__(self, function: Callable[P, T], /) -> Callable[P, T]:
        """Decorate a function: each call has a deadline of its own."""
        _refuse_what_runs_later(function)
        if iscoroutinefunction(function):
            return cast("Callable[P, T]", self._over_coroutine(cast(Any, function)))

        @functools.wraps(function)
        def bounded(*args: P.args, **kwargs: P.kwargs) -> T:
            with self:
                bound = _BOUND.get()
                result = function(*args, **kwargs)
            # The dispatch() of an asynchronous view is a plain function.
            return cast(T, _awaited(result, bound)) if inspect.iscoroutine(result) else result

        return bounded

    def _over_coroutine(self, function: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
        @functools.wraps(function)
        async def bounded(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return bounded


class _Entered(Bound):
    """Of a block or call of :class:`deadline`."""

    __slots__ = ("by",)

    def __init__(self, by: deadline, seconds: float) -> None:
        ends = time.monotonic() + seconds
        super().__init__(ends, f"deadline({seconds:g})", hard=True, around=_BOUND.get())
        self.by = by


async def _awaited(coroutine: Coroutine[Any, Any, Any], bound: Bound | None) -> Any:
    with resumed(bound):
        try:
            return await coroutine
        except BaseException as error:
            if bound is not None:
                _note_left(error, bound)
            raise


def runs_later(function: object, *kinds: Callable[[object], bool]) -> str:
    """The name of a function whose body runs after the call, or "".

    Args:
        function: of which that is asked.
        kinds: tell of those that do so besides generator functions.
    """
    while isinstance(function, functools.partial):
        function = function.func
    kinds = (inspect.isgeneratorfunction, inspect.isasyncgenfunction, *kinds)
    if not any(kind(function) for kind in kinds):
        return ""
    return str(getattr(function, "__qualname__", type(function).__name__))


def _refuse_what_runs_later(function: object) -> None:
    if inspect.isclass(function):
        raise TypeError(
            f"deadline cannot decorate the class {function.__qualname__}. Decorate a method:"
            ' @method_decorator(deadline(0.2), name="dispatch").'
        )
    if name := runs_later(function):
        raise TypeError(
            f"deadline cannot decorate {name}(), whose body runs after the call. Use"
            ' "with deadline(...)" inside of it, around what does not yield.'
        )
