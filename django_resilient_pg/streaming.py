"""The first chunk of a streamed response, made while its request can still be run again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import connections

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
        Whether it is in the middle of a transaction now, which goes on with the next chunk.
    """
    if response.is_async:
        return False
    before = _in_transactions()
    chunks: Iterator[bytes] = iter(response.streaming_content)
    _put_back(response, next(chunks, _END), chunks)
    return not _in_transactions() <= before


async def begin_async(response: Any) -> bool:
    """As :func:`begin`, for both kinds of iterators; an asynchronous one is in no transaction."""
    if not response.is_async:
        return await sync_to_async(begin)(response)
    more = aiter(response.streaming_content)
    response.streaming_content = _rest(await anext(more, _END), more)
    return False


def _in_transactions() -> set[str]:
    return {one.alias for one in connections.all(initialized_only=True) if one.in_atomic_block}


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
