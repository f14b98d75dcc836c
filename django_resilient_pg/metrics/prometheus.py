"""Metrics for Prometheus, by its own client; its multiprocess mode needs nothing more.

One line in settings.py switches them on, in the client's default registry::

    INSTALLED_APPS += ["django_resilient_pg.metrics.prometheus.PrometheusConfig"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from django.apps import AppConfig
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from ..state.aliases import ours
from .measures import MEASURES, Measure, feed, series

_PREFIX: Final = "django_resilient_pg"


class PrometheusConfig(AppConfig):
    """Counts from the moment when Django is ready."""

    name = "django_resilient_pg.metrics.prometheus"
    label = "resilient_pg_prometheus"
    verbose_name = "Metrics of PostgreSQL connections (Prometheus)"

    def ready(self) -> None:
        """Register the metrics, at zero for each alias with this engine."""
        register(aliases=[wrapper.alias for wrapper in ours()])


def register(
    registry: CollectorRegistry = REGISTRY, *, aliases: Iterable[str] = ()
) -> Callable[[], None]:
    """Register the metrics and feed them from now on.

    Args:
        registry: where they are scraped.
        aliases: whose counters begin at zero. Otherwise a counter appears with its first event,
            which ``increase()`` then does not see.

    Returns:
        What stops that.
    """
    made = {measure.name: _made(measure, registry) for measure in MEASURES}
    known = list(aliases)
    for measure in MEASURES:
        for labels in series(measure, known) if measure.seconds is None else ():
            made[measure.name].labels(**labels)

    def take(measure: Measure, record: Any) -> None:
        labelled = made[measure.name].labels(**measure.labels(record))
        if measure.seconds is None:
            labelled.inc()
        else:
            labelled.observe(measure.seconds(record))

    stop = feed(take)

    def unregister() -> None:
        stop()
        for metric in made.values():
            registry.unregister(metric)

    return unregister


def _made(measure: Measure, registry: CollectorRegistry) -> Any:
    name = f"{_PREFIX}_{measure.name}"
    if measure.seconds is None:
        return Counter(name, measure.text, list(measure.values), registry=registry)
    return Histogram(
        f"{name}_seconds",
        measure.text,
        list(measure.values),
        registry=registry,
        buckets=measure.buckets,
    )
