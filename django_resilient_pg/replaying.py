"""When a request may be run again, and why not. Pure of HTTP handlers: the middleware wires it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Set

from django.db import close_old_connections, connections
from django.db.utils import Error
from django.http import HttpRequest

from .decorators import marked
from .drivers import Link
from .errors import CommitOutcomeUnknown, ServerDown
from .foreign import used
from .losses import judge_error
from .mixins import ResilientDatabaseMixin
from .snapshots import Snapshot
from .statements import Kind, Statement, analyse
from .units import Unit
from .verdicts import Phase
from .volatility import why_volatile

# They change the session only: on a new one they have to be run again.
_SESSION_WORDS = frozenset({"SET", "RESET"})
_STANDARD_STRINGS = "standard_conforming_strings"


def lost(error: BaseException | None) -> bool:
    """Whether an error comes from a lost connection, by itself or by what caused it.

    Not if the outcome of a COMMIT is unknown: then nothing may be done again.
    """
    for one in _chain(error):
        if isinstance(one, CommitOutcomeUnknown):
            return False
        if getattr(one, "connection_lost", False):
            return True
    return False


def unreachable(error: BaseException | None) -> bool:
    """Whether an error means that the server could not be reached at all."""
    for one in _chain(error):
        if isinstance(one, CommitOutcomeUnknown):
            return False
        if isinstance(one, ServerDown):
            return True
        if getattr(one, "not_connected", False):
            return judge_error(None, one, Phase.CONNECT).transient
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def may_ever(request: HttpRequest, methods: Collection[str]) -> bool:
    """Whether the request's view and method allow it to be run again at all."""
    view = request.resolver_match.func if request.resolver_match else None
    mark = marked(view, request.method)
    return request.method in methods if mark is None else mark


def why_not(request: HttpRequest, unit: Unit, snapshot: Snapshot, methods: Collection[str]) -> str:
    """Why a failed request must not be run again, or "" if it may be."""
    if not may_ever(request, methods):
        view = request.resolver_match.func if request.resolver_match else None
        if marked(view, request.method) is False:
            return "its view is marked @not_replayable"
        return f"its method is {request.method} and its view is not marked @replayable"
    if not snapshot.body_is_there():
        return "its body was a stream and is gone"
    if snapshot.session_was_saved():
        return "it gave its session another key"
    return _open_transaction() or why_lasting(unit)


def _open_transaction() -> str:
    """Whether a transaction is open that began before the request (a test's), or ""."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            return f'it ran inside a transaction on "{connection.alias}" that it had not begun'
    return ""


def why_lasting(unit: Unit, *, ask: bool = True) -> str:
    """What the request did that doing it again would double, or "".

    Args:
        unit: of the request.
        ask: whether the databases can be asked what reads have called; else they may have written.
    """
    if unit.hooks:
        return f"{unit.hooks} on_commit hook{'s have' if unit.hooks > 1 else ' has'} run"
    for alias in sorted(used(unit.foreign)):
        return (
            f'it used the connection "{alias}", whose engine does not count what took effect;'
            ' give that alias the engine "django_resilient_pg" too'
        )
    for alias in sorted(unit.uncounted):
        return f'it ran statements on "{alias}" of which it cannot be told what they did'
    for alias, texts in unit.texts.copy().items():
        if why := _why_texts(alias, texts.copy(), ask=ask):
            return why
    return ""


def why_open(others: Collection[ResilientDatabaseMixin]) -> str:
    """What was run in transactions that stay open, and would be there twice, or ""."""
    for one in others:
        texts = {text for text in one._ran if isinstance(text, str)}
        if len(texts) != len(one._ran) or _why_texts(one.alias, texts, ask=False):
            return f'it has written in the transaction that is open on "{one.alias}", or may have'
    return ""


def _why_texts(alias: str, texts: Set[str], *, ask: bool) -> str:
    """Whether one of these may have done more than read, or ""."""
    wrote = f'it has written on "{alias}", or may have'
    statements = [analyse(text) for text in texts]
    if not all(_harmless(statement) for statement in statements):
        return wrote
    functions = frozenset[str]().union(*(one.functions for one in statements))
    escapes = any("\\" in text for text in texts)
    connection = connections[alias]
    if not (functions or escapes) or not isinstance(connection, ResilientDatabaseMixin):
        return ""
    cannot = f'the database "{alias}" cannot be asked what its reads called'
    if not ask:
        return cannot
    try:
        if not connection.in_atomic_block:
            with connection.cursor():
                pass  # makes sure that it lives
        assert connection._link is not None
        if escapes and not _plain_backslashes(connection._link, texts):
            return wrote
        with connection.wrap_database_errors:
            return why_volatile(connection._link, functions)
    except Error:
        return cannot


def _harmless(statement: Statement) -> bool:
    return statement.kind is Kind.READ or (
        statement.kind is Kind.OTHER and statement.keyword in _SESSION_WORDS
    )


def _plain_backslashes(link: Link, texts: Set[str]) -> bool:
    """Whether a backslash in a plain string was nothing but that, so that texts were read well."""
    if link.parameter(_STANDARD_STRINGS) != "on":
        return False
    return not any(_STANDARD_STRINGS in text.lower() for text in texts)


def start_clean(unit: Unit) -> None:
    """Leave lost connections and open transactions behind, as at the start of a request.

    What a session held before ``unit`` began (the ``SET`` of an outer middleware) the next one is
    given again, or every statement on it raises.
    """
    held = [
        (connection, connection._session.before(unit.budget))
        for connection in connections.all(initialized_only=True)
        if isinstance(connection, ResilientDatabaseMixin) and not connection.in_atomic_block
    ]
    for connection, before in held:
        if before is not connection._session:
            connection.close()  # the request has changed it
    close_old_connections()
    for connection, before in held:
        if connection.connection is None:
            connection._session = before.gone()
