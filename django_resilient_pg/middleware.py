"""``RequestRetryMiddleware``: a request whose connection was lost is run again.

Put it last in ``MIDDLEWARE``. Its settings are in :mod:`.request_settings`.

A failed attempt is left through Django's own handler: ``process_exception`` is asked after
``ATOMIC_REQUESTS`` has rolled back and before anybody is told. It answers with a stand-in, which
travels up to this middleware, and only there the request is run again: the attempt has left no
frame on the stack, no other middleware's hook sees two answers, and under ASGI no thread waits.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, RawPostDataException, UnreadablePostError
from django.http.response import HttpResponseBase

from . import foreign, request_settings, signals, streaming
from .bucket import BUCKET
from .losses import tells_of
from .replaying import (
    mark_of,
    may_ever,
    start_clean,
    unreachable,
    why_certain,
    why_lasting,
    why_not,
)
from .resilience import logger
from .retry import Budget
from .snapshots import Snapshot
from .units import UNDER_WAY, UNIT, Unit, around, succeed

# Seconds. About what a restart or a failover takes.
_RETRY_AFTER: Final = "5"
_STATE: Final = "_django_resilient_pg"


def _line_of(request: HttpRequest) -> str:
    """Method and path for the log, as Django writes them there: a path may hold line breaks."""
    return f"{request.method} {request.path}".encode("unicode_escape").decode("ascii")


def _view_of(request: HttpRequest) -> Any:
    return request.resolver_match.func if request.resolver_match else None


class _Again(HttpResponse):
    """Stands for the answer of an attempt that is repeated; never leaves the middleware."""


class _Attempts:
    """What the middleware remembers of one request."""

    __slots__ = ("handled", "held", "later", "made", "method", "snapshot", "unit")

    def __init__(self, request: HttpRequest, unit: Unit) -> None:
        self.snapshot = Snapshot(request)
        self.unit = unit
        self.made = 0
        #: Nothing was lost: the next attempt's stream is to begin later than this one's did.
        self.later = False
        #: The first chunk of its stream held something.
        self.held = False
        self.method = request.method
        #: The error of the except block that the request comes from, if any: none of its own.
        self.handled = sys.exception()

    def given_up(self, response: HttpResponseBase) -> bool:
        """Whether another attempt is to be made, whatever was answered for this one.

        A middleware below that used the database after the decision has had an error of it, and
        Django made an answer of that.
        """
        if not (isinstance(response, _Again) or self.unit.abandoned):
            return False
        streaming.abandon(response)
        return True

    def begin_next(self) -> None:
        """From now on it is another attempt's unit that counts."""
        self.unit = succeed(self.unit)
        self.made += not self.later


def _why_never(attempts: _Attempts, why: Callable[[Unit], str]) -> str:
    """What there is already that forbids another attempt at a request whose answer is there."""
    if not attempts.snapshot.body_is_there() or attempts.snapshot.session_was_saved():
        return "its body or its session is not what it was"
    return why(attempts.unit)


class RequestRetryMiddleware:
    """Runs a request again, at most so many times, while it has had no lasting effect.

    Raises:
        ImproperlyConfigured: a setting is wrong.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._settings = request_settings.read(settings)
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
            # Django runs a hook that is not a coroutine in a thread: for every request.
            setattr(self, "process_view", self._process_view_async)  # noqa: B010
        # Views whose streams hold something (a transaction): the server begins them, as usual.
        self._holding: weakref.WeakSet[Any] = weakref.WeakSet()
        foreign.watch_from_now()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Run the request as a unit of work."""
        if self._is_async:
            return self._answer_async(request)
        with self._unit(request) as attempts:
            while True:
                response: HttpResponseBase = self.get_response(request)
                if attempts is None:
                    return response
                response = self._started(request, attempts, response)
                if not attempts.given_up(response):
                    return response
                attempts.begin_next()
                self._make_new(request, attempts)

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        with self._unit(request) as attempts:
            while True:
                response: HttpResponseBase = await self.get_response(request)
                if attempts is None:
                    return response
                response = await self._started_async(request, attempts, response)
                if not attempts.given_up(response):
                    return response
                attempts.begin_next()  # here, where the view's context comes from
                await sync_to_async(self._make_new)(request, attempts)

    @contextmanager
    def _unit(self, request: HttpRequest) -> Iterator[_Attempts | None]:
        """One unit of work per request; a middleware that is listed twice has one."""
        if hasattr(request, _STATE):
            yield None
            return
        unit = Unit(Budget(self._settings.deadline), around())
        attempts = _Attempts(request, unit)
        setattr(request, _STATE, attempts)
        token = UNIT.set(unit)
        UNDER_WAY.append(unit)
        try:
            yield attempts
        finally:
            attempts.unit.ended = True
            UNDER_WAY.remove(attempts.unit)
            UNIT.reset(token)
            vars(request).pop(_STATE, None)

    # -- Django's hooks ---------------------------------------------------------------------

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: object, kwargs: object
    ) -> None:
        """Keep the body of a request whose view is @replayable, as far as Django would hold it.

        A larger one (``DATA_UPLOAD_MAX_MEMORY_SIZE``) stays a stream, and is not replayable.
        """
        attempts: _Attempts | None = getattr(request, _STATE, None)
        if attempts is None:
            return
        attempts.method = request.method
        if request.method in {"GET", "HEAD"}:
            return
        if not may_ever(request, request.method, self._settings.methods):
            return
        try:
            # What cannot be read is for the view to find out, if it wants it.
            with suppress(RequestDataTooBig, UnreadablePostError):
                request.body  # noqa: B018  reading it is what keeps it
        except RawPostDataException:
            attempts.snapshot.keep_form()

    async def _process_view_async(
        self, request: HttpRequest, view: Callable[..., Any], args: object, kwargs: object
    ) -> None:
        # The server has received the body already: reading it waits for nothing.
        RequestRetryMiddleware.process_view(self, request, view, args, kwargs)

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponseBase | None:
        """Decide what becomes of a failed attempt; ``None``: the error takes its way."""
        attempts: _Attempts | None = getattr(request, _STATE, None)
        if attempts is None:
            return None
        can_be_asked = tells_of(exception, "connection_lost", but=attempts.handled)
        if can_be_asked:
            start_clean(attempts.unit)
            why = self._why_not(request, attempts)
            if not why:
                return _Again()
        elif unreachable(exception, but=attempts.handled):
            why = "the database cannot be reached"
        else:
            return None
        exception.add_note(f"The request was not run again: {why}.")
        logger.warning(
            "%s failed with its connection and was not run again: %s.", _line_of(request), why
        )
        if not self._settings.unavailable:
            return None
        logger.error("Answered with 503.", exc_info=exception)
        invited = self._may_come_again(request, attempts, ask=can_be_asked)
        headers = {"Retry-After": _RETRY_AFTER} if invited else {}
        text = "The database is not available at the moment."
        return HttpResponse(text, status=503, content_type="text/plain", headers=headers)

    def _may_come_again(self, request: HttpRequest, attempts: _Attempts, *, ask: bool) -> bool:
        """Whether the client may be invited to do it again: nothing has been done, or will be."""
        if mark_of(request, attempts.method) is False or attempts.unit.sending:
            return False
        return not why_lasting(attempts.unit, ask=ask)

    def _why_not(self, request: HttpRequest, attempts: _Attempts) -> str:
        if attempts.made >= self._settings.retries:
            times = f"{attempts.made} time{'' if attempts.made == 1 else 's'}"
            return f"it was run again {times} already (RESILIENT_PG_REQUEST_RETRIES)"
        if not attempts.unit.budget.remaining():
            seconds = self._settings.deadline
            return f"it began more than {seconds:g} s ago (RESILIENT_PG_REQUEST_DEADLINE)"
        unit, methods = attempts.unit, self._settings.methods

        def judge() -> str:
            why = why_not(request, unit, attempts.snapshot, attempts.method, methods)
            if not why and not BUCKET.take():
                return "too many retries are under way in this process; the database needs a rest"
            return why

        return unit.give_up(judge)

    def _make_new(self, request: HttpRequest, attempts: _Attempts) -> None:
        """Make the request as new as before its view, and say so."""
        attempts.snapshot.restore()
        setattr(request, _STATE, attempts)
        if attempts.later:
            attempts.later = False
            return
        logger.warning("%s is run again on a new connection.", _line_of(request))
        record = signals.RequestRetried(str(request.method), request.path, attempts.made)
        signals.request_retried.send_robust(sender=type(self), request=request, record=record)

    # -- streams ----------------------------------------------------------------------------

    def _may_begin(
        self, request: HttpRequest, attempts: _Attempts, response: HttpResponseBase
    ) -> bool:
        """Whether a response is a stream of a request that may be run again."""
        if not streaming.is_open(response) or attempts.held or _view_of(request) in self._holding:
            return False
        return may_ever(request, attempts.method, self._settings.methods)

    def _started(
        self, request: HttpRequest, attempts: _Attempts, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Have a stream begin while the request can still be run again."""
        if not self._may_begin(request, attempts, response) or _why_never(attempts, why_certain):
            return response
        try:
            held = streaming.begin(response)
        except Exception as error:
            return self._broken(request, response, error)
        if not (held and self._is_made_again(request, attempts)):
            return response
        streaming.abandon(response)
        start_clean(attempts.unit)
        return _Again()

    async def _started_async(
        self, request: HttpRequest, attempts: _Attempts, response: HttpResponseBase
    ) -> HttpResponseBase:
        if not self._may_begin(request, attempts, response):
            return response
        if await sync_to_async(_why_never)(attempts, why_certain):
            return response
        try:
            held = await streaming.begin_async(response)
        except Exception as error:
            return await sync_to_async(self._broken)(request, response, error)
        if not (held and await sync_to_async(self._is_made_again)(request, attempts)):
            return response
        await streaming.abandon_async(response)
        await sync_to_async(start_clean)(attempts.unit)
        return _Again()

    def _is_made_again(self, request: HttpRequest, attempts: _Attempts) -> bool:
        """Have a stream made once more whose first chunk holds something, to begin by the server.

        What the middlewares above write would else be part of its transaction, or its tenant's.
        """
        attempts.held = True
        with suppress(TypeError):  # an object of which there can be no weak reference
            self._holding.add(_view_of(request))
        unit = attempts.unit
        attempts.later = not unit.give_up(lambda: _why_never(attempts, why_lasting))
        if not attempts.later:
            logger.warning(
                "The stream of %s has begun a transaction or set something (SET), of which"
                " middlewares are part this once: mark its view @not_replayable.",
                _line_of(request),
            )
        # A stream that is given up may try to reset what it has set: start_clean() does.
        unit.told = attempts.later
        return attempts.later

    def _broken(
        self, request: HttpRequest, response: HttpResponseBase, error: Exception
    ) -> HttpResponseBase:
        """Decide on a stream that failed before its first chunk, or raise ``error``."""
        streaming.abandon(response)
        decided = self.process_exception(request, error)
        if decided is None:
            raise error
        return decided
