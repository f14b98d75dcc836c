"""System checks of ``RequestRetryMiddleware``: its place in ``MIDDLEWARE`` and its settings.

They look at settings only and never connect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Warning
from django.utils.module_loading import import_string

from ..conf import request_settings
from ..state.aliases import ours

MIDDLEWARE: Final = "django_resilient_pg.middleware.RequestRetryMiddleware"
_MIDDLEWARES: Final = frozenset(one.name for one in request_settings.DECLARED)


def register() -> None:
    """Enter the check into Django's registry; once more changes nothing."""
    checks.register(check_middleware)


def check_middleware(app_configs: Sequence[Any] | None, **_: object) -> list[CheckMessage]:
    """What is wrong with the middleware's settings and place."""
    places = [place for place, path in enumerate(settings.MIDDLEWARE) if _is_ours(path)]
    found = [*_wrong_settings(), *_unknown_settings()]
    if places:
        found += [*_below(places[-1]), *_twice(len(places)), *_of_no_use()]
    return found


def _is_ours(path: str) -> bool:
    if path == MIDDLEWARE:
        return True
    try:
        found, own = import_string(path), import_string(MIDDLEWARE)
    except Exception:  # whatever its module raises: Django says that itself, and better
        return False
    return isinstance(found, type) and issubclass(found, own)


def _wrong_settings() -> Iterator[CheckMessage]:
    for name, problem in request_settings.problems(settings).items():
        page = "units" if name in _MIDDLEWARES else "health"
        yield Error(problem, hint=f"Docs: docs/{page}.rst.", obj=name, id="resilient_pg.E301")


def _unknown_settings() -> Iterator[CheckMessage]:
    for name, near in request_settings.unknown(settings).items():
        hint = f"Did you mean {near}?" if near else "Remove it."
        yield Warning(f"There is no setting {name}.", hint=hint, obj=name, id="resilient_pg.W302")


def _below(place: int) -> Iterator[CheckMessage]:
    below = settings.MIDDLEWARE[place + 1 :]
    if below:
        names = ", ".join(f'"{path}"' for path in below)
        yield Warning(
            "RequestRetryMiddleware should be the last of MIDDLEWARE: whatever is below it runs"
            f" twice when a request is replayed: {names}.",
            hint="Move it to the end of MIDDLEWARE.",
            id="resilient_pg.W301",
        )


def _twice(times: int) -> Iterator[CheckMessage]:
    if times > 1:
        yield Warning(
            f"RequestRetryMiddleware is in MIDDLEWARE {times} times; only the first one acts.",
            hint="Keep one, as the last of MIDDLEWARE.",
            id="resilient_pg.W303",
        )


def _of_no_use() -> Iterator[CheckMessage]:
    if not ours():
        yield Warning(
            "RequestRetryMiddleware never runs a request again: no database has the engine"
            ' "django_resilient_pg".',
            hint='Set "ENGINE" of a database to "django_resilient_pg", or remove the middleware.',
            id="resilient_pg.W304",
        )
