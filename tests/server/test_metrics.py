"""A kill storm: what is scraped and exported is what the engine has announced and counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import Error, connections, transaction
from django.dispatch import Signal
from django.test import Client, override_settings
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from django_resilient_pg import resilience_of, signals
from django_resilient_pg.metrics import prometheus
from django_resilient_pg.testing import Outage
from django_resilient_pg.transaction import retry_atomic
from testproject.postgres import Server
from tests.engines import OURS, Connections, backend_pid
from tests.server.request_views import faults, runs

pytestmark = pytest.mark.once_per_driver

PREFIX = "django_resilient_pg_"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(registry: CollectorRegistry) -> Samples:
    """What a scrape says that is not zero, without the prefix."""
    text = generate_latest(registry).decode()
    return {
        (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.value and not sample.name.endswith(("_created", "_bucket", "_sum"))
    }


class Ledger:
    """What the signals said, counted by nobody but this test."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self._signals = {
            name: one for name, one in vars(signals).items() if isinstance(one, Signal)
        }
        self._receivers = {name: self._receiver(name) for name in self._signals}
        for name, one in self._signals.items():
            one.connect(self._receivers[name], weak=False)

    def _receiver(self, name: str) -> Callable[..., None]:
        return lambda record, **_: self.heard.append((name, record))

    def close(self) -> None:
        for name, one in self._signals.items():
            one.disconnect(self._receivers[name])

    def expected(self) -> Samples:
        """As a scrape has it."""
        found: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
        for name, record in self.heard:
            for metric, labels in _samples(name, record):
                found[metric, frozenset(labels.items())] += 1
        return dict(found)


def _samples(name: str, record: Any) -> Iterator[tuple[str, dict[str, str]]]:
    alias = {"alias": getattr(record, "alias", "")}
    if name == "connection_lost":
        outcome = alias | {"outcome": "healed" if record.healed else "surfaced"}
        reason = {"reason": record.reason.value}
        yield "connections_lost_total", outcome | reason
        yield "loss_seconds_count", outcome
        yield "idle_before_loss_seconds_count", alias | reason
    elif name == "connection_replaced":
        reason = {"reason": record.reason.value if record.reason else "idle_limit"}
        yield "connections_replaced_total", alias | reason
        yield "reconnect_seconds_count", alias
    elif name == "connect_retried":
        yield "connects_retried_total", alias
    elif name == "statement_retried":
        yield "statements_retried_total", alias | {"why": record.why}
    elif name == "transaction_retried":
        conflict = record.sqlstate in ("40001", "40P01")
        yield "transactions_retried_total", alias | {"cause": "conflict" if conflict else "loss"}
    else:
        yield "requests_replayed_total", {"method": record.method}


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with closing(Ledger()) as made:
        yield made


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    made = CollectorRegistry()
    unregister = prometheus.register(made)
    yield made
    unregister()


def storm(server: Server, aliases: list[str], rounds: int = 8) -> None:
    """Threads work while all sessions are terminated again and again."""
    over = threading.Event()

    def work(alias: str) -> None:
        connection = connections[alias]
        while not over.is_set():
            with suppress(Error):
                _work(alias)
        connection.close()

    threads = [threading.Thread(target=work, args=[alias]) for alias in aliases]
    for thread in threads:
        thread.start()
    try:
        for _ in range(rounds):
            over.wait(0.05)
            server.terminate_all()
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _work(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("SELECT pg_sleep(0.005)")
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("SELECT pg_sleep(0.005)")
    retry_atomic.run(lambda: _read_twice(alias), using=alias)


def _read_twice(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("SELECT pg_sleep(0.005)")


def test_a_scrape_equals_the_ledger_of_a_kill_storm(
    server: Server, make_connection: Connections, registry: CollectorRegistry, ledger: Ledger
) -> None:
    aliases = [make_connection().alias for _ in range(2)]
    storm(server, aliases * 2)
    found = scraped(registry)
    assert found == ledger.expected()
    for alias in aliases:
        _equals_stats(found, alias)


def _total(found: Samples, name: str, **labels: str) -> float:
    wanted = frozenset(labels.items())
    return sum(value for (one, has), value in found.items() if one == name and wanted <= has)


def _equals_stats(found: Samples, alias: str) -> None:
    stats = resilience_of(alias).stats
    for reason, count in stats.lost.items():
        value = signals.Reason[reason].value
        assert _total(found, "connections_lost_total", alias=alias, reason=value) == count
    assert stats.lost
    for outcome in ("healed", "surfaced"):
        lost = _total(found, "connections_lost_total", alias=alias, outcome=outcome)
        assert lost == getattr(stats, outcome)
    assert _total(found, "connections_replaced_total", alias=alias) == stats.replaced
    assert _total(found, "connects_retried_total", alias=alias) == stats.connect_retries
    for why, count in stats.statement_retries.items():
        assert _total(found, "statements_retried_total", alias=alias, why=why) == count
    retried = stats.retried.get("transaction", 0)
    assert _total(found, "transactions_retried_total", alias=alias) == retried


def test_several_processes_are_one_scrape(server: Server, tmp_path: Path) -> None:
    """PROMETHEUS_MULTIPROC_DIR, and the one line in INSTALLED_APPS."""
    environ = {
        **os.environ,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        "METERED_DATABASE": json.dumps(server.database()),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-m", "tests.server.metered"]
    processes = [
        subprocess.Popen([*command, str(times)], env=environ, stdout=subprocess.PIPE, text=True)
        for times in (1, 2)
    ]
    said: Counter[str] = Counter()
    for process in processes:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        said.update(json.loads(out))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))  # type: ignore[no-untyped-call]
    found = scraped(registry)
    healed = _total(found, "connections_lost_total", alias="default", outcome="healed")
    surfaced = _total(found, "connections_lost_total", alias="default", outcome="surfaced")
    assert (healed, surfaced) == (said["healed"], said["surfaced"]) == (3, 3)
    assert _total(found, "connections_replaced_total") == said["replaced"]


def test_counters_begin_at_zero_and_their_labels_are_bounded() -> None:
    registry = CollectorRegistry()
    unregister = prometheus.register(registry, aliases=["default"])
    text = generate_latest(registry).decode()
    families = list(text_string_to_metric_families(text))
    lost = next(one for one in families if one.name == f"{PREFIX}connections_lost")
    totals = [one for one in lost.samples if one.name.endswith("_total")]
    assert len(totals) == 2 * len(signals.Reason)
    assert {one.value for one in totals} == {0.0}
    unregister()


# -- OpenTelemetry ------------------------------------------------------------------------------


class Exported:
    """An SDK whose exporters keep everything here."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        from django_resilient_pg.metrics import opentelemetry

        self._reader, self._spans = InMemoryMetricReader(), InMemorySpanExporter()
        self.meters, tracers = MeterProvider([self._reader]), TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracer = tracers.get_tracer("of the test")
        self._stop = opentelemetry.instrument(self.meters)

    def close(self) -> None:
        self._stop()
        self.meters.shutdown()

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, Any]]], int]:
        """How often each was counted or recorded."""
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            (metric.name, frozenset((point.attributes or {}).items())): getattr(
                point, "count", getattr(point, "value", 0)
            )
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    def events(self, span: str) -> list[tuple[str, dict[str, Any]]]:
        """The events on the spans of this name."""
        return [
            (event.name, dict(event.attributes or {}))
            for one in self._spans.get_finished_spans()
            if one.name == span
            for event in one.events
        ]


@pytest.fixture
def exported() -> Iterator[Exported]:
    pytest.importorskip("opentelemetry.sdk")
    with closing(Exported()) as made:
        yield made


NAMES = {
    "connections_lost_total": "resilient_pg.connection.lost",
    "loss_seconds_count": "resilient_pg.loss.duration",
    "idle_before_loss_seconds_count": "resilient_pg.loss.idle",
    "connections_replaced_total": "resilient_pg.connection.replaced",
    "reconnect_seconds_count": "db.client.connection.create_time",
    "connects_retried_total": "resilient_pg.connect.retried",
    "statements_retried_total": "resilient_pg.statement.retried",
    "transactions_retried_total": "resilient_pg.transaction.retried",
    "requests_replayed_total": "resilient_pg.request.replayed",
}
ATTRIBUTES = {
    "alias": "db.client.connection.pool.name",
    "reason": "error.type",
    "method": "http.request.method",
    "outcome": "resilient_pg.outcome",
    "why": "resilient_pg.why",
    "cause": "resilient_pg.cause",
}


def test_an_export_equals_the_ledger_of_a_kill_storm(
    server: Server, make_connection: Connections, exported: Exported, ledger: Ledger
) -> None:
    storm(server, [make_connection().alias for _ in range(2)])
    expected = {
        (
            NAMES[name],
            frozenset(
                {
                    ("db.system.name", "postgresql"),
                    *((ATTRIBUTES[label], value) for label, value in labels),
                }
            ),
        ): count
        for (name, labels), count in ledger.expected().items()
    }
    assert exported.metrics() == expected


def test_the_span_of_a_healed_statement_has_an_event(
    make_connection: Connections, exported: Exported
) -> None:
    connection = make_connection()
    sql = "SELECT 'of a customer'"
    with (
        Outage(connection.alias).during(sql),
        exported.tracer.start_as_current_span("healed"),
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
    events = dict(exported.events("healed"))
    assert list(events) == [
        "resilient_pg.connection.lost",
        "resilient_pg.statement.retried",
    ]
    lost = events["resilient_pg.connection.lost"]
    assert lost["db.client.connection.pool.name"] == connection.alias
    assert lost["resilient_pg.outcome"] == "healed"
    assert lost["resilient_pg.retried_as"] == "statement"
    assert events["resilient_pg.statement.retried"]["resilient_pg.why"] == "read"
    assert not any(
        "customer" in str(value) for event in events.values() for value in event.values()
    )
    assert exported.events("another") == []


def test_the_span_of_a_replayed_request_has_an_event(
    server: Server, project: str, exported: Exported, registry: CollectorRegistry
) -> None:
    runs.clear()
    faults["kill"] = lambda: server.terminate(backend_pid(connections[project]))
    with (
        override_settings(
            ROOT_URLCONF="tests.server.request_views",
            MIDDLEWARE=[OURS],
            ALLOWED_HOSTS=["testserver"],
            REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
        ),
        exported.tracer.start_as_current_span("request"),
    ):
        assert Client().get("/reading/", {"token": "a secret"}).status_code == 200
    events = exported.events("request")
    names = [name for name, _ in events]
    assert names == ["resilient_pg.connection.lost", "resilient_pg.request.replayed"]
    assert events[0][1]["resilient_pg.retried_as"] == "request"
    assert events[1][1] == {
        "http.request.method": "GET",
        "url.path": "/reading/",
        "resilient_pg.attempt": 1,
    }
    assert _total(scraped(registry), "requests_replayed_total", method="GET") == 1
