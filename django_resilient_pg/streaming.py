"""The first chunk of a streamed response, made while its request can still be run again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Final

from asgiref.sync import sync_to_async

_END: Final = object()


def is_open(response: Any) -> bool:
    """Whether a response has still to make its content, and will not wait for events before."""
    return (
        response.streaming
        # A file is handed to the server as it is.
        and getattr(response, "file_to_stream", None) is None
        and not response.get("Content-Type", "").startswith("text/event-stream")
    )


def begin(response: Any) -> None:
    """Make the first chunk. Raises what the application's own iterator raises.

    An asynchronous iterator is left alone: without ASGI, Django makes a list of it at the end.
    """
    if response.is_async:
        return
    chunks: Iterator[bytes] = iter(response.streaming_content)
    _put_back(response, next(chunks, _END), chunks)


async def begin_async(response: Any) -> None:
    """As :func:`begin`, for both kinds of iterators."""
    if response.is_async:
        more = aiter(response.streaming_content)
        response.streaming_content = _rest(await anext(more, _END), more)
        return
    chunks: Iterator[bytes] = iter(response.streaming_content)
    _put_back(response, await sync_to_async(lambda: next(chunks, _END))(), chunks)


def _put_back(response: Any, first: Any, chunks: Iterator[bytes]) -> None:
    response.streaming_content = () if first is _END else chain((first,), chunks)


async def _rest(first: Any, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first is _END:
        return
    yield first
    async for chunk in chunks:
        yield chunk


def abandon(response: Any) -> None:
    """Let go of what a response holds.

    Not by ``response.close()``, which tells everybody that the request is over.
    """
    for close in response._resource_closers:
        with suppress(Exception):
            close()
