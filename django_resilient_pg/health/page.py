"""The status page in HTML. It needs neither JavaScript nor a setting of TEMPLATES."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

from django.http import HttpRequest
from django.middleware.csrf import get_token
from django.template import Context, Engine, Template

_FOLDER: Final = Path(__file__).parent / "templates"
STYLE: Final = _FOLDER / "status.css"


@cache
def _template() -> Template:
    engine = Engine(dirs=[str(_FOLDER)], builtins=["django_resilient_pg.health.filters"])
    return engine.get_template("status.html")


def page(request: HttpRequest, found: dict[str, Any]) -> str:
    """What :func:`.status.status` has gathered, for people."""
    reached = sum(one["reachable"] for one in found["databases"])
    context = {
        **found,
        "reached": reached,
        "all_reached": reached == len(found["databases"]),
        "token": get_token(request),
    }
    return _template().render(Context(context))
