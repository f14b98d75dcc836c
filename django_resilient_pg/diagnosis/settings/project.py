"""What the project's Django settings say about one alias. Nothing connects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import router

from ...conf.secrets import NOT_SHOWN, slip
from ...facts import SocketOptions
from ...policy.lookup import Lookup
from .libpq_numbers import whole

#: libpq's own parameters for keepalives, in the order of :class:`SocketOptions`.
KEEPALIVES = (
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
_SYSCTL = "/proc/sys/net/ipv4/tcp_keepalive_"


@dataclass(frozen=True, slots=True)
class Project:
    """The settings of one alias, and of the project around it. Times are in seconds.

    Attributes:
        engine: ENGINE.
        resilient: whether this package's engine serves the alias.
        conn_max_age: ``None``: unlimited.
        health_checks: CONN_HEALTH_CHECKS.
        pool: the pool's numbers, ``None`` without one.
        atomic_requests: ATOMIC_REQUESTS.
        server_side_cursors: not DISABLE_SERVER_SIDE_CURSORS.
        prepare_threshold: psycopg 3's, ``None``: statements are not prepared.
        serving: "ASGI", "WSGI", "ASGI or WSGI" (both are configured) or "unknown".
        middleware: those of this package in MIDDLEWARE.
        routed: whether DATABASE_ROUTERS may send reads and writes to different aliases.
        options: the names in OPTIONS.
    """

    engine: str
    resilient: bool
    conn_max_age: float | None
    health_checks: bool
    pool: Mapping[str, Any] | None
    atomic_requests: bool
    server_side_cursors: bool
    prepare_threshold: int | None
    serving: str
    middleware: tuple[str, ...]
    routed: bool
    options: tuple[str, ...]


def project(entry: Mapping[str, Any], *, resilient: bool) -> Project:
    """Read an entry of DATABASES; what is of a wrong type counts as not given."""
    given, age = entry.get("OPTIONS"), entry.get("CONN_MAX_AGE", 0)
    options: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    pool = options.get("pool")
    engine = str(entry.get("ENGINE"))
    return Project(
        engine=NOT_SHOWN if slip("ENGINE", engine) else engine,
        resilient=resilient,
        conn_max_age=age if age is None or isinstance(age, (int, float)) else 0,
        health_checks=bool(entry.get("CONN_HEALTH_CHECKS")),
        pool=_pool(pool),
        atomic_requests=bool(entry.get("ATOMIC_REQUESTS")),
        server_side_cursors=not entry.get("DISABLE_SERVER_SIDE_CURSORS"),
        prepare_threshold=whole(str(options.get("prepare_threshold"))),
        serving=_serving(),
        middleware=tuple(m for m in settings.MIDDLEWARE if m.startswith("django_resilient_pg.")),
        routed=bool(router.routers),
        options=tuple(sorted(map(_name, options))),
    )


def _name(option: object) -> str:
    """A whole URL may have become one."""
    name = str(option)
    return NOT_SHOWN if slip("OPTIONS", name) else name


def _pool(pool: object) -> Mapping[str, Any] | None:
    """Its numbers only: its ``kwargs`` may hold a password."""
    if not pool:
        return None
    given = pool if isinstance(pool, Mapping) else {}
    return {name: value for name, value in given.items() if isinstance(value, (int, float))}


def _serving() -> str:
    """How requests are served. ``startproject`` configures WSGI, and ASGI only by a file."""
    if {"daphne", "channels"} & set(settings.INSTALLED_APPS):
        return "ASGI"
    asgi = bool(getattr(settings, "ASGI_APPLICATION", None))
    wsgi = bool(getattr(settings, "WSGI_APPLICATION", None))
    both = {(True, True): "ASGI or WSGI", (True, False): "ASGI", (False, True): "WSGI"}
    return both.get((asgi, wsgi), "unknown")


def keepalives_asked(params: Mapping[str, Any]) -> dict[str, int | None]:
    """What libpq gets, from a parameter or the service file; ``None``: nothing."""
    section = Lookup(params, os.environ).section
    return {
        name: whole(str(section.get(name) if params.get(name) is None else params[name]))
        for name in KEEPALIVES
    }


def keepalives_expected(asked: Mapping[str, int | None], kernel: SocketOptions) -> SocketOptions:
    """What will be on the socket: 0 and nothing mean the kernel's own.

    libpq sets the user timeout only together with keepalives.
    """
    on = asked["keepalives"] != 0
    timeout = asked["tcp_user_timeout"] if on else 0
    return SocketOptions(
        keepalives=on,
        keepalives_idle=asked["keepalives_idle"] or kernel.keepalives_idle,
        keepalives_interval=asked["keepalives_interval"] or kernel.keepalives_interval,
        keepalives_count=asked["keepalives_count"] or kernel.keepalives_count,
        user_timeout=(timeout or 0) / 1000,
    )


def kernel_keepalives() -> SocketOptions:
    """This machine's (or container's) own settings; Linux' defaults where they cannot be read."""
    return SocketOptions(
        keepalives=True,
        keepalives_idle=float(_sysctl("time", 7200)),
        keepalives_interval=float(_sysctl("intvl", 75)),
        keepalives_count=_sysctl("probes", 9),
        user_timeout=0.0,
    )


def _sysctl(name: str, default: int) -> int:
    try:
        with open(_SYSCTL + name, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return default
