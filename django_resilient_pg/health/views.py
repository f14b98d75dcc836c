"""The views of ``django_resilient_pg.urls``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from ..conf import request_settings
from ..deadlines import deadline
from ..policy import messages
from ..state.aliases import load
from ..state.shared import logger
from . import checking, words
from .asking import Answer, aliases, ask
from .status import status as gather

View = Callable[[HttpRequest], HttpResponseBase]

# Seconds to learn who asks for the status page.
_WHO: Final = 2.0
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)


class _Every(frozenset[str]):
    """All aliases, also those that nobody has named."""

    def __contains__(self, alias: object) -> bool:
        return True


def _alone(view: View) -> View:
    """A view that Django opens no transaction for (ATOMIC_REQUESTS), and asks for no login."""
    marked: Any = view
    marked._non_atomic_requests = _Every()
    marked.login_required = False
    return view


@_alone
@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """The process answers. No database is touched."""
    return HttpResponse("live\n", content_type="text/plain; charset=utf-8")


@_alone
@never_cache
@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """Every alias, or each ``?database=``, can be reached within the deadline; otherwise 503."""
    known = aliases()
    wanted = request.GET.getlist("database") or known
    unknown = [one for one in wanted if one not in known]
    if unknown:
        return _json({"ready": False, "error": "There is no such database."}, 400)
    answers = ask(dict.fromkeys(wanted), request_settings.ready_deadline(settings))
    found = {
        alias: "reachable" if one.reachable else words.public(one.reason)
        for alias, one in answers.items()
    }
    reached = all(one.reachable for one in answers.values())
    _tell_changes(answers)
    return _json({"ready": reached, "databases": found}, 200 if reached else 503)


#: Aliases that were not reachable when they were last asked for.
_gone: set[str] = set()


def _tell_changes(answers: Mapping[str, Answer]) -> None:
    """Log once that a database is not ready, and once that it is ready again.

    What a probe is answered with 503 is nowhere to be read: Kubernetes shows the status alone.
    """
    for alias, one in answers.items():
        if one.reachable and alias in _gone:
            _gone.discard(alias)
            extra = messages.fields(alias)
            logger.info('Database "%s" is ready again.', alias, extra=extra)
        elif not one.reachable and alias not in _gone:
            _gone.add(alias)
            extra = messages.fields(alias)
            logger.warning('Database "%s" is not ready: %s.', alias, one.reason, extra=extra)


def _json(content: dict[str, Any], code: int) -> HttpResponse:
    response = JsonResponse(content, status=code)
    # Otherwise Django logs an ERROR for each probe, and mails the administrators.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


@_alone
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def status(request: HttpRequest) -> HttpResponseBase:
    """What this process knows of its databases, for staff. POST ``database=`` checks one."""
    if _has_token(request):
        return _shown(request)
    return _for_staff(request)


status.csrf_exempt = True  # type: ignore[attr-defined]  # who has no token is protected below


def _has_token(request: HttpRequest) -> bool:
    token = request_settings.status_token(settings)
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return bool(
        token and scheme.lower() == "bearer" and constant_time_compare(given.strip(), token)
    )


@csrf_protect
def _for_staff(request: HttpRequest) -> HttpResponseBase:
    try:
        with deadline(_WHO):
            user = getattr(request, "user", None)
            staff = user is not None and user.is_active and getattr(user, "is_staff", False)
    except (DatabaseError, InterfaceError):
        return _json({"error": words.WHO}, 503)
    if not staff:
        raise PermissionDenied(words.STAFF)
    return _shown(request)


def _shown(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        alias = request.POST.get("database", "")
        if alias not in aliases() or getattr(load(alias)[0], "vendor", "") != "postgresql":
            return _json({"error": "There is no such PostgreSQL database."}, 400)
        checking.check(alias)
    answers = ask(aliases(), request_settings.ready_deadline(settings))
    found = gather(answers, asgi=hasattr(request, "scope"))
    if _wants_json(request):
        return JsonResponse(found)
    from .page import page

    response = HttpResponse(page(request, found))
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    return response


def _wants_json(request: HttpRequest) -> bool:
    asked = request.GET.get("format")
    if asked:
        return asked == "json"
    return request.get_preferred_type(["text/html", "application/json"]) == "application/json"


@_alone
@require_safe
def style(request: HttpRequest) -> HttpResponse:
    """The style sheet of the status page: a strict policy allows none in the page itself."""
    from .page import STYLE

    response = HttpResponse(STYLE.read_text(encoding="utf-8"), content_type="text/css")
    response.headers["Cache-Control"] = "max-age=300"
    return response
