"""Every method of Django's classes is called as often as on Django's engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FunctionType
from typing import Any

import pytest
from django.db import transaction
from django.db.backends import utils
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql import base as postgresql
from django.db.utils import DatabaseErrorWrapper

from django_resilient_pg.mixins import ResilientDatabaseMixin
from tests.engines import RESILIENT, STOCK, copy_out
from tests.server.patched.uses import (
    called,
    chunked,
    chunked_and_iterated,
    counted,
    failed,
    fresh,
    many,
    plain,
    replaced,
)
from tests.server.scenarios import TABLE, Stage


@pytest.fixture
def both(stages: dict[str, Stage]) -> dict[str, Stage]:
    return {engine: fresh(stage) for engine, stage in stages.items()}


def iterated(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        list(cursor)


def copied(stage: Stage) -> None:
    with stage.connection.cursor() as cursor:
        copy_out(cursor, f"COPY {TABLE} TO STDOUT")


def nested(stage: Stage) -> None:
    with stage.atomic():
        with stage.atomic():
            plain(stage)
        with suppress(KeyError), stage.atomic():
            plain(stage)
            raise KeyError
        transaction.on_commit(lambda: None, using=stage.connection.alias)


def rolled_back(stage: Stage) -> None:
    with suppress(KeyError), stage.atomic():
        plain(stage)
        raise KeyError


def manual(stage: Stage) -> None:
    connection = stage.connection
    connection.set_autocommit(False)
    plain(stage)
    connection.commit()
    plain(stage)
    connection.rollback()
    connection.set_autocommit(True)


def asked(stage: Stage) -> None:
    connection: Any = stage.connection
    connection.get_autocommit()
    connection.on_commit(lambda: None)
    connection.is_usable()


USES = [
    plain,
    iterated,
    many,
    called,
    chunked,
    chunked_and_iterated,
    copied,
    nested,
    rolled_back,
    manual,
    asked,
    failed,
]
CLASSES = {
    "BaseDatabaseWrapper": BaseDatabaseWrapper,
    "DatabaseWrapper": postgresql.DatabaseWrapper,
    "CursorWrapper": utils.CursorWrapper,
    "CursorDebugWrapper": utils.CursorDebugWrapper,
    "postgresql.CursorDebugWrapper": postgresql.CursorDebugWrapper,
    "DatabaseErrorWrapper": DatabaseErrorWrapper,
}
#: Checks that do no harm where they are asked more often than by Django itself.
CHECKS = {"ensure_connection", "close_if_health_check_failed"}
#: Called at all where Django calls it: a server-side cursor has methods of its own for much of it.
SHORT_CUTS = {"__getattr__"}
#: This engine's own.
OWN = {"pool", "close_pool", "_configure_role"}
#: Asked, or entered, where there is an error only.
OWN |= {"validate_no_broken_transaction", "wrap_database_errors"}
OWN |= {"DatabaseErrorWrapper.__enter__", "DatabaseErrorWrapper.__exit__"}
OWN |= {"DatabaseErrorWrapper.__call__"}


def methods_of(owner: Any) -> dict[str, Callable[..., Any]]:
    return {name: it for name, it in vars(owner).items() if isinstance(it, FunctionType)}


def calls_of(stage: Stage, owner: Any, names: Iterable[str]) -> dict[str, list[int]]:
    """How often each use of a connection calls these, replaced by what only counts and calls them.

    Without the debug log, and with it.
    """
    found: dict[str, list[int]] = {name: [] for name in names}
    for debug in (False, True):
        stage.connection.force_debug_cursor = debug
        for use in USES:
            counts = {name: [0] for name in found}
            with pytest.MonkeyPatch.context() as patch:
                for name, count in counts.items():
                    patch.setattr(owner, name, counted(vars(owner)[name], count))
                use(stage)
            for name, count in counts.items():
                found[name] += count
    stage.connection.force_debug_cursor = False
    return found


def as_often(name: str, stock: list[int], ours: list[int]) -> bool:
    if name in CHECKS:
        return all(mine >= theirs for mine, theirs in zip(ours, stock, strict=True))
    if name in SHORT_CUTS:
        return all(bool(mine) == bool(theirs) for mine, theirs in zip(ours, stock, strict=True))
    return ours == stock


@pytest.mark.parametrize("of", CLASSES)
def test_every_method_is_called_as_often_as_by_the_stock_engine(
    of: str, both: dict[str, Stage]
) -> None:
    owner = CLASSES[of]
    names = {name for name in methods_of(owner) if not OWN & {name, f"{of}.{name}"}}
    used = {name for name, calls in calls_of(both[STOCK], owner, names).items() if any(calls)}
    differ: dict[str, Any] = {}
    for name in sorted(used):  # one by one: replaced together they might let each other be called
        stock, ours = (calls_of(stage, owner, [name])[name] for stage in both.values())
        if not as_often(name, stock, ours):
            differ[name] = {"stock": sum(stock), "ours": sum(ours)}
    assert differ == {}


@pytest.mark.parametrize("place", ["above", "below"])
def test_every_override_is_called_as_often_as_with_the_stock_engine(
    place: str, both: dict[str, Stage]
) -> None:
    """In an engine over this one, and in an engine that the mixin is composed with."""
    names = {*methods_of(BaseDatabaseWrapper), *methods_of(postgresql.DatabaseWrapper)}
    names -= OWN | {"__init__"}
    outer = {
        STOCK: overriding(postgresql.DatabaseWrapper, names),
        RESILIENT: overriding(type(both[RESILIENT].connection), names),
    }
    if place == "below":
        composed: Any = (ResilientDatabaseMixin, overriding(postgresql.DatabaseWrapper, names))
        outer[RESILIENT] = type("Composed", composed, {})
    told: dict[str, dict[str, list[int]]] = {}
    for engine, stage in both.items():
        with replaced(stage, outer[engine]) as other:
            told[engine] = overrides_of(other, names)
    differ = {
        name: {"stock": sum(told[STOCK][name]), "ours": sum(told[RESILIENT][name])}
        for name in sorted(names)
        if not as_often(name, told[STOCK][name], told[RESILIENT][name])
    }
    assert differ == {}


OVERRIDDEN: dict[str, list[int]] = {}


def overriding(inner: Any, names: set[str]) -> Any:
    """A subclass that overrides these methods, and counts its calls in ``OVERRIDDEN``."""

    def override(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            OVERRIDDEN.setdefault(name, [0])[0] += 1
            return getattr(super(made, self), name)(*args, **kwargs)

        return method

    made: Any = type("Overriding", (inner,), {name: override(name) for name in names})
    return made


def overrides_of(stage: Stage, names: set[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in names}
    for debug in (False, True):
        stage.connection.force_debug_cursor = debug
        for use in USES:
            OVERRIDDEN.clear()
            use(stage)
            for name in names:
                found[name].append(OVERRIDDEN.get(name, [0])[0])
    return found
