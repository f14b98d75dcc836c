"""Gathering a survey: once, and everything in it.

A default survey makes three connections (one that sends nothing, one for TLS, one that logs in)
and eight round trips after the login (nine with ``assume_role``, one more where the server refuses
the first); behind a pooler it logs in up to three times more.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from dataclasses import replace
from typing import Any, Final

import django
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ...conf.options import Options, given, parse
from ...conf.secrets import slip
from ...driver.link import Link
from ...facts import Path
from ...policy.limits import Limits, limits
from ...policy.lookup import Lookup
from ...state.aliases import load
from ..path import client_certificates, poolers, server
from ..path.attempts import Connector, libpq_version
from ..path.network import answer
from ..path.poolers import Pooler
from ..path.settings_errors import cause, parameters
from ..path.stages import TIMEOUT, refused_settings, walk
from ..settings.project import keepalives_asked, kernel_keepalives, project
from ..settings.target import Target, target
from .survey import Survey

_ENGINES: Final = (
    "django.db.backends.postgresql",
    "django.contrib.gis.db.backends.postgis",
    "django_resilient_pg",
    "django_resilient_pg.postgresql",
    "django_resilient_pg.postgis",
)
# What Django makes of the entry itself.
_ENTRY: Final = frozenset({"dbname", "host", "password", "port", "service", "user"})
# Said, lest nothing found be taken for nothing there.
_NOT_LOOKED_AT: Final = Pooler(None, "The pooler did not answer in time.")


def from_settings(alias: str) -> Survey:
    """What the settings alone tell. Nothing is connected to.

    Raises:
        ConnectionDoesNotExist: there is no such alias.
    """
    wrapper, error = load(alias)
    entry = connections.settings[alias] if wrapper is None else wrapper.settings_dict
    params: dict[str, Any] = {}
    if error is not None:
        refused = _not_loaded(str(entry["ENGINE"]), error)
    else:
        params, refused = parameters(wrapper)
    return Survey(
        alias=alias,
        project=project(entry, resilient=hasattr(wrapper, "resilience")),
        target=Target(alias, (), "", "") if refused else _target(wrapper, params),
        asked=keepalives_asked(params),
        kernel=kernel_keepalives(),
        options=Options() if refused else _options(wrapper),
        refused=refused,
        driver="none is loaded" if wrapper is None else _driver(wrapper),
        libpq=0 if wrapper is None else libpq_version(wrapper),
    )


def _target(wrapper: BaseDatabaseWrapper, params: dict[str, Any]) -> Target:
    psycopg3 = hasattr(wrapper.Database, "pq")  # type: ignore[attr-defined]
    own = hasattr(wrapper, "resilience")
    # What this package's engine adds to the user's parameters.
    added = params.keys() - wrapper.settings_dict["OPTIONS"].keys() - _ENTRY if own else ()
    return target(wrapper.alias, params, os.environ, psycopg3=psycopg3, added=added)


def _not_loaded(engine: str, error: Exception) -> str:
    wrong = slip("ENGINE", engine)
    if wrong:
        return wrong
    near = difflib.get_close_matches(engine, _ENGINES, 1)
    meant = f' Did you mean "{near[0]}"?' if near and near[0] != engine else ""
    why = cause(error.__cause__ or error)
    return f'ENGINE is "{engine}", which cannot be loaded: {why}.{meant}'


def survey(alias: str, timeout: float = TIMEOUT) -> Survey:
    """Everything that can be known; each step gives up after ``timeout`` seconds."""
    known = from_settings(alias)
    if known.refused:
        return replace(known, walk=refused_settings(known.target, known.refused))
    wrapper = connections[alias]
    connect = Connector.of(wrapper)
    passphrase = Lookup(wrapper.get_connection_params(), os.environ).text("sslpassword")
    seen: dict[str, Any] = {}
    way = walk(
        known.target,
        connect,
        timeout,
        primary=bool(known.options.primary),
        assume_role=wrapper.settings_dict["OPTIONS"].get("assume_role") or "",
        examine=lambda link: _examine(known.target, connect, link, timeout, seen),
    )
    if way.facts is not None and way.facts.path is Path.POOLER:
        seen.setdefault("pooler", _NOT_LOOKED_AT)
    client = client_certificates.read(known.target, passphrase)
    found = replace(known, walk=way, target=way.target, client=client, **seen)
    return replace(found, limits=_limits(wrapper, found))


def _examine(
    aim: Target, connect: Connector, link: Link, timeout: float, found: dict[str, Any]
) -> None:
    """Ask the open session; whatever it does not answer in time stays unknown."""

    def ask() -> None:
        # At once: what comes after it may take too long.
        found["server"] = server.ask(link)
        found["activity"] = server.activity(link)
        [(process,)] = link.ask("SELECT pg_catalog.pg_backend_pid()")
        if link.backend_pid() and process != link.backend_pid():
            found["pooler"] = poolers.look(aim, connect, link)

    # The last three: answers of the wrong shape.
    errors = (TimeoutError, link.connection.Error, ValueError, TypeError, LookupError)
    with contextlib.suppress(*errors):
        answer(ask, link.fd, timeout)
        found["large"] = _large(link, timeout)


def _large(link: Link, timeout: float) -> bool | None:
    """Whether large packets get through; ``None``: not known."""
    try:
        return answer(lambda: server.large(link), link.fd, timeout) or None
    except TimeoutError:
        return False


def _limits(wrapper: BaseDatabaseWrapper, found: Survey) -> Limits | None:
    """As the engine sets them: by the same function, from the same facts."""
    if found.facts is None:
        return None
    resilience = getattr(wrapper, "resilience", None)
    learned = resilience.shared.learned.value() if resilience is not None else None
    return limits(found.options, found.facts, learned, found.project.conn_max_age)


def _options(wrapper: BaseDatabaseWrapper) -> Options:
    if not hasattr(wrapper, "resilience"):
        return Options()
    return parse(wrapper.alias, given(wrapper.alias, wrapper.settings_dict["OPTIONS"]))


def _driver(wrapper: BaseDatabaseWrapper) -> str:
    module = wrapper.Database  # type: ignore[attr-defined]
    version = str(module.__version__).partition(" ")[0]
    return f"{module.__name__} {version}, Django {django.get_version()}"
