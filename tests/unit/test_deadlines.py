"""``deadline`` without a server: its arguments, what it decorates, which of several wins."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views import View

from django_resilient_pg.deadlines import bounding, deadline, deadline_of, left, resumed
from django_resilient_pg.policy.rules import Budget

ALLOWED = "but must be a number from 0 to 86400 seconds."


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        (-1, ValueError, f"is -1, {ALLOWED} The nearest valid value is 0."),
        (1e6, ValueError, f"is 1000000.0, {ALLOWED} The nearest valid value is 86400."),
        (math.nan, ValueError, f"is nan, {ALLOWED}"),
        ("0.2", TypeError, f"is '0.2', {ALLOWED}"),
        (None, TypeError, f"is None, {ALLOWED}"),
        (True, TypeError, f"is True, {ALLOWED}"),
    ],
    ids=str,
)
def test_wrong_seconds_are_refused_where_they_stand(
    wrong: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        deadline(wrong)
    assert type(caught.value) is kind
    assert str(caught.value) == f"deadline: seconds {said}"


def numbers() -> Iterator[int]:
    yield 1


async def numbers_later() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [numbers, numbers_later, functools.partial(numbers)])
def test_a_body_that_runs_after_the_call_is_refused(function: Any) -> None:
    with pytest.raises(TypeError, match=r"numbers(_later)?\(\), whose body runs after the call"):
        deadline(1)(function)


def test_a_class_is_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match=r'method_decorator\(deadline\(0\.2\), name="dispatch"\)'):
        deadline(1)(View)  # type: ignore[arg-type]


def test_it_holds_within_and_not_after() -> None:
    assert left() == math.inf
    with deadline(5):
        assert 4 < left() <= 5
    assert left() == math.inf

    @deadline(5)
    def function(one: int, *, two: int) -> tuple[float, int]:
        """Documented."""
        return left(), one + two

    seconds, total = function(1, two=2)
    assert (4 < seconds <= 5, total) == (True, 3)
    assert (function.__name__, function.__doc__) == ("function", "Documented.")
    assert left() == math.inf


@pytest.mark.parametrize(("outer", "inner"), [(5.0, 60.0), (60.0, 5.0)])
def test_of_nested_ones_the_tighter_wins(outer: float, inner: float) -> None:
    with deadline(outer), bounding(30, "a request"), deadline(inner):
        assert 4 < left() <= 5
        assert Budget(60.0).bound == "deadline(5)"
    with deadline(60), bounding(5, "a request"):
        assert 4 < left() <= 5 < 59 < left(hard=True)
        assert (Budget(60.0).bound, Budget(1.0).bound) == ("a request", "retry_deadline")
        assert 0 < Budget(1.0).remaining() <= 1


def test_one_object_serves_several_threads_and_itself() -> None:
    fast, seen = deadline(5), []
    barrier = threading.Barrier(2)

    def use(outer: float) -> None:
        with deadline(outer), fast:
            barrier.wait()
            with fast:
                seen.append(left() <= 5)
            barrier.wait()
        seen.append(left() == math.inf)

    threads = [threading.Thread(target=use, args=(outer,)) for outer in (50, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4


def test_a_coroutine_function_stays_one() -> None:
    @deadline(5)
    async def answer() -> float:
        await asyncio.sleep(0)
        return await sync_to_async(left)()

    assert iscoroutinefunction(answer)
    assert 4 < asyncio.run(answer()) <= 5


@method_decorator(deadline(5), name="dispatch")
class Later(View):
    """Its ``dispatch()`` is a plain function that returns a coroutine."""

    async def get(self, request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(0)
        return HttpResponse(str(left()))


def test_an_asynchronous_view_is_bounded_until_it_has_answered() -> None:
    response: Any = asyncio.run(Later.as_view()(RequestFactory().get("/")))  # type: ignore[arg-type]
    assert 4 < float(response.content) <= 5


def test_one_that_is_over_bounds_nobody() -> None:
    async def outlives() -> list[float]:
        started, over = asyncio.Event(), asyncio.Event()

        async def task() -> list[float]:
            before = left()
            started.set()
            await over.wait()
            return [before, left()]

        with deadline(5):
            running = asyncio.create_task(task())
            await started.wait()
        over.set()
        return await running

    before, after = asyncio.run(outlives())
    assert before <= 5
    assert after == math.inf
    with deadline(5):
        copied = contextvars.copy_context()
    assert copied.run(left) == math.inf


def test_an_error_remembers_the_tightest_deadline_that_it_has_left() -> None:
    for outer, inner in ((5, 60), (60, 5)):
        with pytest.raises(LookupError) as caught, deadline(outer), deadline(inner):
            raise LookupError
        bound = deadline_of(caught.value)
        assert bound is not None
        assert bound.ends <= time.monotonic() + 5
        with resumed(bound):
            assert left(hard=True) <= 5
        assert left() == math.inf


async def failing() -> None:
    raise LookupError


def test_so_does_that_of_a_coroutine() -> None:
    with pytest.raises(LookupError) as caught:
        asyncio.run(deadline(5)(lambda: failing())())
    assert deadline_of(caught.value) is not None
