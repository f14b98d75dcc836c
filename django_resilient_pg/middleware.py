"""``RequestRetryMiddleware``: a request whose connection was lost is replayed.

Put it last in ``MIDDLEWARE``. Its settings are in :mod:`.request_settings`.

A failed attempt is left through Django's own handler: ``process_exception`` is asked after
``ATOMIC_REQUESTS`` has rolled back and before anybody is told. It answers with a stand-in, which
travels up to this middleware, and only there the request is replayed: the attempt has left no
frame on the stack, no other middleware's hook sees two answers, and under ASGI no thread waits.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, RawPostDataException, UnreadablePostError
from django.http.response import HttpResponseBase

from . import deadlines, signals
from .conf import request_settings
from .driver.exceptions import alias_of, tells_of
from .policy import messages
from .policy.token_bucket import BUCKET
from .replay import other_engines
from .replay.decide import mark_of, may_ever, start_clean, unreachable, why_lasting, why_not
from .replay.snapshot import Snapshot
from .state import announce
from .state.unit_of_work import UNDER_WAY, UNIT, Unit, around, succeed

# Seconds. About what a restart or a failover takes.
_RETRY_AFTER: Final = "5"
_DEADLINE: Final = request_settings.DEADLINE.name
_STATE: Final = "_django_resilient_pg"


def _line_of(request: HttpRequest) -> str:
    """Method and path for the log, as Django writes them there: a path may hold line breaks."""
    return f"{request.method} {request.path}".encode("unicode_escape").decode("ascii")


class _Attempts:
    """What the middleware remembers of one request."""

    __slots__ = ("bound", "deadline", "handled", "made", "method", "snapshot", "unit")

    def __init__(self, request: HttpRequest, unit: Unit, bound: deadlines.Bound) -> None:
        self.snapshot = Snapshot(request)
        self.unit = unit
        self.bound = bound
        self.made = 0
        #: The ``deadline()`` of the view, which its next attempts have to keep too.
        self.deadline: deadlines.Bound | None = None
        self.method = request.method
        #: The error of the except block that the request comes from, if any: none of its own.
        self.handled = sys.exception()

    def begin_next(self) -> None:
        """From now on it is another attempt's unit that counts."""
        self.unit = succeed(self.unit)
        self.made += 1


def _release(response: Any) -> None:
    """Close what a discarded response holds: a middleware below may have opened a file for it.

    ``response.close()`` would also announce the end of the request, which is not over.
    """
    for close in response._resource_closers:
        # Nobody is left who could learn of an error: the answer that counts is another one.
        with suppress(Exception):
            close()


def _settled(attempts: _Attempts | None, response: HttpResponseBase) -> HttpResponseBase:
    """The final response. A replay that has succeeded gives its tokens back."""
    if attempts is not None and attempts.made and response.status_code < 500:
        BUCKET.refund(BUCKET.COST)
    return response


class RequestRetryMiddleware:
    """Replays a request, at most so many times, while it has had no lasting effect.

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
        other_engines.watch_from_now()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Run the request as a unit of work."""
        if self._is_async:
            return self._answer_async(request)
        with self._unit(request) as attempts:
            response: HttpResponseBase = self.get_response(request)
            # Whatever was answered: a middleware below may have made an error page of the stand-in.
            while attempts is not None and attempts.unit.superseded:
                _release(response)
                attempts.begin_next()
                self._make_new(request, attempts)
                with deadlines.resumed(attempts.deadline):
                    response = self.get_response(request)
            return _settled(attempts, response)

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        with self._unit(request) as attempts:
            response: HttpResponseBase = await self.get_response(request)
            while attempts is not None and attempts.unit.superseded:
                await sync_to_async(_release)(response)
                attempts.begin_next()  # here, where the view's context comes from
                await sync_to_async(self._make_new)(request, attempts)
                with deadlines.resumed(attempts.deadline):
                    response = await self.get_response(request)
            return _settled(attempts, response)

    @contextmanager
    def _unit(self, request: HttpRequest) -> Iterator[_Attempts | None]:
        """One unit of work per request; a middleware that is listed twice has one."""
        if hasattr(request, _STATE):
            yield None
            return
        seconds = self._settings.deadline
        with deadlines.bounding(seconds, messages.bound(_DEADLINE, seconds)) as bound:
            yield from self._unit_within(request, bound)

    def _unit_within(self, request: HttpRequest, bound: deadlines.Bound) -> Iterator[_Attempts]:
        unit = Unit(around())
        attempts = _Attempts(request, unit, bound)
        setattr(request, _STATE, attempts)
        token = UNIT.set(unit)
        UNDER_WAY.append(unit)
        try:
            yield attempts
        finally:
            attempts.unit.ended = True
            announce.tell_rest(attempts.unit)
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
        attempts.deadline = deadlines.deadline_of(exception)
        with deadlines.resumed(attempts.deadline):  # what follows waits no longer than the view
            return self._decide(request, attempts, exception)

    def _decide(
        self, request: HttpRequest, attempts: _Attempts, exception: Exception
    ) -> HttpResponseBase | None:
        can_be_asked = tells_of(exception, "connection_lost", but=attempts.handled)
        if can_be_asked:
            start_clean(attempts.unit)
            why = self._why_not(request, attempts)
            if not why:
                return HttpResponse()  # a stand-in: it never leaves this middleware
        elif unreachable(exception, but=attempts.handled):
            why = "the database cannot be reached"
        else:
            return None
        exception.add_note(f"The request was not replayed: {why}.")
        alias = alias_of(exception, but=attempts.handled)
        if not self._settings.unavailable:
            text = f"{_line_of(request)} lost its connection and was not replayed: {why}."
            announce.gave_up(attempts.unit, alias, text)
            return None
        invited = self._may_come_again(request, attempts, ask=can_be_asked)
        headers = {"Retry-After": _RETRY_AFTER} if invited else {}
        database = "the database" if alias is None else f'database "{alias}"'
        text = f"Returned 503 for {_line_of(request)}: {database} is not available."
        announce.gave_up(attempts.unit, alias, text, exception)
        text = "The database is not available at the moment."
        response = HttpResponse(text, status=503, content_type="text/plain", headers=headers)
        # Django logs every answer of 5xx as an error, without its reason. One record is enough.
        response._has_been_logged = True  # type: ignore[attr-defined]
        return response

    def _may_come_again(self, request: HttpRequest, attempts: _Attempts, *, ask: bool) -> bool:
        """Whether the client may be invited to repeat it: nothing has been done, or will be."""
        if mark_of(request, attempts.method) is False or attempts.unit.sending:
            return False
        return not why_lasting(attempts.unit, ask=ask)

    def _why_not(self, request: HttpRequest, attempts: _Attempts) -> str:
        if attempts.made >= self._settings.retries:
            times = f"{attempts.made} time{'' if attempts.made == 1 else 's'}"
            return f"it was replayed {times} already (RESILIENT_PG_REQUEST_RETRIES)"
        for bound in filter(None, (attempts.bound, attempts.deadline)):
            if not bound.remaining():
                return f"{bound.words} is used up"
        unit, methods = attempts.unit, self._settings.methods

        def judge() -> str:
            why = why_not(request, unit, attempts.snapshot, attempts.method, methods)
            if not why and not BUCKET.take():
                return "too many retries are under way in this process"
            return why

        return unit.supersede(judge)

    def _make_new(self, request: HttpRequest, attempts: _Attempts) -> None:
        """Make the request as new as before its view, and announce its replay."""
        attempts.snapshot.restore()
        setattr(request, _STATE, attempts)
        sentence = f"Replaying {_line_of(request)} on a new connection."
        announce.replaying(attempts.unit, sentence)
        record = signals.RequestRetried(str(request.method), request.path, attempts.made)
        send = signals.request_retried.send_robust
        announce.tell(None, partial(send, sender=type(self), request=request, record=record))
