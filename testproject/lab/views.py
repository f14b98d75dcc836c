"""The page, its stream of events, and what the buttons ask for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import groupby

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from testproject.lab.faults import FAULTS
from testproject.lab.feed import BIN, SLOW, Place
from testproject.lab.laboratory import Busy, Laboratory
from testproject.lab.sides import PAYMENT, SIDES, SILENCE

TICK = 0.5  # seconds between two events of a stream
POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("connect", "img", "script", "style")),
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)

#: What runs behind the page; set by whoever serves it.
running: list[Laboratory] = []


def own_content_only(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Let the browser load nothing from anywhere else."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return middleware


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """The page itself."""
    groups = groupby(FAULTS.values(), key=lambda fault: fault.group)
    context = {
        "groups": [(name, list(faults)) for name, faults in groups],
        "sides": SIDES,
        "silence": SILENCE / 1000,
        "payment": PAYMENT,
        "slow": SLOW,
        "shown": {
            "bin": BIN,
            "faults": {
                fault.name: {"mark": fault.mark, "sentence": fault.sentence}
                for fault in FAULTS.values()
            },
        },
    }
    return render(request, "lab/page.html", context)


@require_safe
def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Server-sent events: first all that is known, then what is new."""
    response = StreamingHttpResponse(_events(), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    return response


def _events() -> Iterator[str]:
    place = Place()
    while True:
        news, place = running[0].feed.news(place)
        yield f"data: {json.dumps(news)}\n\n"
        time.sleep(TICK)


@require_POST
def break_it(request: HttpRequest, name: str) -> JsonResponse:
    """Begin a fault."""
    if name not in FAULTS:
        raise Http404
    try:
        running[0].break_it(name)
    except Busy:
        return JsonResponse({"error": "another fault is under way"}, status=409)
    return JsonResponse({"fault": name}, status=202)
