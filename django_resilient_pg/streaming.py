"""The first chunk of a streamed response, made while its request can still be run again.

All chunks are made in one context, a copy: what a stream sets there (a context variable, a
language) is not seen by the middlewares above, and can be reset at its end.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Generator, Iterator
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from itertools import chain
from types import FrameType, coroutine
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import connections

from .loading import is_ours

_END: Final = object()


def is_open(response: Any) -> bool:
    """Whether a response has still to make its content, and will not wait for events before."""
    return (
        getattr(response, "streaming", False)
        # A file is handed to the server as it is.
        and getattr(response, "file_to_stream", None) is None
        and not response.get("Content-Type", "").startswith("text/event-stream")
    )


def begin(response: Any) -> bool:
    """Make the first chunk. Raises what the application's own iterator raises.

    An asynchronous iterator is left alone: without ASGI, Django makes a list of it at the end.

    Returns:
        Whether it has changed what its connections hold: it is in the middle of a transaction now,
        or has set something that it may reset at its end.
    """
    if response.is_async:
        return False
    before, context = _held(), copy_context()
    chunks: Iterator[bytes] = iter(response.streaming_content)
    # The end of a generator belongs to its context as well.
    response._resource_closers[:] = [
        partial(context.run, one) for one in response._resource_closers
    ]
    first = context.run(next, chunks, _END)
    response.streaming_content = () if first is _END else chain((first,), _rest(context, chunks))
    return _held() != before


def _rest(context: Context, chunks: Iterator[bytes]) -> Iterator[Any]:
    while (chunk := context.run(next, chunks, _END)) is not _END:
        yield chunk


async def begin_async(response: Any) -> bool:
    """As :func:`begin`, for both kinds of iterators."""
    if not response.is_async:
        return await sync_to_async(begin)(response)
    if not _is_of_the_server(sys._getframe()):
        return False
    before = await sync_to_async(_held)()
    response.streaming_content = chunks = _Chunks(response._iterator)
    await chunks.begin()
    return await sync_to_async(_held)() != before


def _is_of_the_server(frame: FrameType | None) -> bool:
    """Whether the task under way is the one in which Django will make the other chunks.

    It is another one below a synchronous middleware, and what a first chunk has entered
    (``asyncio.timeout()``) cannot be left in another task.
    """
    while frame is not None:
        if frame.f_code.co_name == "get_response_async":
            return frame.f_globals.get("__name__") == "django.core.handlers.base"
        frame = frame.f_back
    return False


class _Chunks:
    """The chunks of an asynchronous iterator, all made in one context."""

    def __init__(self, chunks: Any) -> None:
        self._chunks, self._context = chunks, copy_context()
        self._first: list[Any] = []

    async def begin(self) -> None:
        """Make the first one, to be handed out later."""
        with suppress(StopAsyncIteration):
            self._first.append(await anext(self))

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> Any:
        if self._first:
            return self._first.pop()
        return await _within(self._context, _next(self._chunks))

    async def aclose(self) -> None:
        """As of an asynchronous generator."""
        if hasattr(self._chunks, "aclose"):
            await _within(self._context, _end(self._chunks))


async def _next(chunks: Any) -> Any:
    return await anext(chunks)


async def _end(chunks: Any) -> None:
    await chunks.aclose()


@coroutine
def _within(context: Context, steps: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a coroutine in a context, and yet in the task under way."""
    step: Any = steps.send
    given: Any = None
    while True:
        try:
            awaited = context.run(step, given)
        except StopIteration as end:
            return end.value
        try:
            step, given = steps.send, (yield awaited)
        except BaseException as error:
            step, given = steps.throw, error


def _held() -> dict[str, object]:
    """What the connections of this thread hold now, of which whoever uses them next is part."""
    held: dict[str, object] = {}
    for one in connections.all(initialized_only=True):
        pinned_by, settings = "", {}
        if is_ours(one):
            pinned_by, settings = one._session.pinned_by, dict(one._session.settings)
        if one.in_atomic_block or pinned_by or settings:
            held[one.alias] = (one.in_atomic_block, pinned_by, settings)
    return held


def abandon(response: Any) -> None:
    """Let go of what a response holds.

    Not by ``response.close()``, which tells everybody that the request is over.
    """
    for close in response._resource_closers:
        with suppress(Exception):
            close()


async def abandon_async(response: Any) -> None:
    """As :func:`abandon`; an asynchronous iterator ends now, not when it is collected."""
    if response.is_async and hasattr(response._iterator, "aclose"):
        with suppress(Exception):
            await response._iterator.aclose()
    await sync_to_async(abandon)(response)
