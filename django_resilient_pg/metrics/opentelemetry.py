"""Metrics and span events for OpenTelemetry, by its API: the application brings the SDK.

One line in settings.py switches them on, with the global providers::

    INSTALLED_APPS += ["django_resilient_pg.metrics.opentelemetry.OpenTelemetryConfig"]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.apps import AppConfig
from opentelemetry import metrics, trace

from .. import __version__
from .measures import MEASURES, Measure, feed

_SCOPE: Final = "django_resilient_pg"
_PREFIX: Final = "resilient_pg"
#: The names of the semantic conventions, where they have one.
ATTRIBUTES: Final = {
    "alias": "db.client.connection.pool.name",
    "reason": "error.type",
    "method": "http.request.method",
    "outcome": f"{_PREFIX}.outcome",
    "why": f"{_PREFIX}.why",
    "cause": f"{_PREFIX}.cause",
}
# The replacement is part of a loss; attempts to connect have no end that a reader looks for.
EVENTS: Final = frozenset(
    f"{_PREFIX}.{name}"
    for name in ("connection.lost", "statement.retried", "transaction.retried", "request.replayed")
)


class OpenTelemetryConfig(AppConfig):
    """Measures from the moment when Django is ready."""

    name = "django_resilient_pg.metrics.opentelemetry"
    label = "resilient_pg_opentelemetry"
    verbose_name = "Metrics of PostgreSQL connections (OpenTelemetry)"

    def ready(self) -> None:
        """Create the instruments."""
        instrument()


def instrument(provider: metrics.MeterProvider | None = None) -> Callable[[], None]:
    """Create the instruments and feed them from now on; add events to the current spans.

    Args:
        provider: of meters; ``None``: the global one, also if it is set later.

    Returns:
        What stops that.
    """
    meter = metrics.get_meter(_SCOPE, __version__, meter_provider=provider)
    record_in = {measure.event: _instrument(measure, meter) for measure in MEASURES}

    def take(measure: Measure, record: Any) -> None:
        attributes = _attributes(measure, record)
        record_in[measure.event](record, attributes)
        span = trace.get_current_span()
        if measure.event in EVENTS and span.is_recording():
            span.add_event(measure.event, {**attributes, **_details(record)})

    return feed(take)


def _instrument(measure: Measure, meter: metrics.Meter) -> Callable[[Any, dict[str, str]], None]:
    """What takes a record and its attributes."""
    seconds = measure.seconds
    if seconds is None:
        counter = meter.create_counter(measure.event, measure.unit, measure.text)
        return lambda record, attributes: counter.add(1, attributes)
    histogram = meter.create_histogram(
        measure.event,
        measure.unit,
        measure.text,
        explicit_bucket_boundaries_advisory=measure.buckets,
    )
    return lambda record, attributes: histogram.record(seconds(record), attributes)


def _attributes(measure: Measure, record: Any) -> dict[str, str]:
    found = {ATTRIBUTES[name]: value for name, value in measure.labels(record).items()}
    if "alias" in measure.values:
        found["db.system.name"] = "postgresql"
    return found


def _details(record: Any) -> dict[str, str | float | int]:
    """What a span may say and a metric must not, for it has too many values."""
    details = {
        "db.response.status_code": getattr(record, "sqlstate", None),
        "url.path": getattr(record, "path", None),
        f"{_PREFIX}.attempt": getattr(record, "attempt", None),
        f"{_PREFIX}.idle": getattr(record, "idle", None),
        f"{_PREFIX}.noticed": getattr(record, "noticed", None),
        f"{_PREFIX}.retried_as": getattr(record, "retried_as", None),
        f"{_PREFIX}.took": getattr(record, "took", None),
    }
    return {name: value for name, value in details.items() if value is not None}
