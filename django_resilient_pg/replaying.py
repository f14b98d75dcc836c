"""When a request may be run again, and how it is made as new as before its view.

Pure of HTTP handlers: the middleware wires it.
"""

from __future__ import annotations

import copy
import io
from typing import Any, Final

from django.db import connections
from django.db.utils import Error
from django.http import HttpRequest

from .decorators import marked
from .errors import CommitOutcomeUnknown
from .mixins import ResilientDatabaseMixin
from .statements import Kind, analyse
from .units import Unit
from .volatility import why_volatile

SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")


def lost(error: BaseException | None) -> bool:
    """Whether an error comes from a lost connection, by itself or by what caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, CommitOutcomeUnknown):
            return False
        if getattr(error, "connection_lost", False):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def why_not(request: HttpRequest, unit: Unit, methods: tuple[str, ...]) -> str:
    """Why a failed request must not be run again, or "" if it may be."""
    view = request.resolver_match.func if request.resolver_match else None
    mark = marked(view)
    if mark is False:
        return "its view is marked @not_replayable"
    if mark is None and request.method not in methods:
        return f"its method is {request.method} and its view is not marked @replayable"
    if not _body_is_there(request):
        return "its body was a stream and is gone"
    return _why_lasting(unit)


def _body_is_there(request: HttpRequest) -> bool:
    """Whether what the view has read of the body can be read again."""
    return hasattr(request, "_body") or not getattr(request, "_read_started", False)


def _why_lasting(unit: Unit) -> str:
    """What the request did that doing it again would double, or ""."""
    if unit.hooks:
        return f"{unit.hooks} on_commit hooks have run"
    if unit.overflowed:
        return "it has run too much to tell what took effect"
    statements = [analyse(text) for text in unit.texts]
    if any(statement.kind is not Kind.READ for statement in statements):
        return "it has written, or may have"
    return _why_calls(frozenset().union(*(statement.functions for statement in statements)))


def _why_calls(functions: frozenset[str]) -> str:
    """Whether its reads called something that may do more than read; asked of every alias."""
    for connection in _resilient():
        try:
            connection.ensure_connection()
            assert connection._link is not None
            with connection.wrap_database_errors:
                why = why_volatile(connection._link, functions)
        except Error:
            return f'the database "{connection.alias}" cannot be asked what its reads called'
        if why:
            return why
    return ""


def start_clean() -> None:
    """Leave lost connections and transactions behind, as at the start of a request."""
    for connection in _resilient():
        connection.close_if_unusable_or_obsolete()


def _resilient() -> list[ResilientDatabaseMixin]:
    every = connections.all(initialized_only=True)
    return [one for one in every if isinstance(one, ResilientDatabaseMixin)]


class Snapshot:
    """A request as it was before its view, to be put back before it is run again."""

    def __init__(self, request: HttpRequest) -> None:
        self._attributes = dict(request.__dict__)
        self._parts = {
            name: _state(self._attributes[name])
            for name in ("session", "_messages")
            if name in self._attributes
        }

    def restore(self, request: HttpRequest) -> None:
        """Put attributes, session and messages back; a body that was read stays readable."""
        body = request.__dict__.get("_body")
        request.__dict__.clear()
        request.__dict__.update(self._attributes)
        for name, state in self._parts.items():
            part = self._attributes[name].__dict__
            part.clear()
            part.update(_copied(state))
        if body is not None:
            request.__dict__.update(_body=body, _stream=io.BytesIO(body))


def _state(part: Any) -> dict[str, Any]:
    return _copied(part.__dict__)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """Containers are copied, what they hold of Django's own objects is not."""
    return {
        name: copy.deepcopy(value) if isinstance(value, (dict, list)) else value
        for name, value in state.items()
        if name != "request"
    } | {name: value for name, value in state.items() if name == "request"}
