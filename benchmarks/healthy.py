"""What the engine costs where nothing is wrong, paired with the stock engine in one process.

Run: ``make benchmark`` or ``python -m benchmarks.healthy``. Prints one table and exits with status
1 if a median ratio is above its bound (given in brackets). Both engines talk to the same embedded
server over TLS on loopback; the two sides of a pair take turns in going first.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

PAIRS = 41
ENGINES = ("django.db.backends.postgresql", "django_resilient_pg")
#: name -> highest ratio allowed (resilient : stock).
BOUNDS = {"query": 1.02, "orm query": 1.02, "transaction": 1.03, "request": 0.85}
IMPORT_BOUND = 0.015
IMPORT = """
import time, django.db.backends.postgresql.base
began = time.perf_counter()
import {}
print(time.perf_counter() - began)
"""


def pin() -> None:
    """Keep this process and the server it starts on one core, where the system can.

    On several, whether a backend sits beside its client is chance that lasts for a whole run: two
    connections of the same engine were seen to differ by 20 % (measured, psycopg2).
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def configure(server: Any) -> None:
    """Set Django up with one alias per engine."""
    import django
    from django.conf import settings

    databases = {
        name: server.database(engine=engine, CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
        for name, engine in zip(("default", "resilient"), ENGINES, strict=True)
    }
    settings.configure(
        DATABASES=databases,
        INSTALLED_APPS=["django.contrib.contenttypes"],
        USE_TZ=True,
        SECRET_KEY="benchmark",
    )
    django.setup()


def query(connection: Any) -> None:
    """One raw statement on a cursor of its own."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchall()


def orm_query(connection: Any) -> None:
    """A small SELECT through the ORM."""
    from django.contrib.contenttypes.models import ContentType

    list(ContentType.objects.using(connection.alias).filter(app_label="x")[:5])


def transaction(connection: Any) -> None:
    """atomic() with two statements."""
    from django.db.transaction import atomic

    with atomic(using=connection.alias):
        query(connection)
        query(connection)


def request(connection: Any) -> None:
    """What a request does with CONN_HEALTH_CHECKS: a health check, then one query."""
    connection.close_if_unusable_or_obsolete()
    query(connection)


def measure(
    job: Callable[[Any], None],
    loops: int,
    aliases: tuple[str, str] = ("default", "resilient"),
) -> tuple[float, float, float]:
    """Medians of stock and resilient (or other aliases) in us, and of the pairs' ratios."""
    from django.db import connections

    pair = [connections[alias] for alias in aliases]
    for connection in pair:
        for _ in range(loops):
            job(connection)
    times: list[tuple[float, float]] = []
    for number in range(PAIRS):
        took = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            began = perf_counter()
            for _ in range(loops):
                job(pair[side])
            took[side] = (perf_counter() - began) / loops
        times.append((took[0], took[1]))
    ratio = statistics.median(resilient / stock for stock, resilient in times)
    stock, resilient = (statistics.median(side) * 1e6 for side in zip(*times, strict=True))
    return stock, resilient, ratio


def import_seconds() -> float:
    """Median seconds that importing the engine takes beyond importing the stock one."""
    command = [sys.executable, "-c", IMPORT.format("django_resilient_pg.base")]
    runs = [subprocess.run(command, capture_output=True, check=True, text=True) for _ in range(15)]
    return statistics.median(float(run.stdout) for run in runs)


def main() -> int:
    """Print the table; 1 if a bound was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--loops", type=int, default=300, help="statements per side of a pair")
    arguments = parser.parse_args()
    from testproject.postgres import Server

    missed, figures = [], {}
    pin()
    with Server() as server:
        configure(server)
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        gc.disable()
        jobs = {
            "query": query,
            "orm query": orm_query,
            "transaction": transaction,
            "request": request,
        }
        for name, job in jobs.items():
            stock, resilient, ratio = measure(job, arguments.loops)
            figures[name] = {"stock_us": stock, "resilient_us": resilient, "ratio": ratio}
            if ratio > BOUNDS[name]:
                missed.append(name)
    imported = import_seconds()
    figures["import"] = {"extra_ms": imported * 1000}
    if imported > IMPORT_BOUND:
        missed.append("import")
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print(f"{'':14}{'stock':>10}{'resilient':>12}{'ratio':>8}   bound")
        for name, bound in BOUNDS.items():
            row = figures[name]
            print(
                f"{name:14}{row['stock_us']:>7.1f} us{row['resilient_us']:>9.1f} us"
                f"{row['ratio']:>8.3f}   {bound}"
            )
        print(f"importing the engine takes {imported * 1000:.1f} ms more than the stock one")
    for name in missed:
        print(f"{name}: above its bound", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
