"""When a request may be replayed, and why not. Knows no HTTP handlers: the middleware wires it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any

from django.db import connections
from django.db.utils import Error
from django.http import HttpRequest
from django.utils.connection import ConnectionDoesNotExist

from ..decorators import marked
from ..driver.exceptions import chain_of, judge_error
from ..driver.link import IN_TRANSACTION, Link
from ..driver.literals import told_by_texts
from ..errors import CommitOutcomeUnknown, ServerDown
from ..policy import messages
from ..policy.verdicts import Phase
from ..recovery.catalogue import why_may_write
from ..sql.statements import STANDARD_STRINGS, Kind, Statement, analyse, read_well
from ..state.aliases import is_ours
from ..state.session import Session
from ..state.transaction import MANUAL
from ..state.unit_of_work import Unit
from ..state.wrapper import Wrapper
from .other_engines import used
from .snapshot import Snapshot

# They change the session only: on a new one they have to be repeated.
_SESSION_WORDS = frozenset({"SET", "RESET"})
_SAVEPOINT = "django_resilient_pg_question"


def unreachable(error: BaseException | None, *, but: BaseException | None = None) -> bool:
    """Whether an error means that the server could not be reached at all; ``but``: see chain_of."""
    for one in chain_of(error, but=but):
        if isinstance(one, CommitOutcomeUnknown):
            return False
        if isinstance(one, ServerDown):
            return True
        if getattr(one, "not_connected", False):
            waited_for = getattr(one, "transient", False)
            return waited_for or judge_error(None, one, Phase.CONNECT).transient
    return False


def mark_of(request: HttpRequest, method: str | None) -> bool | None:
    """Whether the request's view is marked for this method; ``None``: it is not."""
    return marked(request.resolver_match.func if request.resolver_match else None, method)


def may_ever(request: HttpRequest, method: str | None, methods: Collection[str]) -> bool:
    """Whether the request's view and method allow it to be replayed at all.

    Args:
        request: its URL has been resolved.
        method: that it came to its view with; the view may have set another.
        methods: that may be replayed without a mark.
    """
    mark = mark_of(request, method)
    return method in methods if mark is None else mark


def why_not(
    request: HttpRequest,
    unit: Unit,
    snapshot: Snapshot,
    method: str | None,
    methods: Collection[str],
) -> str:
    """Why a failed request must not be replayed, or "" if it may be; see :func:`may_ever`."""
    if not may_ever(request, method, methods):
        if mark_of(request, method) is False:
            return "its view is marked @not_replayable"
        return f"its method is {method} and its view is not marked @replayable"
    if not snapshot.body_is_there():
        return "its body was a stream, which cannot be read twice"
    if snapshot.session_was_saved():
        return "it changed or removed the key of its session"
    return _open_transaction() or why_lasting(unit) or _why_locked_anywhere()


def _open_transaction() -> str:
    """Whether a transaction is open that began before the request (a test's), or ""."""
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            return f'it ran inside a transaction on "{connection.alias}" that had begun before it'
        if _in_manual(connection):
            return f'a transaction on "{connection.alias}" was begun without atomic()'
    return ""


def _in_manual(connection: Any) -> bool:
    """Whether a transaction may be open outside of atomic(): nobody knows who has begun it."""
    if is_ours(connection) and connection._transaction.phase is MANUAL:
        return True
    return connection.connection is not None and not connection.autocommit


def why_lasting(unit: Unit, *, ask: bool = True) -> str:
    """What the request did that a replay would double, or "".

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
        return f'it ran statements on "{alias}" whose effect is not known'
    for alias, texts in unit.texts.copy().items():
        if why := _why_texts(alias, texts.copy(), ask=ask):
            return why
    return ""


def _why_locked_anywhere() -> str:
    own = [one for one in connections.all(initialized_only=True) if is_ours(one)]
    return next(filter(None, map(why_locked, own)), "")


def why_locked(db: Wrapper) -> str:
    """Whether a session lost on this alias may still hold locks that a second run would meet.

    Connects, which ends it, if that has not been done.
    """
    if not any(one.holds for one in db._connector.lost):
        return ""
    try:
        db.ensure_connection()
    except Error:
        return ""  # nothing can run, and the next connection asks
    whys = (one.why for one in db._connector.lost if one.holds and one.why)
    return next((messages.not_ended(db.alias, why) for why in whys), "")


def why_open(others: Collection[Wrapper], hooks: Mapping[str, int]) -> str:
    """What was run in transactions that stay open, and would be there twice, or "".

    Args:
        others: their connections.
        hooks: how many ``on_commit`` hooks waited there before, by alias.
    """
    for one in others:
        if len(one.run_on_commit) > hooks.get(one.alias, 0):
            return f'it has registered on_commit hooks in the transaction open on "{one.alias}"'
        if one._link is not None and one._link.connection is one.connection:
            one._observe(one._link)  # what began past Django's cursors shows in the driver alone
        ran = one._transaction.texts
        texts = {text for text in ran if isinstance(text, str)}
        if len(texts) != len(ran) or _why_texts(one.alias, texts, over=False):
            return f'it has written in the transaction that is open on "{one.alias}", or may have'
    return ""


def _why_texts(alias: str, texts: Set[str], *, ask: bool = True, over: bool = True) -> str:
    """Whether one of these may have done more than read, or "".

    ``over``: the transactions that they ran in have ended.
    """
    if not all(_harmless(analyse(text)) for text in texts):
        return _wrote(alias)
    cannot = f'the database "{alias}" cannot be asked what its reads called'
    if not texts:
        return ""
    try:
        connection = connections[alias]
    except ConnectionDoesNotExist:  # of a copy under another name, or "__no_db__"
        return cannot
    if not is_ours(connection):
        return ""
    if not ask:
        return cannot
    try:
        if not connection.in_atomic_block:
            with connection.cursor():
                pass  # makes sure that it lives
        assert connection._link is not None
        link = connection._link
        if not (
            read_well(texts, link.parameter(STANDARD_STRINGS))
            and told_by_texts(texts, link.connection)
        ):
            return _wrote(alias)
        with connection.wrap_database_errors:
            return _asked(link, texts, over=over, alias=alias)
    except Error:
        return cannot


def _asked(link: Link, texts: Set[str], *, over: bool, alias: str) -> str:
    """Ask the catalogues; a transaction that is open there outlives their refusal."""
    if link.status() != IN_TRANSACTION:
        return why_may_write(link, texts, over=over, alias=alias)
    link.ask(f"SAVEPOINT {_SAVEPOINT}")
    try:
        return why_may_write(link, texts, over=over, alias=alias)
    finally:
        if not link.lost():
            link.ask(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            link.ask(f"RELEASE SAVEPOINT {_SAVEPOINT}")


def _wrote(alias: str) -> str:
    return f'it has written on "{alias}", or may have'


def _harmless(statement: Statement) -> bool:
    return statement.kind is Kind.READ or (
        statement.kind is Kind.OTHER and statement.keyword in _SESSION_WORDS
    )


def start_clean(unit: Unit) -> None:
    """Leave lost connections and open transactions behind, as at the start of a request.

    What a session held before ``unit`` began (the ``SET`` of an outer middleware) the next one is
    given again, or every statement on it raises.
    """
    own = [
        one
        for one in connections.all(initialized_only=True)
        if not (one.in_atomic_block or _in_manual(one))
    ]
    held = [
        (one, unit.sessions.get(one.alias) or one._session.held()) for one in own if is_ours(one)
    ]
    for connection, before in held:
        if before != connection._session.held():
            # The request has changed it.
            if connection._pooled and connection._link is not None:
                connection._link.close()  # or the pool would hand it out as it is
            connection.close()
    for one in own:
        # Not the others, whatever their age: middlewares above may hold locks on them.
        if one.connection is not None and one.errors_occurred and not one.is_usable():
            one.close()
    for connection, before in held:
        if connection.connection is None:
            connection._start_session_of(Session.of(before))
