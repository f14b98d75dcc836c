"""A process whose connections die, with the metrics of Prometheus on; prints its own counts."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import django
from django.conf import settings
from django.db import Error, connection, transaction


def end_own_session() -> None:
    """As its own role may."""
    pid = connection.connection.info.backend_pid
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    other.close()


def work(times: int) -> None:
    """Half of the losses are healed, half surface."""
    for _ in range(times):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            end_own_session()
            cursor.execute("SELECT 1")
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                end_own_session()
                cursor.execute("SELECT 1")
        except Error:
            continue
        raise AssertionError("a transaction has survived its session")


def counts() -> dict[str, Any]:
    """What the engine has counted by itself."""
    stats = connection.resilience.stats  # type: ignore[attr-defined]
    names = ("healed", "surfaced", "replaced", "connect_retries")
    return {name: getattr(stats, name) for name in names}


if __name__ == "__main__":
    settings.configure(
        DATABASES={"default": json.loads(os.environ["METERED_DATABASE"])},
        INSTALLED_APPS=["django_resilient_pg.metrics.prometheus.PrometheusConfig"],
    )
    django.setup()
    work(int(sys.argv[1]))
    sys.stdout.write(json.dumps(counts()))
