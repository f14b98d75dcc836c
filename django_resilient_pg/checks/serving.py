"""System checks of how a project is served: ASGI, and the ``credentials`` option.

They look at settings only and never connect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from ..state.aliases import ours


def register() -> None:
    """Enter the checks into Django's registry; once more changes nothing."""
    checks.register(check_credentials)
    checks.register(check_asgi, deploy=True)


def check_asgi(app_configs: Sequence[Any] | None, **_: object) -> list[CheckMessage]:
    """Whether connections are to be kept where nothing would use them again (``--deploy``)."""
    if not getattr(settings, "ASGI_APPLICATION", None):
        return []
    return [
        Warning(
            f'Under ASGI each request has a thread of its own: connections of "{one.alias}" are'
            f" closed with their request, whatever CONN_MAX_AGE"
            f" ({one.settings_dict['CONN_MAX_AGE']}) says.",
            hint='Set CONN_MAX_AGE to 0 and OPTIONS["pool"] (psycopg 3), which keeps them.',
            obj=one.alias,
            id="resilient_pg.W311",
        )
        for one in ours()
        if one.settings_dict["CONN_MAX_AGE"] != 0
    ]


def check_credentials(app_configs: Sequence[Any] | None, **_: object) -> list[CheckMessage]:
    """Whether there is a callable at each ``credentials``. It is not called."""
    return [problem for one in ours() for problem in _without_callable(one)]


def _without_callable(one: Any) -> Iterator[CheckMessage]:
    from ..state.credentials import find

    try:
        path = one.resilience.options.credentials
    except ImproperlyConfigured:  # another matter; said before the first connection
        return
    try:
        if path:
            find(one.alias, path)
    except ImproperlyConfigured as error:
        yield Error(
            str(error), hint="Docs: docs/options.rst.", obj=one.alias, id="resilient_pg.E312"
        )
