"""``RequestRetryMiddleware``: a request whose connection was lost is run again.

Put it last in ``MIDDLEWARE``. Settings: ``RESILIENT_PG_REQUEST_RETRIES`` (1),
``RESILIENT_PG_REQUEST_DEADLINE`` (10 seconds, shared by every statement of the request),
``RESILIENT_PG_REPLAY_METHODS`` (GET, HEAD, OPTIONS), ``RESILIENT_PG_UNAVAILABLE_RESPONSE`` (False:
the error itself; True: a 503 with ``Retry-After``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, RawPostDataException
from django.http.response import HttpResponseBase

from . import signals
from .decorators import marked
from .replaying import SAFE_METHODS, Snapshot, lost, start_clean, why_not
from .resilience import logger
from .retry import Budget
from .units import ACTIVE, UNIT, Unit

_RETRY_AFTER: Final = "5"
_STATE: Final = "_django_resilient_pg"


class _Attempts:
    """What the middleware remembers of one request."""

    __slots__ = ("made", "snapshot", "unit")

    def __init__(self, request: HttpRequest, unit: Unit) -> None:
        self.snapshot = Snapshot(request)
        self.unit = unit
        self.made = 0


class RequestRetryMiddleware:
    """Runs a request again, at most so many times, while it has had no lasting effect."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.retries = int(getattr(settings, "RESILIENT_PG_REQUEST_RETRIES", 1))
        self.deadline = float(getattr(settings, "RESILIENT_PG_REQUEST_DEADLINE", 10.0))
        self.methods = tuple(getattr(settings, "RESILIENT_PG_REPLAY_METHODS", SAFE_METHODS))
        self.unavailable = bool(getattr(settings, "RESILIENT_PG_UNAVAILABLE_RESPONSE", False))
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Run the request as a unit of work."""
        if self.is_async:
            return self._run_async(request)
        with self._unit(request):
            response: HttpResponseBase = self.get_response(request)
            return response

    async def _run_async(self, request: HttpRequest) -> HttpResponseBase:
        with self._unit(request):
            response: HttpResponseBase = await self.get_response(request)
            return response

    @contextmanager
    def _unit(self, request: HttpRequest) -> Iterator[None]:
        if hasattr(request, _STATE):  # a replay runs inside the unit of the first attempt
            yield
            return
        unit = Unit(Budget(self.deadline))
        token = UNIT.set(unit)
        ACTIVE.append(unit)
        setattr(request, _STATE, None)
        setattr(request, _STATE, _Attempts(request, unit))
        try:
            yield
        finally:
            ACTIVE.remove(unit)
            UNIT.reset(token)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: object, kwargs: object
    ) -> None:
        """Keep the body of a request whose view is @replayable, as far as Django would hold it.

        A larger one (``DATA_UPLOAD_MAX_MEMORY_SIZE``) stays a stream, and is not replayable.
        """
        if request.method in self.methods or not marked(view):
            return
        with suppress(RequestDataTooBig, RawPostDataException):
            request.body  # noqa: B018  reading it is what keeps it

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponseBase | None:
        """Django's hook, after ``ATOMIC_REQUESTS`` has rolled back and before anybody is told."""
        attempts: _Attempts | None = getattr(request, _STATE, None)
        if attempts is None or not lost(exception):
            return None
        start_clean()
        why = self._why_not(request, attempts)
        if why:
            logger.warning(
                "%s %s failed with its connection and was not run again: %s.",
                request.method,
                request.path,
                why,
            )
            return self._unavailable_response()
        return self._replay(request, attempts)

    def _why_not(self, request: HttpRequest, attempts: _Attempts) -> str:
        if attempts.made >= self.retries:
            return f"it was run again {attempts.made} times already (RESILIENT_PG_REQUEST_RETRIES)"
        if not attempts.unit.budget.remaining():
            return f"its {self.deadline:g} s are used up (RESILIENT_PG_REQUEST_DEADLINE)"
        return why_not(request, attempts.unit, self.methods)

    def _replay(self, request: HttpRequest, attempts: _Attempts) -> HttpResponseBase:
        attempts.made += 1
        logger.warning("%s %s is run again on a new connection.", request.method, request.path)
        record = signals.RequestRetried(str(request.method), request.path, attempts.made)
        signals.request_retried.send_robust(sender=type(self), request=request, record=record)
        attempts.snapshot.restore(request)
        setattr(request, _STATE, attempts)
        if self.is_async:
            # Django calls this hook in a thread, also under ASGI.
            answered: HttpResponseBase = async_to_sync(self.get_response)(request)
        else:
            answered = self.get_response(request)
        return answered

    def _unavailable_response(self) -> HttpResponseBase | None:
        if not self.unavailable:
            return None
        return HttpResponse(
            "The database is not available at the moment.",
            status=503,
            content_type="text/plain",
            headers={"Retry-After": _RETRY_AFTER},
        )
