"""An engine over this one is called as often as over Django's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_resilient_pg.transaction import retry_atomic
from tests.engines import OURS, RESILIENT, STOCK
from tests.server.scenarios import Stage
from tests.server.state.losing import Stages

pytestmark = pytest.mark.once_per_driver
HOOKS = (
    "_commit",
    "_rollback",
    "_savepoint",
    "_savepoint_commit",
    "_savepoint_rollback",
    "commit",
    "rollback",
    "on_commit",
)


def counting(stage: Stage, calls: Counter[str]) -> Stage:
    """The same alias on an engine that overrides what Django's transactions call."""
    inner: Any = type(stage.connection)

    def counted(name: str) -> Callable[..., Any]:
        def hook(self: BaseDatabaseWrapper, *args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return getattr(super(outer, self), name)(*args, **kwargs)

        return hook

    outer: Any = type("Outer", (inner,), {name: counted(name) for name in HOOKS})
    stage.connection.close()
    connections[stage.connection.alias] = outer(
        stage.connection.settings_dict, stage.connection.alias
    )
    return Stage(stage.server, connections[stage.connection.alias], stage.database)


def writes(stage: Stage) -> None:
    stage.insert("x")


def nests(stage: Stage) -> None:
    with stage.atomic():
        stage.insert("x")


def rolls_back_inside(stage: Stage) -> None:
    with pytest.raises(KeyError), stage.atomic():
        stage.insert("dropped")
        raise KeyError
    stage.insert("x")


def defers(stage: Stage) -> None:
    stage.insert("x")
    transaction.on_commit(lambda: None, using=stage.connection.alias)


def by_atomic(stage: Stage, work: Callable[[Stage], None]) -> None:
    with stage.atomic():
        work(stage)


def by_retry_atomic(stage: Stage, work: Callable[[Stage], None]) -> None:
    retry_atomic.run(lambda: work(stage), using=stage.connection.alias)


def by_request(stage: Stage, work: Callable[[Stage], None]) -> None:
    requested.append(lambda: by_atomic(stage, work))
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[OURS], ALLOWED_HOSTS=["*"]):
        assert Client().post("/").status_code == 200


def by_commit(stage: Stage, work: Callable[[Stage], None]) -> None:
    stage.connection.set_autocommit(False)
    work(stage)
    stage.connection.commit()
    stage.connection.set_autocommit(True)


requested: list[Callable[[], None]] = []


def view(request: HttpRequest) -> HttpResponse:
    requested.pop()()
    return HttpResponse()


urlpatterns = [path("", view)]


@pytest.mark.parametrize("work", [writes, nests, rolls_back_inside, defers])
@pytest.mark.parametrize("unit", [by_atomic, by_retry_atomic, by_request])
def test_an_engine_above_is_called_as_often_as_above_the_stock_engine(
    unit: Callable[..., None], work: Callable[[Stage], None], stage_of: Stages
) -> None:
    told: dict[str, Counter[str]] = {STOCK: Counter(), RESILIENT: Counter()}
    for engine, calls in told.items():
        stage = counting(stage_of(engine), calls)
        (by_atomic if engine == STOCK else unit)(stage, work)
        stage.connection.close()
    assert told[STOCK]["_commit"] == 1
    assert told[RESILIENT] == told[STOCK]


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_an_engine_above_is_called_once_by_commit(engine: str, stage_of: Stages) -> None:
    calls: Counter[str] = Counter()
    stage = counting(stage_of(engine), calls)
    by_commit(stage, writes)
    stage.connection.close()
    assert calls == {"_commit": 1, "commit": 1}


def test_an_engine_above_is_called_once_for_each_attempt(stage_of: Stages) -> None:
    """The first attempt is lost before its COMMIT, and so has none."""
    calls: Counter[str] = Counter()
    stage = counting(stage_of(), calls)
    attempts: list[int] = []

    def work(stage: Stage) -> None:
        attempts.append(1)
        stage.insert("x")
        if len(attempts) == 1:
            stage.kill()
        stage.run("SELECT 1")

    by_retry_atomic(stage, work)
    stage.connection.close()
    assert (len(attempts), stage.rows()) == (2, ["x"])
    assert calls["_commit"] == 1
